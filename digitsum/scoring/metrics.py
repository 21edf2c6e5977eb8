"""Comparing predicted sums with true ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from digitsum.scoring.certainty import Certainty

COVERAGES = (0.5, 0.8, 0.9, 0.95, 0.99)

Int64Array = npt.NDArray[np.int64]


def count_pairs(true_sums: Int64Array, predicted_sums: Int64Array, num_classes: int) -> Int64Array:
    """Return the confusion matrix, int64 (num_classes, num_classes): [true, predicted] images."""
    flat = true_sums * num_classes + predicted_sums
    counts: Int64Array = np.bincount(flat, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def wilson_interval(num_right: int, num_images: int) -> tuple[float, float]:
    """Return the 95% interval of a fraction, after Wilson (JASA 22, 1927); NaN without images.

    It takes images to be independent. Those that are composed of few glyphs are not quite.
    """
    if not num_images:
        return math.nan, math.nan
    z = 1.959964
    fraction = num_right / num_images
    centre = fraction + z * z / (2 * num_images)
    spread = fraction * (1 - fraction) / num_images + (z / (2 * num_images)) ** 2
    half = z * math.sqrt(spread)
    scale = 1 + z * z / num_images
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


@dataclass(frozen=True)
class Evaluation:
    """How predicted sums compare with true ones."""

    confusion: Int64Array
    """int64 (num_classes, num_classes): images by [true sum, predicted sum]."""
    num_rejected: int
    """Labelled images that could not be read, and so were not scored."""
    certainty: Certainty = field(default_factory=Certainty.empty)
    """Scored images by their confidence."""
    num_strings: int = 0
    """Scored images whose digits are known, one by one, and were read."""
    num_strings_right: int = 0
    """Those of them whose digits are all right, and in order."""

    @property
    def num_images(self) -> int:
        """Labelled images, scored or rejected."""
        return int(self.confusion.sum()) + self.num_rejected

    @property
    def accuracy(self) -> float:
        """Fraction of all labelled images whose sum is right; a rejected one is not."""
        return self._fraction_within(0)

    @property
    def accuracy_within_1(self) -> float:
        """Fraction of all labelled images whose sum is at most 1 off."""
        return self._fraction_within(1)

    @property
    def mean_absolute_error(self) -> float:
        """Mean of |predicted - true| over the scored images; NaN where none was scored."""
        scored = int(self.confusion.sum())
        return float((self.confusion * self._distance()).sum() / scored) if scored else float("nan")

    @property
    def digits_accuracy(self) -> float:
        """Fraction of the images of known digits that were read exactly; NaN without any."""
        return self.num_strings_right / self.num_strings if self.num_strings else math.nan

    def to_json(self) -> dict[str, Any]:
        """Return the figures, without the matrix; None for one that does not exist."""
        low, high = wilson_interval(int(np.trace(self.confusion)), self.num_images)
        figures = {
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "images": self.num_images,
            "mean_absolute_error": self.mean_absolute_error,
            "accuracy_within_1": self.accuracy_within_1,
            "rejected": self.num_rejected,
            "calibration_error": self.certainty.calibration_error,
            "digits_accuracy": self.digits_accuracy,
        } | {f"accuracy_at_{100 * c:.0f}": self.certainty.accuracy_at(c) for c in COVERAGES}
        return {name: None if math.isnan(value) else value for name, value in figures.items()}

    def _distance(self) -> Int64Array:
        sums = np.arange(len(self.confusion))
        distance: Int64Array = np.abs(sums[:, None] - sums)
        return distance

    def _fraction_within(self, distance: int) -> float:
        right = int(self.confusion[self._distance() <= distance].sum())
        return right / self.num_images if self.num_images else float("nan")
