"""Page headers are the same however much of a file is read at once."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.parquet.footer import row_groups
from digitsum.archive.parquet.pages import read_page_headers

_ROWS, _BYTES_A_ROW, _PAGE_BYTES = 2000, 100, 4096


class CountedFile:
    """A file in memory that counts how often it is read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.num_reads = 0

    def read_at(self, size: int, offset: int) -> bytes:
        assert size > 0
        self.num_reads += 1
        return self._content[offset : offset + size]


@pytest.fixture(scope="module")
def shard() -> tuple[bytes, tuple[int, int, int]]:
    """A file of one column chunk in many pages; where the chunk begins, its bytes, its values."""
    rows = [i.to_bytes(4, "little") * (_BYTES_A_ROW // 4) for i in range(_ROWS)]
    table = pa.table({"image": pa.array(rows, pa.binary(_BYTES_A_ROW))})
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        data_page_size=_PAGE_BYTES,
        use_dictionary=False,
        compression="none",
        write_batch_size=16,
    )
    content = sink.getvalue()
    [group] = row_groups(pq.ParquetFile(io.BytesIO(content)).metadata, "here")
    [column] = group.columns
    return content, (column.first_page, column.compressed_bytes, column.num_values)


@given(ahead=st.integers(1, 300_000))
def test_headers_are_the_same_however_much_is_read_at_once(shard, ahead):
    content, chunk = shard
    pages = list(read_page_headers(CountedFile(content), *chunk, ahead=ahead))
    assert pages == list(read_page_headers(CountedFile(content), *chunk))
    assert sum(page.num_values for page in pages) == _ROWS
    assert len(pages) > 10


def test_headers_that_hold_great_values_are_read_to_their_end():
    """Statistics make a header of some KB, more than is read of it at first."""
    values = [bytes([number]) * 3000 for number in range(8)]
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"image": pa.array(values, pa.binary())}),
        sink,
        compression="none",
        use_dictionary=False,
        data_page_size=1,
        write_batch_size=1,
    )
    content = sink.getvalue()
    [group] = row_groups(pq.ParquetFile(io.BytesIO(content)).metadata, "here")
    [column] = group.columns
    chunk = column.first_page, column.compressed_bytes, column.num_values
    for ahead in (0, 2000, 2**20):
        pages = list(read_page_headers(CountedFile(content), *chunk, ahead=ahead))
        assert [page.num_values for page in pages] == [1] * 8
        assert pages[0].offset - column.first_page > 2 * 1024
        for page, value in zip(pages, values, strict=True):
            assert content[: page.offset + page.uncompressed_bytes].endswith(value)


def test_a_column_chunk_that_is_read_ahead_takes_one_read(shard):
    content, chunk = shard
    each, whole = CountedFile(content), CountedFile(content)
    pages = list(read_page_headers(each, *chunk))
    list(read_page_headers(whole, *chunk, ahead=2**20))
    assert each.num_reads == len(pages)
    assert whole.num_reads == 1


def test_a_chunk_that_ends_early_has_no_header_however_much_is_read_at_once(shard):
    content, (start, size, num_values) = shard
    for ahead in (1024, 2**20):
        with pytest.raises(ValueError, match="does not end"):
            list(
                read_page_headers(
                    CountedFile(content[: start + 2]), start, size, num_values, ahead=ahead
                )
            )
