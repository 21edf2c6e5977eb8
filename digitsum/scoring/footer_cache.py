"""What was read of footers before, so that a night on which nothing changed reads none.

A cache and nothing else: an entry is believed only where the file is listed with the same path,
size and modification time; without it the plan is the same, and takes longer. A file that was
written within two seconds of being listed is not entered: it could be replaced within the
resolution of its modification time. Each of its files is a Parquet table behind its SHA-256, and
one of another digest is passed over.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.archive.score_parts import Part, PartSource, model_directory
from digitsum.archive.shards import DAMAGED, ListedFile, Shard, read_table
from digitsum.errors import InputError
from digitsum.manifest import RUNS_DIRECTORY
from digitsum.options import ImageShape, ReadOptions
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

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
        ("shard", pa.string()),
        ("fingerprint", pa.string()),
        ("first_row", pa.int64()),
        ("num_rows", pa.int64()),
        ("num_rejected", pa.int64()),
    ]
)


@dataclass(frozen=True)
class FooterCache:
    """Files by how they were listed, and what their footers said."""

    shards: Mapping[ListedFile, Shard] = field(default_factory=dict)
    parts: Mapping[ListedFile, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class FooterCacheFiles:
    """Where the footer cache of one model, and of one way of reading the archive, lies."""

    shards: Location
    parts: Location


def footer_cache_files(
    scores: Location, archive: Location, model_digest: str, options: ReadOptions, read_as: str
) -> FooterCacheFiles:
    """Return the cache's files. `read_as` is what else bears on how shards are understood."""
    directory = scores.join(f"{RUNS_DIRECTORY}/footer_cache")
    key = f"{archive.uri}\n{sorted(asdict(options).items())}\n{read_as}"
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return FooterCacheFiles(
        directory.join(f"shards-{name}"),
        directory.join(f"parts-{model_directory(model_digest)}"),
    )


def read_footer_cache(files: FooterCacheFiles) -> FooterCache:
    """Return the footer cache; an empty one where there is none that can be read."""
    shards = {}
    try:
        for row in _read(files.shards, _SHARDS):
            file = _file(row)
            shape = ImageShape(row["height"], row["width"])
            groups = tuple(row["row_group_rows"])
            shards[file] = Shard(file, groups, shape, row["id_column"], row["image_column"])
    except (TypeError, InputError):
        shards = {}  # nulls, or sizes that cannot be: not what was written here
    parts = {}
    for row in _read(files.parts, _PARTS):
        file, num_rejected = _file(row), row.pop("num_rejected")
        for name, _ in _FILE_FIELDS:
            row.pop(name)
        parts[file] = Part(PartSource(**row), num_rejected)
    return FooterCache(shards, parts)


def write_footer_cache(
    files: FooterCacheFiles,
    shards: Iterable[Shard],
    parts: Iterable[tuple[ListedFile, Part]],
    surveyed_ns: int,
    listed_ns: int,
) -> None:
    """Replace the cache; the last two are when shards and parts were listed, in ns since 1970."""
    _write(
        files.shards,
        _SHARDS,
        [
            {
                **asdict(shard.file),
                "row_group_rows": list(shard.row_group_rows),
                "height": shard.shape.height,
                "width": shard.shape.width,
                "id_column": shard.id_column,
                "image_column": shard.image_column,
            }
            for shard in shards
            if shard.file.mtime_ns < surveyed_ns - _SETTLED_NS
        ],
    )
    _write(
        files.parts,
        _PARTS,
        [
            {**asdict(file), **asdict(part.source), "num_rejected": part.num_rejected}
            for file, part in parts
            if file.mtime_ns < listed_ns - _SETTLED_NS
        ],
    )


def _file(row: Mapping[str, Any]) -> ListedFile:
    return ListedFile(row["path"], row["size_bytes"], row["mtime_ns"])


def _read(location: Location, schema: pa.Schema) -> list[dict]:  # type: ignore[type-arg]
    try:
        content = location.read_bytes()
    except InputError:
        return []
    digest, parquet = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    # A flipped bit may leave a table that can be read, and says what was never entered.
    if hashlib.sha256(parquet).digest() != digest:
        return []
    try:
        table = read_table(parquet)
        rows: list[dict] = table.to_pylist() if table.schema.equals(schema) else []  # type: ignore[type-arg]
    except (*DAMAGED, OSError):
        return []  # the digest was made for it elsewhere
    return rows


def _write(location: Location, schema: pa.Schema, rows: list[dict]) -> None:  # type: ignore[type-arg]
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), content, compression="zstd")
    parquet = content.getvalue()
    publish_bytes(hashlib.sha256(parquet).digest() + parquet, location)
