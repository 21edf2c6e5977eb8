"""The archive's format: column names, shard metadata, image shapes, and the sums' range."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from digitsum.errors import InputError

IMAGE_ID = "image_id"
IMAGE = "image"
DIGIT_SUM = "digit_sum"
DIGITS = "digits"

FORMAT_KEY = b"digitsum.format"
HEIGHT_KEY = b"digitsum.height"
WIDTH_KEY = b"digitsum.width"
FORMAT_VERSION = "1"

MAX_DIGIT = 9
MAX_LABEL_DIGITS = (2**15 - 1) // MAX_DIGIT
"""Digits in an image, so that the sum is an int16."""


@dataclass(frozen=True)
class ImageShape:
    """Height and width of every image of a shard, in pixels."""

    height: int = 40
    width: int = 168

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InputError(f"an image of {self} pixels cannot be; give positive sizes.")

    @property
    def num_pixels(self) -> int:
        """Pixels, and so bytes, of an image."""
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


DEFAULT_SHAPE = ImageShape()


@dataclass(frozen=True)
class ReadOptions:
    """How to read shards that digitsum did not write; the defaults fit those that it did."""

    image_column: str = IMAGE
    """Column that holds the images."""
    id_column: str = IMAGE_ID
    """Column that holds the image ids; where the default is absent or null, they are SHARD#ROW."""
    label_column: str = DIGIT_SUM
    """Column that holds the true sums."""
    height: int | None = None
    """Image height in pixels, where the shards do not say it themselves."""
    width: int | None = None
    """Image width in pixels, where the shards do not say it themselves."""
    max_read_mb: int = 1024
    """Memory, in MB, that a batch of rows may take while it is read; what would take more is
    rejected. Each actor reads by itself; threads do, one more than there would be actors."""
    follow_links: bool = False
    """Read shards too that symbolic links out of the archive lead to."""

    def __post_init__(self) -> None:
        if self.max_read_mb < 1:
            raise InputError(f"--max-read-mb {self.max_read_mb}: give at least 1.")
        if (self.height is None) != (self.width is None):
            raise InputError("--height and --width belong together: give both or neither.")

    @property
    def max_read_bytes(self) -> int:
        """Bytes that a batch of rows may take while it is read."""
        return self.max_read_mb * 2**20

    @property
    def shape(self) -> ImageShape | None:
        """The shape the caller gave, or None."""
        if self.height is None or self.width is None:
            return None
        return ImageShape(self.height, self.width)


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
