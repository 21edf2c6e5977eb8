"""Rows of a chunk: images, ids and labels, a thousand at a time; and the check of all labels."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from digitsum.archive.chunks import Chunk
from digitsum.archive.images import Uint8Array, decode_images, image_shape, used_values
from digitsum.archive.parquet.files import DAMAGED, open_parquet, read_batches
from digitsum.archive.parquet.footer import row_groups
from digitsum.archive.parquet.read_budget import ReadBudget
from digitsum.archive.schema import DIGITS, find_column, max_sum
from digitsum.archive.shards import FOOTER_THREADS, Archive
from digitsum.errors import InputError, one_line
from digitsum.options import ReadOptions
from digitsum.storage.location import Location, storage_error

BATCH_ROWS = 1024
MAX_ID_BYTES = 1024
"""Ids are held in memory until their chunk is scored."""


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a shard."""

    first_row: int
    """Index of the first row within the shard."""
    image_ids: pa.Array
    """string (n,)."""
    pixels: Uint8Array
    """uint8 (n, height, width), C-contiguous, perhaps read-only."""
    errors: dict[int, str]
    """Row within these rows to the reason why its image was rejected."""
    digit_sums: npt.NDArray[np.int64] | None
    """int64 (n,); None if labels were not asked for."""
    digits: list[list[int] | None] | None = None
    """True digits of each row, left to right; None if not in the shard or not asked for."""


def read_chunk(
    root: Location,
    chunk: Chunk,
    options: ReadOptions,
    *,
    labels: bool = False,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[Rows]:
    """Yield the rows of a chunk in order, at most `batch_rows` at a time; fewer if they are large.

    Raises InputError if the shard cannot be read or was replaced, or if `labels` are wanted and one
    is null; StorageError if that may pass.
    """
    location = root.join(chunk.shard)
    columns = [options.image_column]
    columns += [chunk.id_column] if chunk.id_column else []
    columns += [options.label_column] if labels else []
    first_row = chunk.first_row
    with open_parquet(location) as parquet:
        schema = parquet.schema_arrow
        _check_schema(schema, chunk, options, columns, location.uri)
        columns += [DIGITS] if labels and _has_digits(schema, columns) else []
        try:
            budget = ReadBudget(batch_rows, chunk.shape.num_pixels, options.max_read_bytes)
            for batch in read_batches(parquet, location, chunk.row_groups, columns, budget):
                yield _decode(batch, first_row, chunk, options, location.uri, labels=labels)
                first_row += batch.num_rows
        except OSError as error:
            message = f"{location.uri}: cannot be read after row {first_row}; replace the shard"
            raise storage_error(message, error) from error
        except DAMAGED as error:
            raise InputError(
                f"{location.uri}: cannot be read after row {first_row} ({one_line(error)}); "
                "replace the shard."
            ) from error


def read_labels(root: Location, chunk: Chunk, options: ReadOptions) -> npt.NDArray[np.int64] | None:
    """Return the sums of a chunk, int64 (n,), -1 if null; None if the shard has no such column.

    Raises InputError if the shard cannot be read, or the column does not hold integers.
    """
    location = root.join(chunk.shard)
    with open_parquet(location) as parquet:
        if options.label_column not in parquet.schema_arrow.names:
            return None
        try:
            table = parquet.read_row_groups(list(chunk.row_groups), [options.label_column])
            labels = table.column(0).cast(pa.int64()).fill_null(-1)
        except (*DAMAGED, OSError) as error:
            raise InputError(
                f"{location.uri}: column {options.label_column!r} cannot be read as sums "
                f"({one_line(error)}); correct --label-column, or replace the shard."
            ) from error
    sums: npt.NDArray[np.int64] = labels.to_numpy()
    return sums


def _check_schema(
    schema: pa.Schema, chunk: Chunk, options: ReadOptions, columns: list[str], where: str
) -> None:
    """Raise InputError if a shard has another schema than when its chunks were planned."""
    missing = sorted(set(columns) - set(schema.names))
    if missing or image_shape(schema, options, chunk.shape, where) != chunk.shape:
        what = f"column {missing[0]!r} is gone" if missing else "its images are of another shape"
        raise InputError(f"{where}: was replaced meanwhile ({what}); run again.")
    for name in columns:
        find_column(schema, name, where)


def _has_digits(schema: pa.Schema, columns: list[str]) -> bool:
    """Return whether there is a column of true digits that is not read as something else."""
    is_one = schema.names.count(DIGITS) == 1 and DIGITS not in columns
    return is_one and schema.field(DIGITS).type.equals(pa.list_(pa.int8()))


def _decode(
    batch: pa.RecordBatch,
    first_row: int,
    chunk: Chunk,
    options: ReadOptions,
    where: str,
    *,
    labels: bool,
) -> Rows:
    images = decode_images(batch.column(options.image_column), chunk.shape)
    errors = images.errors
    if chunk.id_column:
        image_ids, long_ids = _read_ids(batch.column(chunk.id_column))
        errors = errors | long_ids
    else:
        image_ids = pa.nulls(batch.num_rows, pa.string())
    if image_ids.null_count:
        made = [f"{chunk.shard}#{first_row + row}" for row in range(batch.num_rows)]
        image_ids = pc.coalesce(image_ids, pa.array(made, pa.string()))
    image_ids.validate(full=True)  # else ids that are not UTF-8 would reach the scores
    if not labels:
        return Rows(first_row, image_ids, images.pixels, errors, None)
    column = batch.column(options.label_column)
    if column.null_count:
        row = first_row + int(np.flatnonzero(column.is_null())[0])
        raise InputError(f"{where}: row {row}: {options.label_column!r} is null; label it.")
    digit_sums = column.cast(pa.int64()).to_numpy()
    has_digits = _has_digits(batch.schema, [options.image_column, options.label_column])
    digits = batch.column(DIGITS).to_pylist() if has_digits else None
    return Rows(first_row, image_ids, images.pixels, errors, digit_sums, digits)


def _read_ids(column: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """Return ids as strings, null if they are too long, and the reasons of these rows."""
    if pa.types.is_dictionary(column.type):
        used, indices = used_values(column)
        ids, long_ids = _read_ids(used)
        rows = {row: long_ids[i] for row, i in enumerate(indices.to_pylist()) if i in long_ids}
        return ids.take(indices), rows
    if pa.types.is_integer(column.type):
        return column.cast(pa.string()), {}
    sizes = pc.binary_length(column)
    is_long = pc.greater(sizes, MAX_ID_BYTES)
    rows = {
        int(row): f"image id has {sizes[row]} bytes, more than {MAX_ID_BYTES}"
        for row in np.flatnonzero(is_long.fill_null(False))
    }
    kept = pc.if_else(is_long, pa.scalar(None, column.type), column) if rows else column
    return kept.cast(pa.string()), rows


def check_labels(archive: Archive, options: ReadOptions, num_digits: int) -> None:
    """Raise InputError, naming shard and row group, unless every row's sum is 0..9*num_digits.

    Reads only footers if they hold statistics of the labels, else the label column.
    """
    locations = [archive.root.join(shard.file.path) for shard in archive.shards]
    check = partial(_check_labels, options.label_column, num_digits)
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        list(threads.map(check, locations))


def _check_labels(name: str, num_digits: int, location: Location) -> None:
    with open_parquet(location) as parquet:
        remedy = "import with --labels, or name the column of the true sums with --label-column"
        kind = find_column(parquet.schema_arrow, name, location.uri, remedy).type
        if not pa.types.is_integer(kind):
            raise InputError(
                f"{location.uri}: column {name!r} is of type {kind}, but sums are integers; "
                "correct --label-column."
            )
        signed = pa.types.is_signed_integer(kind)
        for number, group in enumerate(row_groups(parquet.metadata, location.uri)):
            if not group.num_rows:
                continue
            where = f"{location.uri}: row group {number}: column {name!r}"
            column = group.column(name)
            known = column.integer_range(signed=signed) if column else None
            least, most, nulls = known or _read_range(parquet, number, name, where)
            if nulls:
                raise InputError(f"{where} holds {nulls} nulls; label every image or remove it.")
            if least < 0 or most > max_sum(num_digits):
                raise InputError(
                    f"{where} holds {least if least < 0 else most}, outside "
                    f"0..{max_sum(num_digits)}, the sums of {num_digits} digits; correct the "
                    "labels or --digits."
                )


def _read_range(
    parquet: pq.ParquetFile, group: int, column: str, where: str
) -> tuple[int, int, int]:
    """Return the minimum and the maximum of a row group's labels, and the number of nulls."""
    try:
        labels = parquet.read_row_group(group, [column]).column(column)
        if not len(labels):
            raise pa.ArrowInvalid("it has no values, but the row group has rows")
    except (*DAMAGED, OSError) as error:
        raise InputError(
            f"{where} cannot be read ({one_line(error)}); replace the shard."
        ) from error
    ends = pc.min_max(labels, skip_nulls=True).as_py()
    return ends["min"] or 0, ends["max"] or 0, labels.null_count
