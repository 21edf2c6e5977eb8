"""The footer cache: what was read of footers, so that a night without changes reads none.

An entry is used only if the file is listed with the same path, size and modification time; without
the cache the plan is the same and takes longer. A file that was written within two seconds of being
listed is not entered: it could be replaced within the resolution of its modification time. Each of
the cache's files is a Parquet table behind its SHA-256, and is ignored if that does not match.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.archive.chunks import ChunkId
from digitsum.archive.parquet.files import DAMAGED, read_table
from digitsum.archive.score_parts import Part, model_directory
from digitsum.archive.shards import Fingerprint, Shard
from digitsum.errors import InputError
from digitsum.manifest import RUNS_DIRECTORY
from digitsum.options import ImageShape, ReadOptions
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import Location

FOOTER_CACHE_DIRECTORY = f"{RUNS_DIRECTORY}/footer_cache"
_SETTLED_NS = 2_000_000_000
_DIGEST_BYTES = 32
_FILE_FIELDS = [("path", pa.string()), ("size_bytes", pa.int64()), ("mtime_ns", pa.int64())]
_SHARDS = pa.schema(
    [
        *_FILE_FIELDS,
        ("row_group_rows", pa.list_(pa.int64())),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("id_column", pa.string()),
        ("image_column", pa.string()),
    ]
)
_PARTS = pa.schema(
    [
        *_FILE_FIELDS,
        ("model_digest", pa.string()),
        ("num_rejected", pa.int64()),
        ("shard", pa.string()),
        ("first_row", pa.int64()),
        ("num_rows", pa.int64()),
        ("shard_size_bytes", pa.int64()),
        ("shard_mtime_ns", pa.int64()),
        ("shard_num_rows", pa.int64()),
        ("image_column", pa.string()),
        ("id_column", pa.string()),
        ("height", pa.int64()),
        ("width", pa.int64()),
    ]
)


@dataclass(frozen=True)
class FooterCache:
    """Files by how they were listed, and what their footers say."""

    shards: Mapping[ListedFile, Shard] = field(default_factory=dict)
    parts: Mapping[ListedFile, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class FooterCacheFiles:
    """Places of the cache of one model, and of one way of reading the archive."""

    shards: Location
    parts: Location


def footer_cache_files(
    scores: Location, archive: Location, model_digest: str, options: ReadOptions, read_as: str
) -> FooterCacheFiles:
    """Return the cache's files; `read_as` is what else affects how shards are understood."""
    directory = scores.join(FOOTER_CACHE_DIRECTORY)
    key = f"{archive.uri}\n{sorted(asdict(options).items())}\n{read_as}"
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return FooterCacheFiles(
        directory.join(f"shards-{name}"),
        directory.join(f"parts-{model_directory(model_digest)}"),
    )


def read_footer_cache(files: FooterCacheFiles) -> FooterCache:
    """Return the cache; an empty one if there is none that can be read."""
    shards = {}
    try:
        for path, size, mtime, groups, height, width, id_column, images in _rows(
            files.shards, _SHARDS
        ):
            file = ListedFile(path, size, mtime)
            shape = ImageShape(height, width)
            shards[file] = Shard(file, tuple(groups), shape, id_column, images)
    except (TypeError, InputError):
        shards = {}  # nulls, or impossible sizes: not what was written here
    parts = {}
    for path, size, mtime, digest, num_rejected, shard, first_row, num_rows, *fingerprint in _rows(
        files.parts, _PARTS
    ):
        chunk = ChunkId(shard, Fingerprint(*fingerprint), first_row, num_rows)
        parts[ListedFile(path, size, mtime)] = Part(digest, chunk, num_rejected)
    return FooterCache(shards, parts)


def write_footer_cache(
    files: FooterCacheFiles,
    shards: Iterable[Shard],
    parts: Mapping[ListedFile, Part],
    written: Mapping[ListedFile, Part],
    *,
    listed_ns: int,
    written_ns: int,
) -> None:
    """Replace the cache by these shards and parts.

    `listed_ns` is when `shards` and `parts` were listed, `written_ns` when `written` was, in ns
    since 1970.
    """
    _write(
        files.shards,
        _SHARDS,
        [
            (
                *_file(shard.file),
                list(shard.row_group_rows),
                *(shard.shape.height, shard.shape.width),
                *(shard.id_column, shard.image_column),
            )
            for shard in shards
            if _is_settled(shard.file, listed_ns)
        ],
    )
    _write(
        files.parts,
        _PARTS,
        [
            (*_file(file), part.model_digest, part.num_rejected, *_chunk(part.chunk))
            for of, of_ns in ((parts, listed_ns), (written, written_ns))
            for file, part in of.items()
            if _is_settled(file, of_ns)
        ],
    )


def _is_settled(file: ListedFile, listed_ns: int) -> bool:
    return file.mtime_ns < listed_ns - _SETTLED_NS


def _file(file: ListedFile) -> tuple[str, int, int]:
    return file.path, file.size_bytes, file.mtime_ns


def _chunk(chunk: ChunkId) -> tuple[Any, ...]:
    of_shard = chunk.fingerprint
    return (
        *(chunk.shard, chunk.first_row, chunk.num_rows),
        *(of_shard.size_bytes, of_shard.mtime_ns, of_shard.num_rows),
        *(of_shard.image_column, of_shard.id_column, of_shard.height, of_shard.width),
    )


def _rows(location: Location, schema: pa.Schema) -> Iterator[tuple[Any, ...]]:
    """Return the rows of a table of the cache; none if it is not what was written here."""
    try:
        content = location.read_bytes()
    except InputError:
        return iter(())
    digest, parquet = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    # A flipped bit may leave a readable table that says what was never entered.
    if hashlib.sha256(parquet).digest() != digest:
        return iter(())
    try:
        table = read_table(parquet)
        columns = [column.to_pylist() for column in table.columns]
    except (*DAMAGED, OSError):
        return iter(())  # the digest was made for it elsewhere
    return zip(*columns, strict=True) if table.schema.equals(schema) else iter(())


def _write(location: Location, schema: pa.Schema, rows: list[tuple[Any, ...]]) -> None:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(values, of.type) for values, of in zip(columns, schema, strict=True)]
    content = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), content, compression="zstd")
    parquet = content.getvalue()
    publish_bytes(hashlib.sha256(parquet).digest() + parquet, location)
