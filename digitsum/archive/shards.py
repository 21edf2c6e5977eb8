"""Shards of an archive: listed, opened, and described by their footers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
from pyarrow import fs as pafs
from pydantic import Field

from digitsum.archive.images import image_shape
from digitsum.archive.parquet.files import open_parquet
from digitsum.archive.parquet.footer import row_group_rows
from digitsum.archive.schema import find_column
from digitsum.errors import InputError
from digitsum.options import DEFAULT_SHAPE, IMAGE, IMAGE_ID, ImageShape, ReadOptions
from digitsum.storage.listing import PARQUET_SUFFIX, ListedFile, list_parquet
from digitsum.storage.location import Location, locate
from digitsum.storage.retries import retried

FOOTER_THREADS = 16
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""The footer cache keeps these numbers in columns of this type."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identity of a shard's bytes and of their reading, on which its scores depend."""

    size_bytes: Int64
    mtime_ns: Int64
    num_rows: Int64
    image_column: str
    id_column: str | None
    """Column of the image ids; None if ids are made of the shard's path and the row."""
    height: Int64
    """Height of the images, in pixels."""
    width: Int64

    @property
    def shape(self) -> ImageShape:
        """Shape of the images."""
        return ImageShape(self.height, self.width)


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as its footer describes it."""

    file: ListedFile
    row_group_rows: tuple[int, ...]
    """Rows of each row group, in order."""
    shape: ImageShape
    id_column: str | None
    """Column of the image ids; None if ids are made of the shard's path and the row."""
    image_column: str = IMAGE

    @property
    def num_rows(self) -> int:
        """Number of images in the shard."""
        return sum(self.row_group_rows)

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity of the shard's bytes and of their reading."""
        return Fingerprint(
            *(self.file.size_bytes, self.file.mtime_ns, self.num_rows),
            self.image_column,
            self.id_column,
            *(self.shape.height, self.shape.width),
        )


@dataclass(frozen=True)
class Archive:
    """Shards below one directory, in the order of their paths."""

    root: Location
    shards: tuple[Shard, ...]

    @property
    def num_images(self) -> int:
        """Number of images in all shards."""
        return sum(shard.num_rows for shard in self.shards)


def list_shards(
    archive: Location, *, follow_links: bool = False
) -> tuple[Location, list[ListedFile]]:
    """Return the directory that shard paths are relative to, and the shards below it, by path.

    An archive may be a single shard. Raises InputError if there is no such archive, or no Parquet
    in it.
    """
    info = archive.info()
    if info.type == pafs.FileType.NotFound:
        raise InputError(f"{archive.uri}: no such file or directory; give an archive of shards.")
    if info.type == pafs.FileType.File:
        return archive.parent, [ListedFile(archive.name, info.size, info.mtime_ns)]
    shards = list_parquet(archive, "", follow_links=follow_links)
    if not shards:
        raise InputError(
            f"{archive.uri}: holds no {PARQUET_SUFFIX} files; make an archive with "
            "`digitsum import` or `digitsum synth`."
        )
    return archive, shards


def archive_root(archive: Location) -> Location:
    """Return the directory that shard paths are relative to; an archive may be a single shard."""
    return archive.parent if archive.is_file() else archive


def open_archive(
    uri: str, options: ReadOptions, default_shape: ImageShape = DEFAULT_SHAPE
) -> Archive:
    """Return an archive, with every shard's footer read and checked.

    `default_shape` is for shards that do not declare their images' shape. Raises as `read_shard`.
    """
    root, files = list_shards(locate(uri), follow_links=options.follow_links)
    shards = []
    for shard in read_shards(root, files, options, default_shape):
        if isinstance(shard, InputError):
            raise shard
        shards.append(shard)
    return Archive(root, tuple(shards))


def read_shards(
    root: Location, files: Sequence[ListedFile], options: ReadOptions, default_shape: ImageShape
) -> list[Shard | InputError]:
    """Return each file's shard, or why it is not one; footers are read in parallel, retried."""

    def read(file: ListedFile) -> Shard | InputError:
        try:
            return retried(lambda: read_shard(root, file, options, default_shape))
        except InputError as error:
            return error

    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        return list(threads.map(read, files))


def read_shard(
    root: Location, file: ListedFile, options: ReadOptions, default_shape: ImageShape
) -> Shard:
    """Return what a shard's footer says; raises InputError if it has no images that are read."""
    location = root.join(file.path)
    if file.refused:
        raise InputError(f"{location.uri}: {file.refused}.")
    with open_parquet(location) as parquet:
        schema = parquet.schema_arrow
        shape = image_shape(schema, options, default_shape, location.uri)
        rows = row_group_rows(parquet.metadata, schema, options.image_column, location.uri)
    id_column = _id_column(schema, options, location.uri)
    return Shard(file, rows, shape, id_column, options.image_column)


def _id_column(schema: pa.Schema, options: ReadOptions, where: str) -> str | None:
    name = options.id_column
    if name == IMAGE_ID and name not in schema.names:
        return None
    kind = find_column(schema, name, where, "correct --id-column").type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return name
    raise InputError(
        f"{where}: column {name!r} is of type {kind}, but ids are strings or integers; "
        "correct --id-column."
    )
