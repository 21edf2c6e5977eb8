"""How a model's predictions are distributed over many images: what one night is compared by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from digitsum.model.outputs import Predictions

CONFIDENCE_EDGES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
"""Between the classes of confidences, which crowd at 1."""

Counts = tuple[int, ...]


@dataclass(frozen=True)
class Distributions:
    """Counts of images; those of parts of an archive add up."""

    sums: Counts = ()
    """By predicted sum, from 0 up."""
    confidences: Counts = ()
    """By confidence: below the first of CONFIDENCE_EDGES, from it to the second, and so on."""
    digit_counts: Counts = ()
    """By the most probable number of digits, from 0 up; () where the model does not count them."""

    @staticmethod
    def of(predictions: Predictions) -> Distributions:
        """Return those of n images."""
        classes = np.searchsorted(CONFIDENCE_EDGES, predictions.confidences, side="right")
        readings = predictions.readings
        return Distributions(
            _counts(np.bincount(predictions.sums)),
            _counts(np.bincount(classes, minlength=len(CONFIDENCE_EDGES) + 1)),
            _counts(np.bincount(readings.count_probs.argmax(axis=1))) if readings else (),
        )

    def __add__(self, other: Distributions) -> Distributions:
        return Distributions(
            _added(self.sums, other.sums),
            _added(self.confidences, other.confidences),
            _added(self.digit_counts, other.digit_counts),
        )

    @property
    def num_images(self) -> int:
        """Images that were counted."""
        return sum(self.sums)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON holds them."""
        return {name: list(counts) for name, counts in asdict(self).items()}

    @staticmethod
    def from_json(found: object) -> Distributions | None:
        """Return what `to_json` gave; None where it is nothing of the kind."""
        if not isinstance(found, Mapping):
            return None
        counts = [found.get(name) for name in ("sums", "confidences", "digit_counts")]
        if not all(isinstance(c, list) and all(map(_is_count, c)) for c in counts):
            return None
        return Distributions(*map(tuple, counts))  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _counts(found: npt.NDArray[np.intp]) -> Counts:
    return tuple(found.tolist())


def _added(one: Counts, other: Counts) -> Counts:
    return tuple(a + b for a, b in zip_longest(one, other, fillvalue=0))
