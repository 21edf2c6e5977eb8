"""How many images of each sum a place holds, and that as a line of bars."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import pyarrow as pa

from digitsum.archive.shards import open_parquet
from digitsum.errors import InputError
from digitsum.storage.location import Location

_BARS = " ▁▂▃▄▅▆▇█"
_GREATEST_SUM = 10_000


def histogram(counts: Sequence[int]) -> str:
    """Return counts as a line of bars, between the first number that occurs and the last."""
    some = np.flatnonzero(counts)
    first, last = int(some[0]), int(some[-1])
    most = max(counts)
    tallest = len(_BARS) - 1
    levels = [max(bool(n), round(tallest * n / most)) for n in counts[first : last + 1]]
    return f"{first} {''.join(_BARS[level] for level in levels)} {last}"


class SumCounts:
    """Images by their sum, counted file by file."""

    def __init__(self) -> None:
        self.counts: tuple[int, ...] = ()
        self.num_rows = self.num_null = 0

    def count(self, location: Location, column: str) -> None:
        """Count a column of a file; raises InputError where it holds no sums."""
        with open_parquet(location) as parquet:
            if column not in parquet.schema_arrow.names:
                raise InputError(f"{location.uri}: has no column {column!r}; name the sums.")
            kind = parquet.schema_arrow.field(column).type
            if not pa.types.is_integer(kind):
                raise InputError(
                    f"{location.uri}: column {column!r} is of type {kind}, but sums are integers; "
                    "correct --label-column."
                )
            for batch in parquet.iter_batches(columns=[column]):
                self._add(batch.column(0), location, column)

    def _add(self, values: pa.Array, location: Location, column: str) -> None:
        known = values.drop_null().cast(pa.int64()).to_numpy()
        if len(known) and not 0 <= known.min() <= known.max() <= _GREATEST_SUM:
            raise InputError(
                f"{location.uri}: column {column!r} holds {known.min()} to {known.max()}, which "
                "are no sums of digits; correct --label-column."
            )
        self.num_rows += len(values)
        self.num_null += values.null_count
        found = np.bincount(known).tolist()
        added = zip_longest(self.counts, found, fillvalue=0)
        self.counts = tuple(one + other for one, other in added)
