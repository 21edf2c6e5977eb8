"""Results of a network and of a model: posteriors, predictions and their counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

CONFIDENCE_EDGES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
"""Edges between the classes of confidences, which crowd at 1."""

Counts = tuple[Annotated[int, Field(ge=0)], ...]


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for n images."""

    sums: npt.NDArray[np.int16]
    """int16 (n,): the most probable sum."""
    confidences: npt.NDArray[np.float32]
    """float32 (n,): the probability of that sum, 0..1."""
    readings: DigitReadings | None = None
    """The digits; None if the network reads none."""

    def without(self, rows: Collection[int]) -> Predictions:
        """Return the predictions for all images except some rows."""
        if not rows:
            return self
        is_kept = np.ones(len(self.sums), bool)
        is_kept[list(rows)] = False
        readings = self.readings and DigitReadings(
            *(a[is_kept] for a in vars(self.readings).values())
        )
        return Predictions(self.sums[is_kept], self.confidences[is_kept], readings)


@dataclass(frozen=True)
class DigitReadings:
    """The digits read on n images, from left to right; they add up to the predicted sums."""

    digits: npt.NDArray[np.int8]
    """int8 (n, columns): the digits of an image, then -1."""
    digit_x: npt.NDArray[np.int16]
    """int16 (n, columns): the pixel column of each digit's centre, then -1."""
    count_probs: npt.NDArray[np.float32]
    """float32 (n, counts): the probability that an image holds 0, 1, 2, ... digits."""


@dataclass(frozen=True)
class PredictionStats:
    """Counts of a model's predictions for many images; those of an archive's parts add up."""

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
            tuple(np.bincount(predictions.sums).tolist()),
            tuple(np.bincount(classes, minlength=len(CONFIDENCE_EDGES) + 1).tolist()),
            tuple(np.bincount(readings.count_probs.argmax(axis=1)).tolist()) if readings else (),
        )

    def __add__(self, other: PredictionStats) -> PredictionStats:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return PredictionStats(*(tuple(map(sum, zip_longest(*p, fillvalue=0))) for p in pairs))

    @property
    def num_images(self) -> int:
        """Number of images counted."""
        return sum(self.sums)


@dataclass(frozen=True)
class Explanation:
    """The digits read on one image, and how probable others were."""

    column_probs: npt.NDArray[np.float32]
    """float32 (columns, 11): the probability of each symbol in each column, blank first."""
    digits: tuple[int, ...]
    """From left to right."""
    digit_x: tuple[int, ...]
    """The pixel column of each digit's centre."""


@dataclass(frozen=True)
class Posterior:
    """The distributions that a network infers for b images, and the digits it reads."""

    logits: Tensor
    """Float (b, ...): the network's output; of two passes, the one whose digits are read."""
    sum_log_probs: Tensor
    """Float (b, sums): log probability, in nats, of each sum from 0 up, normalized."""
    count_probs: Tensor | None = None
    """Float (b, counts): probability of each number of digits from 0 up; None if not counted."""
    digits: Tensor | None = None
    """int64 (b, k): digits from left to right, then -1; they add up to the most probable sum."""
    digit_x: Tensor | None = None
    """int64 (b, k): the pixel column of each digit's centre, then -1."""

    @staticmethod
    def concatenate(posteriors: Sequence[Posterior]) -> Posterior:
        """Return the posteriors of consecutive batches as one."""
        return _map_fields(torch.cat, posteriors)

    def select(self, rows: Tensor) -> Posterior:
        """Return the posterior of some of the images, int64 (n,)."""
        return _map_fields(lambda values: values[0][rows], [self])

    def replace(self, rows: Tensor, other: Posterior) -> Posterior:
        """Return this posterior with some rows, int64 (n,), taken from `other`."""
        return _map_fields(lambda values: values[0].index_copy(0, rows, values[1]), [self, other])


def _map_fields(function: Callable[[Any], Tensor], posteriors: Sequence[Posterior]) -> Posterior:
    """Apply a function to the posteriors' values of each field; a field without values is None."""
    names = [field.name for field in fields(Posterior)]
    values = {name: [getattr(posterior, name) for posterior in posteriors] for name in names}
    return Posterior(**{name: function(v) for name, v in values.items() if v[0] is not None})
