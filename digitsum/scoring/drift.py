"""Drift: whether a night's images are still of the kind that the model was made for.

What the model predicts of them (sums, confidences, numbers of digits) is compared with what it
predicted of its validation images. A shift counts as drift if it is both large and certain: a
population stability index above 0.2, which the field calls a major change (Siddiqi, "Credit Risk
Scorecards", 2006), and a p-value below 0.001 of a chi-square test of homogeneity. Few images exceed
the first by chance, many exceed the second by a trifle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2_contingency

from digitsum.model.outputs import Counts, PredictionStats

MAX_INDEX = 0.2
MAX_P_VALUE = 0.001
MIN_IMAGES = 100
# Classes are joined until each may expect this many images: fewer make chi-square unreliable.
_MIN_EXPECTED = 5.0
# Images added to each class, so that an empty one does not make the index infinite.
_SMOOTHING = 0.5

Quantity = Literal["sums", "confidences", "digit_counts"]
_NAMES: dict[Quantity, str] = {
    "sums": "the predicted sums",
    "confidences": "the confidences",
    "digit_counts": "the numbers of digits",
}


@dataclass(frozen=True)
class Shift:
    """Distance of a distribution from the reference."""

    quantity: Quantity
    index: float
    """Population stability index: the sum of (p - q) ln(p / q) over the classes."""
    p_value: float
    """Of the chi-square test that both are one distribution."""

    @property
    def is_drift(self) -> bool:
        """True if it is both large and certain."""
        return self.index > MAX_INDEX and self.p_value < MAX_P_VALUE

    def sentence(self) -> str:
        """Return whether the quantity drifted, and the figures."""
        state = "have drifted" if self.is_drift else "are as expected"
        figures = f"population stability index {self.index:.2f}, p = {self.p_value:.2g}"
        return f"{_NAMES[self.quantity]} {state} ({figures})"


def find_shifts(predicted: PredictionStats, reference: PredictionStats) -> tuple[Shift, ...]:
    """Return how far each quantity that both have is from the reference; () for too few images."""
    if min(predicted.num_images, reference.num_images) < MIN_IMAGES:
        return ()
    counts = ((q, getattr(predicted, q), getattr(reference, q)) for q in _NAMES)
    return tuple(find_shift(*of_both) for of_both in counts if all(of_both))


def find_shift(quantity: Quantity, predicted: Counts, reference: Counts) -> Shift:
    """Return how far counts by class are from those of the reference."""
    counts = np.zeros((2, max(len(predicted), len(reference))))
    counts[0, : len(predicted)] = predicted
    counts[1, : len(reference)] = reference
    joined = _join_classes(counts)
    if joined.shape[1] < 2:
        return Shift(quantity, 0.0, 1.0)
    smoothed = joined + _SMOOTHING
    p, q = smoothed / smoothed.sum(axis=1, keepdims=True)
    index = float(((p - q) * np.log(p / q)).sum())
    return Shift(quantity, index, float(chi2_contingency(joined).pvalue))


def _join_classes(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Join neighbouring classes, float64 (2, k), until each may expect enough on both sides."""
    total = counts.sum()
    if not total:
        return counts[:, :1]
    min_share = counts.sum(axis=1).min() / total
    starts, num_images = [0], 0.0
    for column, of_class in enumerate(counts.sum(axis=0), start=1):
        num_images += of_class
        if num_images * min_share >= _MIN_EXPECTED:
            starts.append(column)
            num_images = 0.0
    # The images after the last whole class belong to it.
    joined: npt.NDArray[np.float64] = np.add.reduceat(counts, starts[:-1] or [0], axis=1)
    return joined


def drift_sentence(shifts: Sequence[Shift]) -> str:
    """Return what a night's shifts amount to."""
    if not shifts:
        return (
            f"drift: not judged: the run scored fewer than {MIN_IMAGES} images, or the model "
            "holds no reference"
        )
    drifted = "; ".join(shift.sentence() for shift in shifts if shift.is_drift)
    if drifted:
        return f"drift: {drifted}; are the images of another kind, inverted, or of another size?"
    return f"no drift: {'; '.join(shift.sentence() for shift in shifts)}"
