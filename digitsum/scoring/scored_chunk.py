"""Finding a chunk again, by what its part or a manifest says of it."""

from __future__ import annotations

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.location import Location
from digitsum.archive.schema import DEFAULT_SHAPE, ImageShape, ReadOptions
from digitsum.archive.shards import ListedFile, read_shard
from digitsum.errors import InputError


def find_scored_chunk(
    archive: Location,
    shard: str,
    first_row: int,
    fingerprint: str,
    read: ReadOptions,
    chunk_images: int,
) -> Chunk:
    """Return a chunk that was scored, to be read again; reads its shard's footer.

    Raises InputError where the shard is gone, has changed, or was cut otherwise.
    """
    info = archive.join(shard).info()
    file = ListedFile(shard, info.size or 0, info.mtime_ns or 0)
    found = read_shard(archive, file, read, _shape_of(fingerprint))
    for chunk in plan_chunks(found, chunk_images):
        if (chunk.first_row, chunk.fingerprint) == (first_row, fingerprint):
            return chunk
    raise InputError(
        f"{archive.join(shard).uri}: was changed since it was scored, or is cut otherwise; give "
        "--chunk-images as when it was scored, or score it again."
    )


def _shape_of(fingerprint: str) -> ImageShape:
    """Return the shape of images that a fingerprint names, for shards that do not say theirs."""
    height, _, width = fingerprint.rpartition("shape=")[2].partition("x")
    if height.isdigit() and width.isdigit():
        return ImageShape(int(height), int(width))
    return DEFAULT_SHAPE
