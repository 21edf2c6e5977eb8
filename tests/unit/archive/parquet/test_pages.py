import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.parquet.footer import ColumnChunk, row_groups
from digitsum.archive.parquet.pages import read_pages, rows_begun

NUM_ROWS, BYTES_PER_ROW = 2000, 100


class CountedFile:
    """A file in memory that counts how often it is read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.num_reads = 0

    def read_at(self, size: int, offset: int) -> bytes:
        assert size > 0
        self.num_reads += 1
        return self._content[offset : offset + size]


def write(images: pa.Array, **options) -> tuple[bytes, ColumnChunk]:
    """Return a file of one column chunk, and the chunk as the footer describes it."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": images}), sink, **options)
    [group] = row_groups(pq.read_metadata(io.BytesIO(sink.getvalue())), "here")
    return sink.getvalue(), group.columns[0]


@pytest.fixture(scope="module")
def shard() -> tuple[bytes, ColumnChunk]:
    rows = [i.to_bytes(4, "little") * (BYTES_PER_ROW // 4) for i in range(NUM_ROWS)]
    plain = {"use_dictionary": False, "compression": "none"}
    images = pa.array(rows, pa.binary(BYTES_PER_ROW))
    return write(images, data_page_size=4096, write_batch_size=16, **plain)


@given(ahead=st.integers(1, 300_000))
def test_headers_same_for_any_ahead(shard, ahead):
    content, chunk = shard
    pages = list(read_pages(CountedFile(content), chunk, ahead))
    assert pages == list(read_pages(CountedFile(content), chunk))
    assert sum(page.num_values for page in pages) == NUM_ROWS
    assert len(pages) > 10


def test_headers_ahead_take_one_read(shard):
    content, chunk = shard
    each, whole = CountedFile(content), CountedFile(content)
    pages = list(read_pages(each, chunk))
    assert list(read_pages(whole, chunk, 2**20)) == pages
    assert each.num_reads == len(pages)
    assert whole.num_reads == 1


def test_headers_with_large_statistics():
    values = [bytes([number]) * 3000 for number in range(8)]
    one_each = {"data_page_size": 1, "write_batch_size": 1, "use_dictionary": False}
    content, chunk = write(pa.array(values, pa.binary()), compression="none", **one_each)
    for ahead in (0, 2000, 2**20):
        pages = list(read_pages(CountedFile(content), chunk, ahead))
        assert [page.num_values for page in pages] == [1] * 8
        assert pages[0].offset - chunk.first_page > 2 * 1024  # more than is read at first
        for page, value in zip(pages, values, strict=True):
            assert content[: page.offset + page.uncompressed_bytes].endswith(value)


@pytest.mark.parametrize("ahead", [1024, 2**20])
def test_headers_of_cut_chunk(ahead, shard):
    content, chunk = shard
    with pytest.raises(ValueError, match="does not end"):
        list(read_pages(CountedFile(content[: chunk.first_page + 2]), chunk, ahead))


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_rows_begun_in_lists(codec, version):
    rng = np.random.default_rng(0)
    lists = [rng.integers(256, size=n, dtype=np.uint8) for n in rng.integers(0, 400, 500)]
    images = pa.array(lists, pa.list_(pa.uint8()))
    options = {"compression": codec, "data_page_version": version, "data_page_size": 4096}
    content, chunk = write(images, **options)
    file = CountedFile(content)
    pages = [page for page in read_pages(file, chunk) if not page.is_dictionary]
    assert len(pages) > 5
    assert sum(rows_begun(file, page) for page in pages) == 500
