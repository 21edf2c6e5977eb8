"""What reading a chunk of a shard may take in memory, found out before anything is decoded.

Pages compress a thousandfold, a dictionary's one value may be said a million times, and a list may
go on for a billion elements that take a few bytes: a shard of some KB may want all memory there is.
So the pages' headers are walked first, and from them follows how many rows may be read at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from digitsum.archive.parquet.footer import ColumnChunk, RowGroup
from digitsum.archive.parquet.levels import rows_begun
from digitsum.archive.parquet.pages import PageHeader, read_page_headers
from digitsum.errors import InputError

MIN_ROWS = 1
# Levels (int16), the values as Parquet decodes them (int32) and as they are kept, each twice while
# the memory for them grows: measured 14 bytes.
_BYTES_A_LIST_VALUE = 16
_COPIES = 2
_BATCHES_HELD = 2
"""One is scored while the next one is read."""
_HEADER_THREADS = 16
_AHEAD = 8 * 2**20
"""Object stores send some MB as soon as a few bytes."""

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReadPlan:
    """How a chunk is read."""

    batch_rows: int
    """Rows to read at a time."""
    streamed: bool
    """Whether its bytes are many, and are to be fetched as they are needed."""
    as_dictionary: tuple[str, ...]
    """Columns to be read as Arrow dictionaries: else a great value is copied to each row."""


def plan_read(
    schema: pq.ParquetSchema,
    groups: Sequence[RowGroup],
    file: Any,
    columns: Sequence[str],
    batch_rows: int,
    bytes_a_row: int,
    limit: int,
    *,
    is_local: bool,
) -> ReadPlan:
    """Return how to read columns of row groups within `limit` bytes, at most `batch_rows` a time.

    `bytes_a_row` is what is made of each row besides: its pixels. Of a file that is not local, what
    is not streamed is fetched in few pieces, whole, to find its pages' headers. Raises InputError
    where even a single row would take more, ValueError where the pages' headers cannot be read, and
    OSError.
    """
    chosen = [n for n in range(len(schema)) if _is_of(schema.column(n).path, columns)]
    compressed = sum(group.columns[leaf].compressed_bytes for group in groups for leaf in chosen)
    is_streamed = compressed > limit // 4
    # Requests to an object store take long, and those of a column chunk follow one another. But
    # sizes are claims: of many chunks that claim to be great, only headers are fetched.
    ahead = 0 if is_local or is_streamed else _AHEAD
    with ThreadPoolExecutor(_HEADER_THREADS) as threads:
        chunks = [[group.columns[leaf] for group in groups] for leaf in chosen]
        headers = [threads.map(partial(_headers, file, ahead), of_leaf) for of_leaf in chunks]
        leaves = [
            _Leaf.of(schema.column(leaf), of_leaf, list(read), file)
            for leaf, of_leaf, read in zip(chosen, chunks, headers, strict=True)
        ]
    as_dictionary = tuple(leaf.path for leaf in leaves if leaf.keep_dictionary(batch_rows, limit))
    rows = batch_rows
    share = limit // _BATCHES_HELD
    while (
        taken := rows * bytes_a_row + sum(leaf.bytes_of(rows, share) for leaf in leaves)
    ) > share:
        if rows == MIN_ROWS:
            worst = max(leaves, key=lambda leaf: leaf.bytes_of(rows, share))
            taken *= _BATCHES_HELD
            raise InputError(
                f"column {worst.path!r} may take {taken // 2**20:,} MB of memory at a single row, "
                f"more than the {limit // 2**20:,} MB of --max-read-mb; write smaller pages "
                "and dictionaries, or raise the option."
            )
        rows = max(MIN_ROWS, rows // 2)
    return ReadPlan(rows, is_streamed, as_dictionary)


@dataclass
class _Leaf:
    """A leaf column of some row groups, as the headers of its pages describe it."""

    path: str
    width: int | None
    """Bytes of each value, where its type fixes them."""
    is_list: bool
    pages: list[PageHeader]
    codecs: list[str]
    """Of each page."""
    file: Any
    is_dictionary: bool = False
    """Whether it is read as an Arrow dictionary."""
    ends: Int64Array | None = None
    """Rows that begin up to the end of each page; None where that is not known."""

    @staticmethod
    def of(
        schema: pq.ColumnSchema,
        chunks: Sequence[ColumnChunk],
        headers: Sequence[list[PageHeader]],
        file: Any,
    ) -> _Leaf:
        pages = [page for of_chunk in headers for page in of_chunk]
        codecs = [
            chunk.codec for chunk, of_chunk in zip(chunks, headers, strict=True) for _ in of_chunk
        ]
        widths = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
        widths["FIXED_LEN_BYTE_ARRAY"] = schema.length
        is_list = schema.max_repetition_level > 0
        width = widths.get(schema.physical_type)
        found = _Leaf(schema.path, width, is_list, pages, codecs, file)
        rows = [0 if page.is_dictionary else page.num_values for page in pages]
        if is_list:
            if any(page.num_rows is None and not page.is_dictionary for page in pages):
                return found
            rows = [page.num_rows or 0 for page in pages]
        found.ends = np.cumsum(rows, dtype=np.int64)
        return found

    def keep_dictionary(self, batch_rows: int, limit: int) -> bool:
        """Decide, and return, whether it is to be read as an Arrow dictionary."""
        is_flat = self.width is None and not self.is_list and "." not in self.path
        self.is_dictionary = is_flat and batch_rows * self._dictionary > limit // 4
        return self.is_dictionary

    @property
    def _dictionary(self) -> int:
        return max(
            (page.uncompressed_bytes for page in self.pages if page.is_dictionary), default=0
        )

    def bytes_of(self, batch_rows: int, limit: int) -> int:
        """Return the bytes that any `batch_rows` consecutive rows may take."""
        if not self.pages:
            return 0
        page = max(page.uncompressed_bytes for page in self.pages)
        dictionary = self._dictionary
        held = page + _COPIES * dictionary
        if self.width is not None and not self.is_list:
            return held + batch_rows * self.width
        costs = np.array([self._cost(page) for page in self.pages], np.int64)
        if self.ends is None and held + int(costs.sum()) > limit and page <= limit:
            self.ends = self._counted()
        is_copied = self.width is None and not self.is_list and not self.is_dictionary
        return held + is_copied * batch_rows * dictionary + self._most(costs, batch_rows)

    def _cost(self, page: PageHeader) -> int:
        if page.is_dictionary:
            return page.uncompressed_bytes
        if self.is_list:
            return page.num_values * _BYTES_A_LIST_VALUE
        return page.uncompressed_bytes * _COPIES

    def _most(self, costs: Int64Array, batch_rows: int) -> int:
        """Return the greatest cost of the pages that any `batch_rows` consecutive rows lie in."""
        before = np.concatenate([[0], np.cumsum(costs)])
        if self.ends is None:
            return int(before[-1])
        starts = np.concatenate([[0], self.ends[:-1]])
        if self.is_list:
            # The row that began last may go on into the page.
            starts = np.maximum(starts - 1, 0)
        # The last page that the rows from the last row of each page on can reach.
        reached = np.searchsorted(starts, np.maximum(self.ends - 1, 0) + batch_rows, side="left")
        first = np.arange(len(costs))
        return int((before[np.maximum(reached, first + 1)] - before[:-1]).max())

    def _counted(self) -> Int64Array:
        """Return the rows that begin up to the end of each page, by their repetition levels."""
        rows = [
            0 if page.is_dictionary else rows_begun(self.file, page, codec)
            for page, codec in zip(self.pages, self.codecs, strict=True)
        ]
        return np.cumsum(rows, dtype=np.int64)


def _headers(file: Any, ahead: int, chunk: ColumnChunk) -> list[PageHeader]:
    size, num_values = chunk.compressed_bytes, chunk.num_values
    return list(read_page_headers(file, chunk.first_page, size, num_values, ahead=ahead))


def _is_of(path: str, columns: Sequence[str]) -> bool:
    return any(path == column or path.startswith(f"{column}.") for column in columns)
