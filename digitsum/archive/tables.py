"""Small Parquet files, read whole."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table, or some of its columns, of a Parquet file that is held in memory.

    By this thread alone: a thread of pyarrow's own that let go of Python's bytes while the process
    ended was seen to abort it. Raises as pyarrow does where it is no Parquet file.
    """
    with pq.ParquetFile(pa.BufferReader(content), pre_buffer=False) as parquet:
        return parquet.read(None if columns is None else list(columns), use_threads=False)
