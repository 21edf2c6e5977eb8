"""Chunks: the runs of whole row groups that shards are scored in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from digitsum.archive.shards import Fingerprint, Shard
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
    first_row: int
    """Index of its first row within the shard."""
    num_rows: int

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
    file = list_file(root, chunk.shard)
    if file is None or not chunk.id.fingerprint.is_of(file):
        raise InputError(
            f"{root.join(chunk.shard).uri}: was replaced or removed during the run; run again."
        )


def plan_chunks(shard: Shard, chunk_images: int) -> list[Chunk]:
    """Cut a shard into chunks of whole row groups, each closed once it has `chunk_images` rows.

    The cut depends on the footer and on `chunk_images` alone. A shard without rows has no chunks.
    """
    return list(_cut(shard, chunk_images))


def _cut(shard: Shard, chunk_images: int) -> Iterator[Chunk]:
    path, fingerprint = shard.file.path, shard.fingerprint
    starts = [0, *accumulate(shard.row_group_rows)]
    first = num_rows = 0
    for group, rows in enumerate(shard.row_group_rows):
        num_rows += rows
        is_last = group == len(shard.row_group_rows) - 1
        if num_rows and (num_rows >= chunk_images or is_last):
            chunk_id = ChunkId(path, fingerprint, starts[first], num_rows)
            yield Chunk(chunk_id, _consecutive(first, group + 1))
            first, num_rows = group + 1, 0


@lru_cache(maxsize=4096)
def _consecutive(first: int, end: int) -> tuple[int, ...]:
    """Return these numbers; the same tuple for the chunks of a million shards of one row group."""
    return tuple(range(first, end))
