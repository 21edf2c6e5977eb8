"""Counts of a model's predictions over many images, by which one night is compared with another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from digitsum.model.outputs import Predictions

CONFIDENCE_EDGES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
"""Edges between the classes of confidences, which crowd at 1."""

Counts = tuple[int, ...]


@dataclass(frozen=True)
class PredictionStats:
    """Counts of images; those of an archive's parts add up."""

    sums: Counts = ()
    """Images by predicted sum, from 0 up."""
    confidences: Counts = ()
    """Images by confidence: below the first of CONFIDENCE_EDGES, up to the second, and so on."""
    digit_counts: Counts = ()
    """Images by the most probable number of digits, from 0 up; () if the model counts none."""

    @staticmethod
    def of(predictions: Predictions) -> PredictionStats:
        """Return the counts of n images."""
        classes = np.searchsorted(CONFIDENCE_EDGES, predictions.confidences, side="right")
        readings = predictions.readings
        return PredictionStats(
            _to_counts(np.bincount(predictions.sums)),
            _to_counts(np.bincount(classes, minlength=len(CONFIDENCE_EDGES) + 1)),
            _to_counts(np.bincount(readings.count_probs.argmax(axis=1))) if readings else (),
        )

    def __add__(self, other: PredictionStats) -> PredictionStats:
        return PredictionStats(
            _add(self.sums, other.sums),
            _add(self.confidences, other.confidences),
            _add(self.digit_counts, other.digit_counts),
        )

    @property
    def num_images(self) -> int:
        """Number of images counted."""
        return sum(self.sums)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON holds them."""
        return {name: list(counts) for name, counts in asdict(self).items()}

    @staticmethod
    def from_json(value: object) -> PredictionStats | None:
        """Return the counts that `to_json` gave; None if the value is anything else."""
        if not isinstance(value, Mapping):
            return None
        counts = [value.get(name) for name in ("sums", "confidences", "digit_counts")]
        if not all(isinstance(c, list) and all(map(_is_count, c)) for c in counts):
            return None
        return PredictionStats(*map(tuple, counts))  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _to_counts(array: npt.NDArray[np.intp]) -> Counts:
    return tuple(array.tolist())


def _add(left: Counts, right: Counts) -> Counts:
    return tuple(a + b for a, b in zip_longest(left, right, fillvalue=0))
