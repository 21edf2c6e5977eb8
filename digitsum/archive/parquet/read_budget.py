"""Read plans: how many rows of a chunk fit in memory, found out before anything is decoded.

Pages may expand a thousandfold, one value of a dictionary may stand in a million rows, and a list
of a billion elements takes a few bytes. So the headers of all pages are walked first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from digitsum.archive.parquet.footer import ColumnChunk, RowGroup
from digitsum.archive.parquet.pages import PageHeader, read_pages, rows_begun
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

    Raises InputError, naming the file, if a single row needs more than the budget, ValueError if
    the pages' headers cannot be read, and OSError.
    """
    limit, batch_rows = budget.max_bytes, budget.batch_rows
    prefixes = tuple(f"{column}." for column in columns)
    chosen = [n for n in range(len(schema)) if f"{schema.column(n).path}.".startswith(prefixes)]
    compressed = sum(group.columns[leaf].compressed_bytes for group in groups for leaf in chosen)
    is_streamed = compressed > limit // 4
    # Requests to an object store are slow, and those of a column chunk follow one another. But of
    # chunks that claim to be large, only the headers are fetched.
    ahead = 0 if location.is_local or is_streamed else _AHEAD_BYTES
    with (
        location.filesystem.open_input_file(location.path) as file,
        ThreadPoolExecutor(_HEADER_THREADS) as threads,
    ):

        def list_pages(chunk: ColumnChunk) -> list[PageHeader]:
            return list(read_pages(file, chunk, ahead))

        pages = [threads.map(list_pages, [g.columns[leaf] for g in groups]) for leaf in chosen]
        leaves = [
            _Leaf(schema.column(leaf), list(chain.from_iterable(of_leaf)), file, budget)
            for leaf, of_leaf in zip(chosen, pages, strict=True)
        ]
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


class _Leaf:
    """A leaf column of some row groups, as the headers of its pages describe it."""

    def __init__(
        self, schema: pq.ColumnSchema, pages: list[PageHeader], file: Any, budget: ReadBudget
    ) -> None:
        self.path = schema.path
        self._is_list = schema.max_repetition_level > 0
        sizes = _NUM_BYTES | {"FIXED_LEN_BYTE_ARRAY": schema.length}
        self._value_bytes: int | None = None if self._is_list else sizes.get(schema.physical_type)
        """Bytes of each value, if the type fixes them; None for lists."""
        self._pages, self._file = pages, file
        dictionaries = (page.uncompressed_bytes for page in pages if page.is_dictionary)
        self._dictionary_bytes = max(dictionaries, default=0)
        is_plain = self._value_bytes is None and not self._is_list and "." not in self.path
        # Its values, copied to each row, may be too large.
        self.is_read_as_dictionary = (
            is_plain and budget.batch_rows * self._dictionary_bytes > budget.max_bytes // 4
        )
        self._row_ends: npt.NDArray[np.int64] | None = None
        """Number of rows that begin up to the end of each page; None if unknown."""
        if not self._is_list:
            self._row_ends = self._count_rows(lambda page: page.num_values)
        elif all(page.num_rows is not None for page in pages if not page.is_dictionary):
            self._row_ends = self._count_rows(lambda page: page.num_rows or 0)

    def _count_rows(self, num_rows: Callable[[PageHeader], int]) -> npt.NDArray[np.int64]:
        rows = [0 if page.is_dictionary else num_rows(page) for page in self._pages]
        return np.cumsum(rows, dtype=np.int64)

    def max_bytes(self, batch_rows: int, limit: int) -> int:
        """Return the bytes that any `batch_rows` consecutive rows may need.

        Only if all pages together are over `limit`, pages of lists are decompressed, to count rows.
        """
        if not self._pages:
            return 0
        largest = max(page.uncompressed_bytes for page in self._pages)
        fixed = largest + _COPIES * self._dictionary_bytes
        if self._value_bytes is not None:
            return fixed + batch_rows * self._value_bytes
        costs = np.array([self._cost(page) for page in self._pages], np.int64)
        if self._row_ends is None and fixed + int(costs.sum()) > limit and largest <= limit:
            self._row_ends = self._count_rows(partial(rows_begun, self._file))
        if not self._is_list and not self.is_read_as_dictionary:
            fixed += batch_rows * self._dictionary_bytes
        return fixed + self._max_cost(costs, batch_rows)

    def _cost(self, page: PageHeader) -> int:
        if page.is_dictionary:
            return page.uncompressed_bytes
        if self._is_list:
            return page.num_values * _BYTES_PER_LIST_VALUE
        return page.uncompressed_bytes * _COPIES

    def _max_cost(self, costs: npt.NDArray[np.int64], batch_rows: int) -> int:
        """Return the largest cost of the pages that any `batch_rows` consecutive rows touch."""
        before = np.concatenate([[0], np.cumsum(costs)])
        if self._row_ends is None:
            return int(before[-1])
        starts = np.concatenate([[0], self._row_ends[:-1]])
        if self._is_list:
            # The row that began last may continue in the page.
            starts = np.maximum(starts - 1, 0)
        # The last page that a batch can reach whose first row is the last row of each page.
        last_rows = np.maximum(self._row_ends - 1, 0)
        reached = np.searchsorted(starts, last_rows + batch_rows, side="left")
        first = np.arange(len(costs))
        return int((before[np.maximum(reached, first + 1)] - before[:-1]).max())
