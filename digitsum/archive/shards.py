"""What an archive holds: its shards, their footers, and the chunks they are worked on in."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from digitsum.archive.images import image_shape
from digitsum.archive.parquet.footer import row_groups
from digitsum.archive.schema import the_column
from digitsum.errors import InputError, one_line
from digitsum.options import DEFAULT_SHAPE, IMAGE, IMAGE_ID, ImageShape, ReadOptions
from digitsum.storage.listing import is_hidden, walk_files
from digitsum.storage.location import NAME_IS_NO_TEXT, Location, locate, storage_error
from digitsum.storage.retries import retried

SHARD_SUFFIX = ".parquet"
DAMAGED = (pa.ArrowException, UnicodeDecodeError)
"""What pyarrow raises, but for OSError, where bytes are not those of a Parquet file."""
FOOTER_THREADS = 16
MAX_ROW_GROUP_ROWS = 2**24
"""Scores of a row group are held until it is done; pyarrow writes 2^20 rows at the most."""
_STREAM_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A shard, or a part of the scores, as the file system lists it."""

    path: str
    """Relative to the archive or the scores, with `/` between components."""
    size_bytes: int
    mtime_ns: int
    refused: str = ""
    """Why it is not opened, such as that it is a link out of the archive."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What identifies a shard's bytes without reading them, and how its images are read.

    Two shards of one path and one fingerprint have the same scores.
    """

    size_bytes: int
    mtime_ns: int
    num_rows: int
    image_column: str
    id_column: str | None
    """Column of the image ids; None if ids are made of the shard's path and the row."""
    height: int
    """Height of the images, in pixels."""
    width: int

    @property
    def shape(self) -> ImageShape:
        """Shape of the images."""
        return ImageShape(self.height, self.width)

    def is_of(self, file: ListedFile) -> bool:
        """Return whether a file is still listed with this size and modification time."""
        return (self.size_bytes, self.mtime_ns) == (file.size_bytes, file.mtime_ns)


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as its footer describes it."""

    file: ListedFile
    row_group_rows: tuple[int, ...]
    """Rows of each row group, in order."""
    shape: ImageShape
    id_column: str | None
    """Column of the image ids; None where ids are made of the shard's path and the row."""
    image_column: str = IMAGE

    @property
    def num_rows(self) -> int:
        """Images in the shard."""
        return sum(self.row_group_rows)

    @property
    def fingerprint(self) -> Fingerprint:
        """What identifies the shard's bytes, and how they are read."""
        return Fingerprint(
            self.file.size_bytes,
            self.file.mtime_ns,
            self.num_rows,
            self.image_column,
            self.id_column,
            self.shape.height,
            self.shape.width,
        )


@dataclass(frozen=True)
class Archive:
    """Shards below one directory, in the order of their paths."""

    root: Location
    shards: tuple[Shard, ...]

    @property
    def num_images(self) -> int:
        """Images in all shards."""
        return sum(shard.num_rows for shard in self.shards)


def list_shards(
    archive: Location, *, follow_links: bool = False
) -> tuple[Location, list[ListedFile]]:
    """Return the directory that shard paths are relative to, and the shards below it, by path.

    An archive may also be a single shard. Files and directories whose names begin with `_` or `.`
    are not the archive's; `listing` says which links are followed. Raises InputError where the
    place does not exist or holds no Parquet.
    """
    info = archive.info()
    if info.type == pafs.FileType.NotFound:
        raise InputError(f"{archive.uri}: no such file or directory; give an archive of shards.")
    if info.type == pafs.FileType.File:
        return archive.parent, [ListedFile(archive.name, info.size, info.mtime_ns)]
    shards = list_parquet(archive, "", follow_links=follow_links)
    if not shards:
        raise InputError(
            f"{archive.uri}: holds no {SHARD_SUFFIX} files; make an archive with "
            "`digitsum import` or `digitsum synth`."
        )
    return archive, shards


def archive_root(archive: Location) -> Location:
    """Return the directory that shard paths are relative to; an archive may be a single shard."""
    return archive.parent if archive.is_file() else archive


def list_parquet(root: Location, below: str, *, follow_links: bool = False) -> list[ListedFile]:
    """Return the Parquet files below a directory of `root`, by path; [] where it is absent.

    Those whose path, from `root` on, has a component that begins with `_` or `.` are passed over.
    """
    directory = root.join(below) if below else root
    prefix = root.path.rstrip("/") + "/"
    try:
        if root.is_local:
            found = walk_files(root.path, below, SHARD_SUFFIX, follow_links=follow_links)
            return sorted((ListedFile(*file) for file in found), key=lambda file: file.path)
        selector = pafs.FileSelector(directory.path, recursive=True, allow_not_found=True)
        files = [
            ListedFile(entry.path.removeprefix(prefix), entry.size, entry.mtime_ns)
            for entry in root.filesystem.get_file_info(selector)
            if entry.type == pafs.FileType.File and entry.path.endswith(SHARD_SUFFIX)
        ]
    except OSError as error:
        raise storage_error(f"{directory.uri}: cannot be listed", error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{directory.uri}: {NAME_IS_NO_TEXT}") from error
    return sorted((f for f in files if not is_hidden(f.path)), key=lambda file: file.path)


def open_archive(
    uri: str, options: ReadOptions, default_shape: ImageShape = DEFAULT_SHAPE
) -> Archive:
    """Return an archive with every shard's footer, which was read and checked, in parallel.

    Raises InputError, naming the shard, where one is not Parquet or has no images that digitsum
    reads. `default_shape` is for shards that do not say their images' shape.
    """
    root, files = list_shards(locate(uri), follow_links=options.follow_links)
    shards = []
    for found in read_shards(root, files, options, default_shape):
        if isinstance(found, InputError):
            raise found
        shards.append(found)
    return Archive(root, tuple(shards))


def read_shards(
    root: Location, files: Sequence[ListedFile], options: ReadOptions, default_shape: ImageShape
) -> list[Shard | InputError]:
    """Return, for each file, the shard by its footer, or why it is none; read in parallel.

    A footer that cannot be reached for now is asked for again.
    """

    def read(file: ListedFile) -> Shard | InputError:
        try:
            return retried(lambda: read_shard(root, file, options, default_shape))
        except InputError as error:
            return error

    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        return list(threads.map(read, files))


def open_parquet(
    location: Location, *, streamed: bool = False, dictionaries: Sequence[str] = ()
) -> pq.ParquetFile:
    """Open a Parquet file; raises InputError, naming it, where it is none.

    What is read of it is fetched ahead, or, where it is `streamed`, as it is needed; columns that
    `dictionaries` names are read as such.
    """
    try:
        file = location.filesystem.open_input_file(location.path)
        buffer_size = _STREAM_BYTES if streamed else 0
        return pq.ParquetFile(
            file,
            read_dictionary=list(dictionaries),
            pre_buffer=not streamed,
            buffer_size=buffer_size,
        )
    except OSError as error:
        raise storage_error(f"{location.uri}: cannot be read", error) from error
    except DAMAGED as error:
        raise InputError(
            f"{location.uri}: not a whole Parquet file ({one_line(error)}); replace or remove it."
        ) from error


def list_file(root: Location, path: str) -> ListedFile | None:
    """Return one file below a root as a listing would, or None if it is absent."""
    info = root.join(path).info()
    if info.type != pafs.FileType.File:
        return None
    return ListedFile(path, info.size, info.mtime_ns)


def read_shard(
    root: Location, file: ListedFile, options: ReadOptions, default_shape: ImageShape
) -> Shard:
    """Return what the footer of a listed shard says.

    Raises InputError, naming the shard, where it is not Parquet or has no images that digitsum
    reads.
    """
    location = root.join(file.path)
    if file.refused:
        raise InputError(f"{location.uri}: {file.refused}.")
    with open_parquet(location) as parquet:
        schema = parquet.schema_arrow
        shape = image_shape(schema, options, default_shape, location.uri)
        rows = _row_group_rows(parquet.metadata, schema, options.image_column, location.uri)
    id_column = _id_column(schema, options, location.uri)
    return Shard(file, rows, shape, id_column, options.image_column)


def _row_group_rows(
    metadata: pq.FileMetaData, schema: pa.Schema, image_column: str, where: str
) -> tuple[int, ...]:
    """Return the rows of each row group; raises InputError where the footer contradicts itself.

    Else rows that a damaged footer hides would be neither scored nor rejected.
    """
    groups = row_groups(metadata, where)
    rows = tuple(group.num_rows for group in groups)
    flat = not pa.types.is_nested(schema.field(image_column).type)
    columns = [group.column(image_column) for group in groups] if flat else []
    said = [column.num_values for column in columns if column]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows or (said and [*rows] != said):
        raise InputError(
            f"{where}: its footer contradicts itself on the number of rows; replace it."
        )
    if max(rows, default=0) > MAX_ROW_GROUP_ROWS:
        raise InputError(
            f"{where}: has a row group of {max(rows):,} rows, more than {MAX_ROW_GROUP_ROWS:,}; "
            "write smaller ones."
        )
    return rows


def _id_column(schema: pa.Schema, options: ReadOptions, where: str) -> str | None:
    if options.id_column not in schema.names:
        if options.id_column == IMAGE_ID:
            return None
        raise InputError(f"{where}: has no column {options.id_column!r}; correct --id-column.")
    kind = the_column(schema, options.id_column, where).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return options.id_column
    raise InputError(
        f"{where}: column {options.id_column!r} is of type {kind}, but ids are strings or "
        "integers; correct --id-column."
    )


def read_table(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table, or some of its columns, of a Parquet file that is held in memory.

    By this thread alone: a thread of pyarrow's own that let go of Python's bytes while the process
    ended was seen to abort it. Raises as pyarrow does where it is no Parquet file.
    """
    with pq.ParquetFile(pa.BufferReader(content), pre_buffer=False) as parquet:
        return parquet.read(None if columns is None else list(columns), use_threads=False)
