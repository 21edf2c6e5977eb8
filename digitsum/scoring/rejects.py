"""Rejects: the rows, chunks and shards that a run could not score, and why, as Parquet.

There is one file for each chunk that had something rejected, written by the worker that rejected
it, so that no process holds the rejects of a whole archive. A chunk that is tried again replaces
its file.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from digitsum.archive.chunks import ChunkId
from digitsum.archive.parquet.files import DAMAGED, read_table
from digitsum.errors import InputError, one_line
from digitsum.scoring.plan import RejectedShard
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
    rows = pa.array(range(chunk.first_row, chunk.first_row + scores.num_rows), pa.int64())
    rejected = pa.table(
        {"row": rows, "image_id": scores["image_id"], "reason": scores["error"]}
    ).filter(pc.is_valid(scores["error"]))
    return pa.table(
        {
            "shard": pa.repeat(pa.scalar(chunk.shard), rejected.num_rows),
            "row": rejected["row"],
            "image_id": rejected["image_id"],
            "stage": pa.repeat(pa.scalar("decode"), rejected.num_rows),
            "reason": rejected["reason"],
        },
        schema=REJECTS_SCHEMA,
    )


def rejected_chunk(chunk: ChunkId, stage: str, reason: str) -> pa.Table:
    """Return the one row of a chunk that cannot be read, or could not be scored."""
    return _whole([(chunk.shard, stage, reason)])


def rejected_shards(shards: Sequence[RejectedShard]) -> pa.Table:
    """Return a row for each shard that cannot be planned."""
    return _whole([(shard.path, "plan", shard.reason) for shard in shards])


def write_rejects(run: Location, name: str, rejects: pa.Table) -> None:
    """Write the rejects of one chunk, or of all shards, below a run.

    If there are none, the file of an earlier attempt is removed.
    """
    file = run.join(f"{REJECTS_DIRECTORY}/{name}.parquet")
    if rejects.num_rows:
        content = io.BytesIO()
        pq.write_table(rejects, content, compression="zstd")
        retried(lambda: publish_bytes(content.getvalue(), file))
    elif file.is_file():
        file.filesystem.delete_file(file.path)


def read_rejects(run: Location) -> tuple[list[dict[str, Any]], Counter[tuple[str, str]]]:
    """Return the first MAX_REJECTS_READ rejects of a run, and how many by stage and reason.

    Whole shards come first, then some of each chunk. Raises InputError, naming the file, if one
    cannot be read.
    """
    rows: list[dict[str, Any]] = []
    counts: Counter[tuple[str, str]] = Counter()
    names = run.join(REJECTS_DIRECTORY).files()
    for name in sorted(names, key=lambda name: not name.startswith(SHARDS_NAME)):
        file = run.join(f"{REJECTS_DIRECTORY}/{name}")
        try:
            table = read_table(file.read_bytes()).cast(REJECTS_SCHEMA)
        except (*DAMAGED, OSError, ValueError) as error:
            raise InputError(
                f"{file.uri}: cannot be read ({one_line(error)}); remove it, and make the report "
                "again."
            ) from error
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


def _whole(entries: Iterable[tuple[str, str, str]]) -> pa.Table:
    rows = [
        {"shard": shard, "row": None, "image_id": None, "stage": stage, "reason": reason}
        for shard, stage, reason in entries
    ]
    return pa.Table.from_pylist(rows, REJECTS_SCHEMA)
