"""Parquet files of strangers: opened, and read in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.archive.parquet.footer import row_groups
from digitsum.archive.parquet.read_budget import ReadBudget, plan_read
from digitsum.errors import InputError, one_line
from digitsum.storage.location import Location, storage_error

DAMAGED = (pa.ArrowException, UnicodeDecodeError)
"""Exceptions of pyarrow, besides OSError, if bytes are not those of a Parquet file."""
_STREAM_BYTES = 2**20


def open_parquet(
    location: Location, *, streamed: bool = False, dictionaries: Sequence[str] = ()
) -> pq.ParquetFile:
    """Open a Parquet file; raises InputError, naming it, if it is not one.

    Bytes are fetched ahead, or if `streamed`, as they are needed. The columns `dictionaries` are
    decoded as Arrow dictionaries.
    """
    try:
        file = location.filesystem.open_input_file(location.path)
        return pq.ParquetFile(
            file,
            read_dictionary=list(dictionaries),
            pre_buffer=not streamed,
            buffer_size=_STREAM_BYTES if streamed else 0,
        )
    except OSError as error:
        raise storage_error(f"{location.uri}: cannot be read", error) from error
    except DAMAGED as error:
        raise InputError(
            f"{location.uri}: not a whole Parquet file ({one_line(error)}); replace or remove it."
        ) from error


def read_batches(
    parquet: pq.ParquetFile,
    location: Location,
    groups: Sequence[int],
    columns: Sequence[str],
    budget: ReadBudget,
) -> Iterator[pa.RecordBatch]:
    """Yield columns of row groups of an open file, as many rows at a time as fit in the budget.

    Raises InputError if not even a row fits, one of DAMAGED if it cannot be decoded, and OSError.
    """
    all_groups = row_groups(parquet.metadata, location.uri)
    if max(groups, default=0) >= len(all_groups):
        raise InputError(f"{location.uri}: was replaced meanwhile (by a shorter one); run again.")
    chosen = [all_groups[group] for group in groups]
    try:
        plan = plan_read(parquet.schema, chosen, location, columns, budget)
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from error
    with ExitStack() as opened:
        if plan.is_streamed or plan.as_dictionary:
            parquet = opened.enter_context(
                open_parquet(location, streamed=plan.is_streamed, dictionaries=plan.as_dictionary)
            )
        yield from parquet.iter_batches(plan.batch_rows, list(groups), list(columns))


def read_table(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table, or some of its columns, of a Parquet file in memory; raises as pyarrow.

    This thread alone reads: one of pyarrow's that released Python's bytes while the process ended
    aborted it.
    """
    with pq.ParquetFile(pa.BufferReader(content), pre_buffer=False) as parquet:
        return parquet.read(None if columns is None else list(columns), use_threads=False)
