"""Chunks: the runs of whole row groups that shards are worked on in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

from pyarrow import fs as pafs

from digitsum.archive.shards import ListedFile, Shard, file_fingerprint
from digitsum.errors import InputError
from digitsum.options import ImageShape
from digitsum.storage.location import Location


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of whole row groups of one shard, and all that is needed to read it elsewhere."""

    shard: str
    """The shard's path, relative to the archive."""
    fingerprint: str
    """The shard's fingerprint when the chunk was planned."""
    height: int
    width: int
    id_column: str | None
    row_groups: tuple[int, ...]
    first_row: int
    """Index of its first row within the shard."""
    num_rows: int

    @property
    def key(self) -> tuple[str, int]:
        """Shard and first row, which name it among the chunks of one plan."""
        return self.shard, self.first_row

    @property
    def shape(self) -> ImageShape:
        """Shape of its images."""
        return ImageShape(self.height, self.width)

    def to_row(self) -> dict[str, Any]:
        """Return the chunk as a row of a Ray dataset."""
        return asdict(self) | {"row_groups": list(self.row_groups)}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Chunk:
        """Return the chunk that `to_row` gave, from what Ray made of it."""
        groups = tuple(int(group) for group in row["row_groups"])
        return Chunk(**{**row, "row_groups": groups})


def check_unchanged(root: Location, chunk: Chunk) -> None:
    """Raise InputError where a chunk's shard has other bytes by now than when it was planned."""
    location = root.join(chunk.shard)
    info = location.info()
    if info.type == pafs.FileType.File:
        now = file_fingerprint(ListedFile(chunk.shard, info.size, info.mtime_ns))
        if chunk.fingerprint.startswith(f"{now} "):
            return
    raise InputError(f"{location.uri}: was replaced or removed meanwhile; run again.")


def plan_chunks(shard: Shard, chunk_images: int) -> list[Chunk]:
    """Cut a shard into chunks of whole row groups, each closed once it has `chunk_images` rows.

    The cut depends on the footer and on `chunk_images` alone. A shard without rows has no chunks.
    """
    starts = [0, *accumulate(shard.row_group_rows)]
    return list(_cut(shard, starts, chunk_images))


def _cut(shard: Shard, starts: list[int], chunk_images: int) -> Iterator[Chunk]:
    first = num_rows = 0
    for group, rows in enumerate(shard.row_group_rows):
        num_rows = num_rows + rows if num_rows else rows
        last = group == len(shard.row_group_rows) - 1
        if num_rows and (num_rows >= chunk_images or last):
            yield Chunk(
                shard=shard.file.path,
                fingerprint=shard.fingerprint,
                height=shard.shape.height,
                width=shard.shape.width,
                id_column=shard.id_column,
                row_groups=_consecutive(first, group + 1),
                first_row=starts[first],
                num_rows=num_rows,
            )
            first, num_rows = group + 1, 0


@lru_cache(maxsize=4096)
def _consecutive(first: int, end: int) -> tuple[int, ...]:
    """Return these numbers; the same tuple for the chunks of a million shards of one row group."""
    return tuple(range(first, end))
