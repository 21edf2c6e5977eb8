"""Results of a network and of a model: posteriors as tensors, predictions as numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


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
            self.readings.digits[is_kept],
            self.readings.digit_x[is_kept],
            self.readings.count_probs[is_kept],
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
