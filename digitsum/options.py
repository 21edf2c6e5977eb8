"""Option types that several commands share, and the checks of option values.

The configurations of `report` and `inspect` are here too: the command line is parsed without
importing what draws reports.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import Positional

from digitsum.errors import InputError

IMAGE_ID = "image_id"
IMAGE = "image"
DIGIT_SUM = "digit_sum"


def flag(field_name: str) -> str:
    """Return the command-line flag of an option's field: `max_read_mb` -> `--max-read-mb`."""
    return f"--{field_name.replace('_', '-')}"


def check_at_least(config: object, least: float, *field_names: str) -> None:
    """Raise InputError if one of these options of `config` is below `least`; None passes."""
    for name in field_names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise InputError(f"{flag(name)} {value}: give at least {least}.")


def parse_fraction(option: str, text: str) -> float:
    """Return the fraction, 0..1, that a user wrote as 0.1% or as 0.001.

    Raises InputError, naming the flag `option`, if the text is neither.
    """
    number = text.strip()
    try:
        value = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise InputError(
            f"{option} {text}: give a percentage such as 0.1%, or a fraction such as 0.001."
        ) from None
    if not 0 <= value <= 1:
        raise InputError(f"{option} {text}: give 0% to 100%.")
    return value


@dataclass(frozen=True)
class ImageShape:
    """Height and width of every image of a shard, in pixels."""

    height: int = 40
    width: int = 168

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InputError(f"images cannot be {self} pixels; give positive sizes.")

    @property
    def num_pixels(self) -> int:
        """Number of pixels, and so of bytes, of an image."""
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


DEFAULT_SHAPE = ImageShape()


@dataclass(frozen=True)
class ReadOptions:
    """Reading of shards that digitsum did not write; the defaults fit those that it wrote."""

    image_column: str = IMAGE
    """Column that holds the images."""
    id_column: str = IMAGE_ID
    """Column that holds the image ids; if the default is absent or null, they are SHARD#ROW."""
    label_column: str = DIGIT_SUM
    """Column that holds the true sums."""
    height: int | None = None
    """Image height in pixels, if the shards do not declare it."""
    width: int | None = None
    """Image width in pixels, if the shards do not declare it."""
    max_read_mb: int = 1024
    """Memory in MB for the rows that an actor or thread reads at once; larger rows are rejected."""
    follow_links: bool = False
    """Also read shards behind symbolic links that lead out of the archive."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "max_read_mb")
        if (self.height is None) != (self.width is None):
            raise InputError("--height and --width belong together: give both or neither.")

    @property
    def max_read_bytes(self) -> int:
        """Bytes that a batch of rows may use while it is read."""
        return self.max_read_mb * 2**20

    @property
    def shape(self) -> ImageShape | None:
        """Shape that the user gave, or None."""
        if self.height is None or self.width is None:
            return None
        return ImageShape(self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Make the report of a scoring or training run, or of an evaluation, again: report.html."""

    run: Positional[str]
    """Directory or URI of a run, below _runs/, or the directory that evaluate --report wrote."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Show what a directory or file holds: an archive, scores, a model or a run."""

    path: Positional[str]
    """Directory, file or URI."""
    json: bool = False
    """Print one JSON object."""
    sheet: str | None = None
    """Write a contact sheet, PNG, of some images with their sums to this file."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """Reading of an archive."""
