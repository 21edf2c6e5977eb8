import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digitsum.archive.parquet.footer import row_groups
from digitsum.archive.parquet.levels import rows_begun
from digitsum.archive.parquet.pages import read_page_headers


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_the_rows_of_pages_of_lists_are_counted_whatever_their_codec(codec, version, tmp_path):
    rng = np.random.default_rng(0)
    lists = [rng.integers(256, size=n, dtype=np.uint8) for n in rng.integers(0, 400, 500)]
    table = pa.table({"image": pa.array(lists, pa.list_(pa.uint8()))})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression=codec, data_page_version=version, data_page_size=4096)
    [column] = row_groups(pq.read_metadata(path), "a.parquet")[0].columns
    with pa.OSFile(str(path)) as file:
        pages = read_page_headers(
            file, column.first_page, column.compressed_bytes, column.num_values
        )
        rows = [rows_begun(file, page, column.codec) for page in pages if not page.is_dictionary]
    assert len(rows) > 5
    assert sum(rows) == 500
