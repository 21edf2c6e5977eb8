"""Rejects: the rows, chunks and shards that a run could not score, and why, as Parquet.

Each worker writes a file for each of its chunks, so that no process holds the rejects of a whole
archive.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.archive.chunks import ChunkId
from digitsum.archive.parquet.files import DAMAGED, read_table
from digitsum.errors import InputError, one_line
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location
from digitsum.storage.retries import retried

REJECTS_DIRECTORY = "rejected"
SHARDS_NAME = "shards"
"""Name of the file that holds whole shards."""
MAX_REJECTS_READ = 200
_MAX_READ_OF_CHUNK = 50
REJECTS_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("image_id", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""`row` and `image_id` are null if a whole shard, or a chunk of it, was rejected."""


def rejected_rows(chunk: ChunkId, scores: pa.Table) -> pa.Table:
    """Return the rejected rows of a chunk's scores: those whose images cannot be read."""
    rows = np.flatnonzero(scores["error"].is_valid())
    rejected = scores.take(rows)
    return pa.table(
        {
            "shard": [chunk.shard] * len(rows),
            "row": rows + chunk.first_row,
            "image_id": rejected["image_id"],
            "stage": ["decode"] * len(rows),
            "reason": rejected["error"],
        },
        schema=REJECTS_SCHEMA,
    )


def rejected_whole(stage: str, reasons: Mapping[str, str]) -> pa.Table:
    """Return a row for each shard of which all, or a whole chunk, was rejected at a stage."""
    return pa.table(
        {
            "shard": list(reasons),
            "row": pa.nulls(len(reasons), pa.int64()),
            "image_id": pa.nulls(len(reasons), pa.string()),
            "stage": [stage] * len(reasons),
            "reason": list(reasons.values()),
        },
        schema=REJECTS_SCHEMA,
    )


def write_rejects(run: Location, name: str, rejects: pa.Table) -> None:
    """Write the rejects of one chunk, or of all shards, in place of those of an earlier attempt."""
    file = run.join(f"{REJECTS_DIRECTORY}/{name}.parquet")
    if rejects.num_rows:
        retried(lambda: publish_table(rejects, file))
    elif file.is_file():
        file.filesystem.delete_file(file.path)


def read_rejects(run: Location) -> tuple[list[dict[str, Any]], Counter[tuple[str, str]]]:
    """Return the first MAX_REJECTS_READ rejects of a run, and how many by stage and reason.

    Whole shards come first. Raises InputError, naming the file, if one cannot be read.
    """
    rows: list[dict[str, Any]] = []
    counts: Counter[tuple[str, str]] = Counter()
    names = run.join(REJECTS_DIRECTORY).files()
    for name in sorted(names, key=lambda name: not name.startswith(SHARDS_NAME)):
        file = run.join(f"{REJECTS_DIRECTORY}/{name}")
        with damage_named(file):
            table = read_table(file.read_bytes()).cast(REJECTS_SCHEMA)
        by_reason = table.group_by(["stage", "reason"]).aggregate([([], "count_all")])
        for row in by_reason.to_pylist():
            counts[row["stage"], row["reason"]] += row["count_all"]
        num_shown = min(MAX_REJECTS_READ - len(rows), _MAX_READ_OF_CHUNK)
        rows += table.slice(0, num_shown).to_pylist()
    return rows, counts


def chunk_name(chunk: ChunkId) -> str:
    """Return the name of a chunk's file: a digest of the shard's path, and the first row."""
    shard = hashlib.sha256(chunk.shard.encode()).hexdigest()[:16]
    return f"{shard}-{chunk.first_row:012d}"


def publish_table(table: pa.Table, file: Location) -> None:
    """Write a table of a run's record as Parquet."""
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    publish_bytes(content.getvalue(), file)


@contextmanager
def damage_named(file: Location) -> Iterator[None]:
    """Raise InputError, naming a file of a run's record, if the block finds it damaged."""
    try:
        yield
    except (*DAMAGED, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file.uri}: cannot be read ({one_line(error)}); remove it, and make the report again."
        ) from error
