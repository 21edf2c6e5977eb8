"""Comparing predicted sums with true ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


def count_pairs(true_sums: Int64Array, predicted_sums: Int64Array, num_classes: int) -> Int64Array:
    """Return the confusion matrix, int64 (num_classes, num_classes): [true, predicted] images."""
    flat = true_sums * num_classes + predicted_sums
    counts: Int64Array = np.bincount(flat, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Evaluation:
    """How predicted sums compare with true ones."""

    confusion: Int64Array
    """int64 (num_classes, num_classes): images by [true sum, predicted sum]."""
    num_rejected: int
    """Labelled images that could not be read, and so were not scored."""

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

    def to_json(self) -> dict[str, Any]:
        """Return the figures, without the matrix; None for one that does not exist."""
        figures = {
            "accuracy": self.accuracy,
            "images": self.num_images,
            "mean_absolute_error": self.mean_absolute_error,
            "accuracy_within_1": self.accuracy_within_1,
            "rejected": self.num_rejected,
        }
        return {name: None if math.isnan(value) else value for name, value in figures.items()}

    def _distance(self) -> Int64Array:
        sums = np.arange(len(self.confusion))
        distance: Int64Array = np.abs(sums[:, None] - sums)
        return distance

    def _fraction_within(self, distance: int) -> float:
        right = int(self.confusion[self._distance() <= distance].sum())
        return right / self.num_images if self.num_images else float("nan")
