"""The sizes of the counter."""

from __future__ import annotations

from dataclasses import dataclass

from digitsum.archive.images import MAX_SIDE
from digitsum.archive.schema import ImageShape
from digitsum.errors import InputError
from digitsum.model.baseline import MAX_NUM_DIGITS

MAX_CHANNELS = 1024
MAX_MIXERS = 16


@dataclass(frozen=True)
class CounterConfig:
    """Sizes of the network; the defaults are the preset `full`."""

    height: int = 40
    width: int = 168
    num_digits: int = 4
    max_digits: int = 8
    stem_channels: int = 16
    body_channels: int = 32
    row_channels: int = 56
    column_channels: int = 128
    num_mixers: int = 3
    digit_offset: int = 0
    """Pixels by which the column that emits a digit lies right of the digit's centre."""

    def __post_init__(self) -> None:
        if not 8 <= self.height <= self.width <= MAX_SIDE:
            raise InputError(
                "the counter takes images of at least 8 pixels in height, at least as wide and at "
                f"most {MAX_SIDE} pixels wide, not {self.height}x{self.width}."
            )
        if not 1 <= self.num_digits <= self.max_digits <= MAX_NUM_DIGITS:
            raise InputError(
                f"the counter counts 1 to {MAX_NUM_DIGITS} digits, and no fewer than it is trained "
                f"on; not {self.max_digits}, trained on {self.num_digits}."
            )
        for name in ("stem_channels", "body_channels", "row_channels", "column_channels"):
            if not 1 <= getattr(self, name) <= MAX_CHANNELS:
                raise InputError(f"{name} {getattr(self, name)}: give 1 to {MAX_CHANNELS}.")
        if not -MAX_SIDE <= self.digit_offset <= MAX_SIDE:
            raise InputError(f"digit_offset {self.digit_offset}: give at most {MAX_SIDE} pixels.")
        if not 0 <= self.num_mixers <= MAX_MIXERS:
            raise InputError(f"num_mixers {self.num_mixers}: give 0 to {MAX_MIXERS}.")

    @property
    def shape(self) -> ImageShape:
        """Shape of the images it is trained on; it reads others of the same height."""
        return ImageShape(self.height, self.width)
