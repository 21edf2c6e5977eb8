"""The footer cache: what was read of footers, so that a night without changes reads none.

An entry is used only if the file is listed with the same path, size and modification time. A file
that was written within two seconds of being listed is not entered: it could be replaced within the
resolution of its modification time. Each of the cache's files is a Parquet table behind its
SHA-256, and is ignored if that does not match.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
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


def _schema(**columns: pa.DataType) -> pa.Schema:
    """Return the schema of a listed file's columns and these; only `id_column` may be null."""
    listed = {"path": pa.string(), "size_bytes": pa.int64(), "mtime_ns": pa.int64()}
    return pa.schema([pa.field(n, t, n == "id_column") for n, t in (listed | columns).items()])


_SHARDS = _schema(
    row_group_rows=pa.list_(pa.field("element", pa.int64(), nullable=False)),
    height=pa.int32(),
    width=pa.int32(),
    id_column=pa.string(),
    image_column=pa.string(),
)
_PARTS = _schema(
    model_digest=pa.string(),
    num_rejected=pa.int64(),
    shard=pa.string(),
    first_row=pa.int64(),
    num_rows=pa.int64(),
    shard_size_bytes=pa.int64(),
    shard_mtime_ns=pa.int64(),
    shard_num_rows=pa.int64(),
    image_column=pa.string(),
    id_column=pa.string(),
    height=pa.int64(),
    width=pa.int64(),
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
    shards: dict[ListedFile, Shard] = {}
    for *listed, groups, height, width, id_column, image_column in _rows(files.shards, _SHARDS):
        file = ListedFile(*listed)
        if height < 1 or width < 1:
            shards = {}  # not what was written here
            break
        shape = ImageShape(height, width)
        shards[file] = Shard(file, tuple(groups), shape, id_column, image_column)
    parts = {}
    for row in _rows(files.parts, _PARTS):
        digest, num_rejected, shard, first_row, num_rows, *fingerprint = row[3:]
        chunk = ChunkId(shard, Fingerprint(*fingerprint), first_row, num_rows)
        parts[ListedFile(*row[:3])] = Part(digest, chunk, num_rejected)
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
    """Replace the cache by `shards` and `parts`, listed at `listed_ns`, and by `written`."""
    _write(
        files.shards,
        _SHARDS,
        [
            (
                *_listed(shard.file),
                *(shard.row_group_rows, shard.shape.height, shard.shape.width),
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
            (
                *(*_listed(file), part.model_digest, part.num_rejected),
                *(part.chunk.shard, part.chunk.first_row, part.chunk.num_rows),
                *_fingerprint(part.chunk.fingerprint),
            )
            for of, of_ns in ((parts, listed_ns), (written, written_ns))
            for file, part in of.items()
            if _is_settled(file, of_ns)
        ],
    )


# `dataclasses.astuple` copies deeply, which takes seconds for a million files.
_listed = attrgetter("path", "size_bytes", "mtime_ns")
_fingerprint = attrgetter(*(field.name for field in fields(Fingerprint)))


def _is_settled(file: ListedFile, listed_ns: int) -> bool:
    return file.mtime_ns < listed_ns - _SETTLED_NS


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
    content = io.BytesIO()
    table = pa.table(dict(zip(schema.names, columns, strict=True)), schema)
    pq.write_table(table, content, compression="zstd")
    parquet = content.getvalue()
    publish_bytes(hashlib.sha256(parquet).digest() + parquet, location)
