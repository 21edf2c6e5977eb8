"""What a run rejected, as Parquet below the run: which rows, chunks and shards, and why.

One file a chunk that had something rejected, written by whoever rejected it, so that no process
holds the rejected rows of a whole archive. A chunk that is tried again replaces its file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from digitsum.archive.chunks import Chunk
from digitsum.scoring.plan import RejectedShard
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location
from digitsum.storage.retries import retried

DIRECTORY = "rejected"
SHARDS = "shards"
"""Name of what holds whole shards."""
SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("image_id", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""`row` and `image_id` are null where a whole shard, or a chunk of it, was rejected."""


def rejected_rows(chunk: Chunk, scores: pa.Table) -> pa.Table:
    """Return the rejected rows of a chunk, from its scores: those whose images cannot be read."""
    rows = pa.array(range(chunk.first_row, chunk.first_row + scores.num_rows), pa.int64())
    rejected = (
        pa.table({"row": rows, "image_id": scores["image_id"], "reason": scores["error"]})
    ).filter(pc.is_valid(scores["error"]))
    return pa.table(
        {
            "shard": pa.repeat(pa.scalar(chunk.shard), rejected.num_rows),
            "row": rejected["row"],
            "image_id": rejected["image_id"],
            "stage": pa.repeat(pa.scalar("decode"), rejected.num_rows),
            "reason": rejected["reason"],
        },
        schema=SCHEMA,
    )


def rejected_chunk(chunk: Chunk, stage: str, reason: str) -> pa.Table:
    """Return the one row that says that a chunk cannot be read, or that scoring it failed."""
    return _whole([(chunk.shard, stage, reason)])


def rejected_shards(shards: Sequence[RejectedShard]) -> pa.Table:
    """Return a row for each shard that cannot be planned."""
    return _whole([(shard.path, "plan", shard.reason) for shard in shards])


def write_rejects(run: Location, name: str, table: pa.Table) -> None:
    """Write what was rejected of one thing, of that name, below a run.

    Where nothing was, nothing is there afterwards: what was written of an earlier attempt is gone.
    """
    file = run.join(f"{DIRECTORY}/{name}.parquet")
    if table.num_rows:
        content = io.BytesIO()
        pq.write_table(table, content, compression="zstd")
        retried(lambda: publish_bytes(content.getvalue(), file))
    elif file.is_file():
        file.filesystem.delete_file(file.path)


def chunk_name(chunk: Chunk) -> str:
    """Return the name of a chunk's file: its rows, and which shard by a digest of its path."""
    shard = hashlib.sha256(chunk.shard.encode()).hexdigest()[:16]
    return f"{shard}-{chunk.first_row:012d}"


def _whole(entries: Iterable[tuple[str, str, str]]) -> pa.Table:
    rows = [
        {"shard": shard, "row": None, "image_id": None, "stage": stage, "reason": reason}
        for shard, stage, reason in entries
    ]
    return pa.Table.from_pylist(rows, SCHEMA)
