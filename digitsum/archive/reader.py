"""Reading the images, ids and labels of a chunk, a thousand rows or so at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from digitsum.archive.chunks import Chunk
from digitsum.archive.images import Uint8Array, decode_images, image_shape, used_values
from digitsum.archive.parquet.footer import row_groups
from digitsum.archive.parquet.read_budget import ReadPlan, plan_read
from digitsum.archive.schema import DIGITS, max_sum, the_column
from digitsum.archive.shards import DAMAGED, FOOTER_THREADS, Archive, Shard, open_parquet
from digitsum.errors import InputError, one_line
from digitsum.options import ReadOptions
from digitsum.storage.location import Location, storage_error

BATCH_ROWS = 1024
MAX_ID_BYTES = 1024
"""Of the scores, ids are held until a chunk is done."""


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a shard."""

    first_row: int
    """Index of the first of them within the shard."""
    image_ids: pa.Array
    """string (n,)."""
    pixels: Uint8Array
    """uint8 (n, height, width), C-contiguous, perhaps read-only."""
    errors: dict[int, str]
    """Row within these rows to the reason why its image was rejected."""
    digit_sums: npt.NDArray[np.int64] | None
    """int64 (n,), where labels were asked for."""
    digits: list[list[int] | None] | None = None
    """The true digits of each row, left to right, None where they are null; where the shard has
    them and labels were asked for."""


def read_chunk(
    root: Location,
    chunk: Chunk,
    options: ReadOptions,
    *,
    labels: bool = False,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[Rows]:
    """Yield the rows of a chunk in order, `batch_rows` at a time, whatever its row groups.

    At most so many, for they are fewer where they would take too much memory.

    With `labels`, every row has one: where it is null, InputError names the shard and row. Raises
    InputError too where the shard cannot be read any more.
    """
    location = root.join(chunk.shard)
    columns = [options.image_column]
    columns += [chunk.id_column] if chunk.id_column else []
    columns += [options.label_column] if labels else []
    first_row = chunk.first_row
    with ExitStack() as opened:
        parquet = opened.enter_context(open_parquet(location))
        _check_unchanged(parquet.schema_arrow, chunk, options, columns, location.uri)
        with_digits = labels and _has_digits(parquet.schema_arrow, columns)
        columns += [DIGITS] if with_digits else []
        try:
            plan = _plan_read(parquet, location, chunk, columns, options, batch_rows)
            if plan.streamed or plan.as_dictionary:
                parquet = opened.enter_context(
                    open_parquet(location, streamed=plan.streamed, dictionaries=plan.as_dictionary)
                )
            for batch in parquet.iter_batches(plan.batch_rows, chunk.row_groups, columns):
                yield _rows(batch, first_row, chunk, options, location.uri, labels, with_digits)
                first_row += batch.num_rows
        except OSError as error:
            said = f"{location.uri}: cannot be read after row {first_row}; replace the shard"
            raise storage_error(said, error) from error
        except DAMAGED as error:
            raise InputError(
                f"{location.uri}: cannot be read after row {first_row} ({one_line(error)}); "
                "replace the shard."
            ) from error


def read_labels(root: Location, chunk: Chunk, options: ReadOptions) -> npt.NDArray[np.int64] | None:
    """Return the sums of a chunk, int64 (n,), -1 where there is none; None without the column.

    Raises InputError where the shard cannot be read, or its column holds no integers.
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
    found: npt.NDArray[np.int64] = labels.to_numpy()
    return found


def _plan_read(
    parquet: pq.ParquetFile,
    location: Location,
    chunk: Chunk,
    columns: Sequence[str],
    options: ReadOptions,
    batch_rows: int,
) -> ReadPlan:
    """Return how to read a chunk in bounded memory; raises InputError where that cannot be."""
    groups = row_groups(parquet.metadata, location.uri)
    if max(chunk.row_groups, default=0) >= len(groups):
        raise InputError(f"{location.uri}: was replaced meanwhile (by a shorter one); run again.")
    pixels, limit = chunk.shape.num_pixels, options.max_read_bytes
    with location.filesystem.open_input_file(location.path) as file:
        try:
            wanted = [groups[group] for group in chunk.row_groups]
            return plan_read(
                parquet.schema,
                wanted,
                file,
                columns,
                batch_rows,
                pixels,
                limit,
                is_local=location.is_local,
            )
        except InputError as error:
            raise InputError(f"{location.uri}: {error}") from error
        except ValueError as error:
            raise pa.ArrowInvalid(str(error)) from error


def _check_unchanged(
    schema: pa.Schema, chunk: Chunk, options: ReadOptions, columns: list[str], where: str
) -> None:
    """Raise InputError where a shard is not of the schema it was planned by any more."""
    missing = sorted(set(columns) - set(schema.names))
    if missing or image_shape(schema, options, chunk.shape, where) != chunk.shape:
        what = f"column {missing[0]!r} is gone" if missing else "its images are of another shape"
        raise InputError(f"{where}: was replaced meanwhile ({what}); run again.")
    for name in columns:
        the_column(schema, name, where)


def check_labels(archive: Archive, options: ReadOptions, num_digits: int) -> None:
    """Check that every row of `archive` has a sum within 0..9*num_digits.

    Reads only footers where they hold statistics of the labels, else the label column. Raises
    InputError naming the shard and row group of the first sum that is null or out of range, or
    the shard that has no labels.
    """
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        list(
            threads.map(
                lambda shard: _check_shard_labels(archive.root, shard, options, num_digits),
                archive.shards,
            )
        )


def _rows(
    batch: pa.RecordBatch,
    first_row: int,
    chunk: Chunk,
    options: ReadOptions,
    where: str,
    labels: bool,
    with_digits: bool,
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
    image_ids.validate(full=True)  # ids that are no UTF-8 would be found out by who reads scores
    digit_sums = None
    if labels:
        column = batch.column(options.label_column)
        if column.null_count:
            row = first_row + int(np.flatnonzero(column.is_null())[0])
            raise InputError(f"{where}: row {row}: {options.label_column!r} is null; label it.")
        digit_sums = column.cast(pa.int64()).to_numpy()
    digits = batch.column(DIGITS).to_pylist() if with_digits else None
    return Rows(first_row, image_ids, images.pixels, errors, digit_sums, digits)


def _read_ids(column: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """Return ids as strings, null where they are too long, and the reasons of these rows."""
    if pa.types.is_dictionary(column.type):
        used, indices = used_values(column)
        ids, long_ids = _read_ids(used)
        rows = {row: long_ids[i] for row, i in enumerate(indices.to_pylist()) if i in long_ids}
        return ids.take(indices), rows
    if pa.types.is_integer(column.type):
        return column.cast(pa.string()), {}
    sizes = pc.binary_length(column)
    is_long = pc.greater(sizes, MAX_ID_BYTES)
    if not pc.any(is_long).as_py():
        return column.cast(pa.string()), {}
    rows = {
        int(row): f"image id has {sizes[row]} bytes, more than {MAX_ID_BYTES}"
        for row in np.flatnonzero(is_long.fill_null(False).to_numpy(zero_copy_only=False))
    }
    kept = pc.if_else(is_long, pa.scalar(None, column.type), column)
    return kept.cast(pa.string()), rows


def _has_digits(schema: pa.Schema, read_as_others: list[str]) -> bool:
    if schema.names.count(DIGITS) != 1 or DIGITS in read_as_others:
        return False
    return bool(schema.field(DIGITS).type == pa.list_(pa.int8()))


def _check_shard_labels(
    root: Location, shard: Shard, options: ReadOptions, num_digits: int
) -> None:
    location = root.join(shard.file.path)
    with open_parquet(location) as parquet:
        schema = parquet.schema_arrow
        if options.label_column not in schema.names:
            raise InputError(
                f"{location.uri}: has no column {options.label_column!r}, only "
                f"{', '.join(map(repr, schema.names))}; import with --labels, or name the column "
                "of the true sums with --label-column."
            )
        kind = the_column(schema, options.label_column, location.uri).type
        if not pa.types.is_integer(kind):
            raise InputError(
                f"{location.uri}: column {options.label_column!r} is of type {kind}, but sums are "
                "integers; correct --label-column."
            )
        signed = pa.types.is_signed_integer(kind)
        for number, group in enumerate(row_groups(parquet.metadata, location.uri)):
            column = group.column(options.label_column)
            told = column.integer_range(signed=signed) if column else None
            if group.num_rows:
                _check_group_labels(parquet, number, told, options, num_digits, location.uri)


def _check_group_labels(
    parquet: pq.ParquetFile,
    group: int,
    told: tuple[int, int, int] | None,
    options: ReadOptions,
    num_digits: int,
    where: str,
) -> None:
    if told is None:
        told = _read_label_range(parquet, group, options.label_column, where)
    least, greatest, nulls = told
    place = f"{where}: row group {group}: column {options.label_column!r}"
    if nulls:
        raise InputError(f"{place} holds {nulls} nulls; label every image or remove it.")
    largest = max_sum(num_digits)
    if least < 0 or greatest > largest:
        wrong = least if least < 0 else greatest
        raise InputError(
            f"{place} holds {wrong}, outside 0..{largest}, the sums of {num_digits} digits; "
            "correct the labels or --digits."
        )


def _read_label_range(
    parquet: pq.ParquetFile, group: int, column: str, where: str
) -> tuple[int, int, int]:
    """Return the least and the greatest label of a row group and its nulls."""
    try:
        values = parquet.read_row_group(group, [column]).column(column)
    except (*DAMAGED, OSError) as error:
        raise InputError(
            f"{where}: row group {group}: column {column!r} cannot be read ({one_line(error)}); "
            "replace the shard."
        ) from error
    if not len(values):
        raise InputError(
            f"{where}: row group {group}: column {column!r} has no values, and the row group has "
            "rows: it is damaged; replace the shard."
        )
    if values.null_count:
        return 0, 0, values.null_count
    labels = values.to_numpy()
    return int(labels.min()), int(labels.max()), 0
