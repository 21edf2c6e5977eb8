"""Format of an archive: column names, shard metadata, image shapes, and the range of sums."""

from __future__ import annotations

import pyarrow as pa

from digitsum.errors import InputError
from digitsum.options import DIGIT_SUM, IMAGE, IMAGE_ID, ImageShape

DIGITS = "digits"

FORMAT_KEY = b"digitsum.format"
HEIGHT_KEY = b"digitsum.height"
WIDTH_KEY = b"digitsum.width"
ARCHIVE_FORMAT = "1"

MAX_DIGIT = 9
MAX_LABEL_DIGITS = (2**15 - 1) // MAX_DIGIT
"""Most digits in an image whose sum is an int16."""


def max_sum(num_digits: int) -> int:
    """Return the largest sum of `num_digits` digits."""
    return MAX_DIGIT * num_digits


def shard_schema(shape: ImageShape, *, labelled: bool, with_digits: bool = False) -> pa.Schema:
    """Return the Arrow schema of the shards that digitsum writes."""
    fields = [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(IMAGE, pa.binary(shape.num_pixels), nullable=False),
    ]
    if labelled:
        fields.append(pa.field(DIGIT_SUM, pa.int16(), nullable=False))
    if with_digits:
        fields.append(pa.field(DIGITS, pa.list_(pa.int8()), nullable=False))
    sizes = {HEIGHT_KEY: str(shape.height), WIDTH_KEY: str(shape.width)}
    return pa.schema(fields, metadata={FORMAT_KEY: ARCHIVE_FORMAT, **sizes})


def find_column(schema: pa.Schema, name: str, where: str, remedy: str = "run again") -> pa.Field:
    """Return a column; raises InputError, naming the shard `where`, if it has none or several.

    Parquet allows several columns of one name, and pyarrow then finds none of them by it.
    """
    if name not in schema.names:
        only = ", ".join(map(repr, schema.names))
        raise InputError(f"{where}: has no column {name!r}, only {only}; {remedy}.")
    if len(schema.get_all_field_indices(name)) > 1:
        raise InputError(f"{where}: has several columns {name!r}; rename all but one of them.")
    return schema.field(name)


def declared_shape(schema: pa.Schema, where: str) -> ImageShape | None:
    """Return the shape that a shard's metadata declares, or None.

    Raises InputError, naming the shard, if the metadata is of another format or malformed.
    """
    metadata = schema.metadata or {}
    version = metadata.get(FORMAT_KEY)
    if version is not None and version != ARCHIVE_FORMAT.encode():
        raise InputError(
            f"{where}: written in format {version.decode(errors='replace')!r}, but this digitsum "
            f"reads format {ARCHIVE_FORMAT!r}; use the digitsum that wrote it, or a newer one."
        )
    if HEIGHT_KEY not in metadata or WIDTH_KEY not in metadata:
        return None
    try:
        return ImageShape(int(metadata[HEIGHT_KEY]), int(metadata[WIDTH_KEY]))
    except (ValueError, InputError) as error:
        raise InputError(
            f"{where}: its metadata digitsum.height or digitsum.width is not a positive number; "
            "correct it, or write the shard again."
        ) from error
