"""Read plans: how many rows of a chunk fit in memory, found out before anything is decoded.

Pages may expand a thousandfold, one value of a dictionary may stand in a million rows, and a list
of a billion elements takes a few bytes: a shard of some KB may need more than all memory. So the
headers of all pages are walked first; the rows that may be decoded at a time follow from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from digitsum.archive.parquet.footer import ColumnChunk, RowGroup
from digitsum.archive.parquet.pages import PageHeader, read_page_headers, rows_begun
from digitsum.errors import InputError
from digitsum.storage.location import Location

# Levels (int16), the values as Parquet decodes them (int32) and as Arrow keeps them, each twice
# while its buffer grows: measured 14 bytes.
_BYTES_PER_LIST_VALUE = 16
_COPIES = 2
_NUM_BATCHES = 2
_HEADER_THREADS = 16
_AHEAD_BYTES = 8 * 2**20
"""Object stores send some MB as quickly as a few bytes."""
_NUM_BYTES = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


@dataclass(frozen=True)
class ReadBudget:
    """Bounds of a read."""

    batch_rows: int
    """Largest number of rows at a time."""
    bytes_per_row: int
    """Bytes that the caller makes of each row: its pixels."""
    max_bytes: int
    """Memory for two batches: one is scored while the next is read."""


@dataclass(frozen=True)
class ReadPlan:
    """A way to read a chunk that fits in memory."""

    batch_rows: int
    """Number of rows to decode at a time."""
    is_streamed: bool
    """True if the bytes are so many that they must be fetched as they are needed."""
    as_dictionary: tuple[str, ...]
    """Columns to decode as Arrow dictionaries, so that no large value is copied to each row."""


def plan_read(
    schema: pq.ParquetSchema,
    groups: Sequence[RowGroup],
    location: Location,
    columns: Sequence[str],
    budget: ReadBudget,
) -> ReadPlan:
    """Return how to read columns of row groups within the budget.

    If the file is not local and not streamed, column chunks are fetched whole, in few requests, to
    find their pages' headers. Raises InputError, naming the file, if a single row needs more than
    the budget, ValueError if the pages' headers cannot be read, and OSError.
    """
    limit, batch_rows = budget.max_bytes, budget.batch_rows
    chosen = [n for n in range(len(schema)) if _is_in(schema.column(n).path, columns)]
    compressed = sum(group.columns[leaf].compressed_bytes for group in groups for leaf in chosen)
    is_streamed = compressed > limit // 4
    # Requests to an object store are slow, and those of a column chunk follow one another. But of
    # chunks that claim to be large, only the headers are fetched.
    ahead = 0 if location.is_local or is_streamed else _AHEAD_BYTES
    with (
        location.filesystem.open_input_file(location.path) as file,
        ThreadPoolExecutor(_HEADER_THREADS) as threads,
    ):
        chunks = [[group.columns[leaf] for group in groups] for leaf in chosen]
        headers = [threads.map(partial(_headers, file, ahead), of_leaf) for of_leaf in chunks]
        leaves = [
            _Leaf.of(schema.column(leaf), of_leaf, list(pages), file)
            for leaf, of_leaf, pages in zip(chosen, chunks, headers, strict=True)
        ]
        for leaf in leaves:
            leaf.choose_dictionary(batch_rows, limit)
        rows, share = batch_rows, limit // _NUM_BATCHES
        while (
            needed := rows * budget.bytes_per_row
            + sum(leaf.max_bytes(rows, share) for leaf in leaves)
        ) > share:
            if rows == 1:
                worst = max(leaves, key=lambda leaf: leaf.max_bytes(1, share))
                needed_mb = _NUM_BATCHES * needed // 2**20
                raise InputError(
                    f"{location.uri}: column {worst.path!r} may take {needed_mb:,} MB of memory at "
                    f"a single row, more than the {limit // 2**20:,} MB of --max-read-mb; write "
                    "smaller pages and dictionaries, or raise the option."
                )
            rows = max(1, rows // 2)
    as_dictionary = tuple(leaf.path for leaf in leaves if leaf.is_read_as_dictionary)
    return ReadPlan(rows, is_streamed, as_dictionary)


@dataclass
class _Leaf:
    """A leaf column of some row groups, as the headers of its pages describe it."""

    path: str
    value_bytes: int | None
    """Bytes of each value, if its type fixes them."""
    is_list: bool
    pages: list[PageHeader]
    codecs: list[str]
    """Codec of each page."""
    file: Any
    is_read_as_dictionary: bool = False
    row_ends: npt.NDArray[np.int64] | None = None
    """Number of rows that begin up to the end of each page; None if unknown."""

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
        sizes = _NUM_BYTES | {"FIXED_LEN_BYTE_ARRAY": schema.length}
        is_list = schema.max_repetition_level > 0
        leaf = _Leaf(schema.path, sizes.get(schema.physical_type), is_list, pages, codecs, file)
        data_pages = [page for page in pages if not page.is_dictionary]
        if not is_list or all(page.num_rows is not None for page in data_pages):
            leaf.row_ends = leaf._accumulate(
                lambda page, _: (page.num_rows or 0) if is_list else page.num_values
            )
        return leaf

    def _accumulate(self, num_rows: Callable[[PageHeader, str], int]) -> npt.NDArray[np.int64]:
        rows = [
            0 if page.is_dictionary else num_rows(page, codec)
            for page, codec in zip(self.pages, self.codecs, strict=True)
        ]
        return np.cumsum(rows, dtype=np.int64)

    def choose_dictionary(self, batch_rows: int, limit: int) -> None:
        """Read it as an Arrow dictionary if its values, copied to each row, may be too large."""
        is_flat = self.value_bytes is None and not self.is_list and "." not in self.path
        self.is_read_as_dictionary = is_flat and batch_rows * self._dictionary_bytes > limit // 4

    @property
    def _dictionary_bytes(self) -> int:
        sizes = (page.uncompressed_bytes for page in self.pages if page.is_dictionary)
        return max(sizes, default=0)

    def max_bytes(self, batch_rows: int, limit: int) -> int:
        """Return the bytes that any `batch_rows` consecutive rows may need.

        Only if all pages together are over `limit`, pages of lists are decompressed, to count rows.
        """
        if not self.pages:
            return 0
        page = max(page.uncompressed_bytes for page in self.pages)
        dictionary = self._dictionary_bytes
        fixed = page + _COPIES * dictionary
        if self.value_bytes is not None and not self.is_list:
            return fixed + batch_rows * self.value_bytes
        costs = np.array([self._cost(page) for page in self.pages], np.int64)
        if self.row_ends is None and fixed + int(costs.sum()) > limit and page <= limit:
            self.row_ends = self._accumulate(partial(rows_begun, self.file))
        is_copied = self.value_bytes is None and not self.is_list and not self.is_read_as_dictionary
        return fixed + is_copied * batch_rows * dictionary + self._max_cost(costs, batch_rows)

    def _cost(self, page: PageHeader) -> int:
        if page.is_dictionary:
            return page.uncompressed_bytes
        if self.is_list:
            return page.num_values * _BYTES_PER_LIST_VALUE
        return page.uncompressed_bytes * _COPIES

    def _max_cost(self, costs: npt.NDArray[np.int64], batch_rows: int) -> int:
        """Return the largest cost of the pages that any `batch_rows` consecutive rows touch."""
        before = np.concatenate([[0], np.cumsum(costs)])
        if self.row_ends is None:
            return int(before[-1])
        starts = np.concatenate([[0], self.row_ends[:-1]])
        if self.is_list:
            # The row that began last may continue in the page.
            starts = np.maximum(starts - 1, 0)
        # The last page that a batch can reach whose first row is the last row of each page.
        last_rows = np.maximum(self.row_ends - 1, 0)
        reached = np.searchsorted(starts, last_rows + batch_rows, side="left")
        first = np.arange(len(costs))
        return int((before[np.maximum(reached, first + 1)] - before[:-1]).max())


def _headers(file: Any, ahead: int, chunk: ColumnChunk) -> list[PageHeader]:
    size, num_values = chunk.compressed_bytes, chunk.num_values
    return list(read_page_headers(file, chunk.first_page, size, num_values, ahead=ahead))


def _is_in(path: str, columns: Sequence[str]) -> bool:
    return any(path == column or path.startswith(f"{column}.") for column in columns)
