"""Chunks: the runs of whole row groups that shards are scored in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from digitsum.archive.shards import Fingerprint, Int64, Shard
from digitsum.errors import InputError
from digitsum.options import ImageShape
from digitsum.storage.listing import list_file
from digitsum.storage.location import Location


@dataclass(frozen=True, slots=True)
class ChunkId:
    """A chunk's identity: which rows of which bytes. Plan, part, result and rejects share it."""

    shard: str
    """The shard's path, relative to the archive."""
    fingerprint: Fingerprint
    """The shard's, when the chunk was planned."""
    first_row: Int64
    """Index of its first row within the shard."""
    num_rows: Int64

    def __str__(self) -> str:
        return f"{self.shard}, rows {self.first_row} to {self.first_row + self.num_rows - 1}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of whole row groups of one shard, and all that is needed to read it elsewhere."""

    id: ChunkId
    row_groups: tuple[int, ...]

    @property
    def shard(self) -> str:
        """The shard's path, relative to the archive."""
        return self.id.shard

    @property
    def first_row(self) -> int:
        """Index of its first row within the shard."""
        return self.id.first_row

    @property
    def num_rows(self) -> int:
        """Number of its rows."""
        return self.id.num_rows

    @property
    def shape(self) -> ImageShape:
        """Shape of its images."""
        return self.id.fingerprint.shape

    @property
    def id_column(self) -> str | None:
        """Column of the image ids; None if ids are made of the shard's path and the row."""
        return self.id.fingerprint.id_column


def check_unchanged(root: Location, chunk: Chunk) -> None:
    """Raise InputError if a chunk's shard was replaced or removed since it was planned."""
    file, planned = list_file(root, chunk.shard), chunk.id.fingerprint
    if not file or (file.size_bytes, file.mtime_ns) != (planned.size_bytes, planned.mtime_ns):
        raise InputError(
            f"{root.join(chunk.shard).uri}: was replaced or removed during the run; run again."
        )


def plan_chunks(shard: Shard, chunk_images: int) -> list[Chunk]:
    """Cut a shard into chunks of whole row groups, each closed once it has `chunk_images` rows.

    The cut depends on the footer and on `chunk_images` alone. A shard without rows has no chunks.
    """
    chunks = []
    fingerprint = shard.fingerprint
    first_group = first_row = num_rows = 0
    for end_group, rows in enumerate(shard.row_group_rows, 1):
        num_rows += rows
        is_last = end_group == len(shard.row_group_rows)
        if num_rows and (num_rows >= chunk_images or is_last):
            chunk_id = ChunkId(shard.file.path, fingerprint, first_row, num_rows)
            chunks.append(Chunk(chunk_id, _consecutive(first_group, end_group)))
            first_group, first_row, num_rows = end_group, first_row + num_rows, 0
    return chunks


@lru_cache(maxsize=4096)
def _consecutive(first: int, end: int) -> tuple[int, ...]:
    """Return these numbers; the same tuple for the chunks of a million shards of one row group."""
    return tuple(range(first, end))
