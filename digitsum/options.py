"""Fractions as users write them: a percentage such as 0.1%, or a fraction such as 0.001."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import Positional

from digitsum.errors import InputError

IMAGE_ID = "image_id"
IMAGE = "image"
DIGIT_SUM = "digit_sum"


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


def parse_fraction(option: str, text: str) -> float:
    """Return the fraction, 0..1, that an option was given; raises InputError, naming it."""
    number = text.strip()
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        raise InputError(
            f"{option} {text}: give a percentage such as 0.1%, or a fraction such as 0.001."
        ) from None
    value = value / 100 if number.endswith("%") else value
    if not 0 <= value <= 1:
        raise InputError(f"{option} {text}: give 0% to 100%.")
    return value


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Make the report of a run, of training or scoring, again: report.html, one file."""

    run: Positional[str]
    """The run: a directory or URI, below the _runs/ of scores or beside a model."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Say what a place holds: an archive, scores, a model or a run."""

    path: Positional[str]
    """Directory, file or URI."""
    json: bool = False
    """Say it as one JSON object."""
    sheet: str | None = None
    """Where to write a contact sheet, PNG: some of its images with their sums."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How to read an archive."""
