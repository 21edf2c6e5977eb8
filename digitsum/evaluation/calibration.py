"""Calibration of a model: whether it is right as often as its confidence says, and at which."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import PlainSerializer, PlainValidator

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

CALIBRATION_BINS = 15
# Most confidences are near 1, so levels are steps of 0.02 in the log odds of the confidence.
_MAX_LOG_ODDS = 16.0
_STEPS_PER_NAT = 50
NUM_LEVELS = 2 * int(_MAX_LOG_ODDS * _STEPS_PER_NAT) + 1


def _to_sparse(counts: npt.NDArray[Any]) -> dict[str, Any]:
    places = [axis.tolist() for axis in np.nonzero(counts)]
    return {"shape": counts.shape, "places": places, "counts": counts[counts != 0].tolist()}


def _from_sparse(sparse: dict[str, Any]) -> npt.NDArray[Any]:
    counts = np.zeros(sparse["shape"], np.int64)
    counts[tuple(np.array(sparse["places"], np.int64))] = sparse["counts"]
    return counts


SparseCounts = Annotated[Int64Array, PlainValidator(_from_sparse), PlainSerializer(_to_sparse)]
"""Counts of which most are 0; JSON holds the places of the others."""
Bins = Annotated[
    Float64Array,
    PlainValidator(lambda rows: np.array(rows, np.float64)),
    PlainSerializer(lambda bins: bins.tolist()),
]


@dataclass(frozen=True)
class ConfidenceCounts:
    """Counts of images by confidence; the counts of two parts of an archive add up."""

    bins: Bins
    """float64 (15, 3): images, right ones and summed confidence, by confidence in equal widths."""
    levels: SparseCounts
    """int64 (levels, 2): images and right ones, by rising log odds of the confidence."""

    @staticmethod
    def empty() -> ConfidenceCounts:
        """Return counts of zero images."""
        return ConfidenceCounts(
            np.zeros((CALIBRATION_BINS, 3)), np.zeros((NUM_LEVELS, 2), np.int64)
        )

    @staticmethod
    def of(
        confidences: npt.NDArray[np.float32], is_right: npt.NDArray[np.bool_]
    ) -> ConfidenceCounts:
        """Return the counts of n images of confidence 0..1 (n,), right or not (n,)."""
        confidence = confidences.astype(np.float64).clip(0, 1)
        bin_ = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        weights = (None, is_right.astype(np.float64), confidence)
        bins = [np.bincount(bin_, weight, CALIBRATION_BINS) for weight in weights]
        with np.errstate(divide="ignore"):
            log_odds = np.log(confidence) - np.log1p(-confidence)
        steps = np.rint(log_odds.clip(-_MAX_LOG_ODDS, _MAX_LOG_ODDS) * _STEPS_PER_NAT)
        level = steps.astype(np.int64) + NUM_LEVELS // 2
        levels = [np.bincount(of, minlength=NUM_LEVELS) for of in (level, level[is_right])]
        return ConfidenceCounts(np.stack(bins, axis=1).astype(np.float64), np.stack(levels, axis=1))

    def __add__(self, other: ConfidenceCounts) -> ConfidenceCounts:
        return ConfidenceCounts(self.bins + other.bins, self.levels + other.levels)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: the mean of |accuracy - confidence| over images, in 15 bins.

        Guo et al., "On calibration of modern neural networks", ICML 2017. NaN without images.
        """
        images, right, confidence = self.bins.T
        total = images.sum()
        return float(np.abs(right - confidence).sum() / total) if total else math.nan

    def accuracy_at(self, coverage: float) -> float:
        """Return the accuracy of the most confident `coverage`, 0..1, of the images.

        Images of equal confidence count in proportion. NaN without images.
        """
        covered, right = self._from_most_confident()
        wanted = coverage * covered[-1]
        return float(np.interp(wanted, covered, right) / wanted) if wanted else math.nan

    def curve(self) -> tuple[Float64Array, Float64Array]:
        """Return coverages, rising to 1, and the accuracy at each."""
        covered, right = self._from_most_confident()
        is_some = covered > 0
        return covered[is_some] / max(covered[-1], 1), right[is_some] / covered[is_some]

    def _from_most_confident(self) -> tuple[Float64Array, Float64Array]:
        """Return how many images, and how many right ones, have at least each confidence."""
        summed = np.cumsum(self.levels[::-1], axis=0).astype(np.float64)
        covered, right = np.concatenate([np.zeros((1, 2)), summed]).T
        return covered, right
