"""The archive's format: column names, shard metadata, image shapes, and the sums' range."""

from __future__ import annotations

import pyarrow as pa

from digitsum.errors import InputError
from digitsum.options import DIGIT_SUM, IMAGE, IMAGE_ID, ImageShape

DIGITS = "digits"

FORMAT_KEY = b"digitsum.format"
HEIGHT_KEY = b"digitsum.height"
WIDTH_KEY = b"digitsum.width"
FORMAT_VERSION = "1"

MAX_DIGIT = 9
MAX_LABEL_DIGITS = (2**15 - 1) // MAX_DIGIT
"""Digits in an image, so that the sum is an int16."""


def max_sum(num_digits: int) -> int:
    """Return the largest sum of `num_digits` digits."""
    return MAX_DIGIT * num_digits


def shard_schema(shape: ImageShape, *, labelled: bool, with_digits: bool = False) -> pa.Schema:
    """Return the Arrow schema of a shard as digitsum writes it."""
    fields = [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(IMAGE, pa.binary(shape.num_pixels), nullable=False),
    ]
    if labelled:
        fields.append(pa.field(DIGIT_SUM, pa.int16(), nullable=False))
    if with_digits:
        fields.append(pa.field(DIGITS, pa.list_(pa.int8()), nullable=False))
    return pa.schema(
        fields,
        metadata={
            FORMAT_KEY: FORMAT_VERSION,
            HEIGHT_KEY: str(shape.height),
            WIDTH_KEY: str(shape.width),
        },
    )


def the_column(schema: pa.Schema, name: str, where: str) -> pa.Field:
    """Return a column that a shard has; raises InputError, naming the shard, where it has several.

    Parquet allows columns of one name, and pyarrow then finds none of them by it.
    """
    if len(schema.get_all_field_indices(name)) > 1:
        raise InputError(f"{where}: has several columns {name!r}; rename all but one of them.")
    return schema.field(name)


def declared_shape(schema: pa.Schema, where: str) -> ImageShape | None:
    """Return the shape a shard's metadata declares, or None; raises InputError where it is off."""
    metadata = schema.metadata or {}
    version = metadata.get(FORMAT_KEY)
    if version is not None and version != FORMAT_VERSION.encode():
        raise InputError(
            f"{where}: written in format {version.decode(errors='replace')!r}, but this digitsum "
            f"reads format {FORMAT_VERSION!r}; use the digitsum that wrote it, or a newer one."
        )
    if HEIGHT_KEY not in metadata or WIDTH_KEY not in metadata:
        return None
    try:
        return ImageShape(int(metadata[HEIGHT_KEY]), int(metadata[WIDTH_KEY]))
    except (ValueError, InputError) as error:
        raise InputError(
            f"{where}: the metadata digitsum.height or .width is no positive number."
        ) from error
