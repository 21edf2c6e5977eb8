"""What a model says of images, whatever runs it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Predictions:
    """What a model says of n images."""

    sums: npt.NDArray[np.int16]
    """int16 (n,): the most probable sum."""
    confidences: npt.NDArray[np.float32]
    """float32 (n,): the probability of that sum, 0..1."""
    readings: Readings | None = None
    """The digits, where the model reads digits."""

    def without(self, rows: Collection[int]) -> Predictions:
        """Return those of all images but some rows."""
        if not rows:
            return self
        kept = np.ones(len(self.sums), bool)
        kept[list(rows)] = False
        readings = self.readings and Readings(
            self.readings.digits[kept],
            self.readings.digit_x[kept],
            self.readings.count_probs[kept],
        )
        return Predictions(self.sums[kept], self.confidences[kept], readings)


@dataclass(frozen=True)
class Readings:
    """The digits that were read on n images, from left to right; they add up to the sums."""

    digits: npt.NDArray[np.int8]
    """int8 (n, columns): the digits of an image, then -1."""
    digit_x: npt.NDArray[np.int16]
    """int16 (n, columns): the pixel column of each digit's centre, then -1."""
    count_probs: npt.NDArray[np.float32]
    """float32 (n, counts): the probability that an image holds 0, 1, 2, ... digits, as far as
    the model tells counts apart."""
