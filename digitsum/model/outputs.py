"""What a model says of images, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


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


@dataclass(frozen=True)
class Posterior:
    """What a network says of b images."""

    logits: Tensor
    """Float (b, ...): the network's output; of two looks, that by which the digits are read."""
    sum_log_probs: Tensor
    """Float (b, sums): log probability, in nats, of each sum from 0 up, normalized."""
    count_probs: Tensor | None = None
    """Float (b, counts): probability of each number of digits from 0 up; None if not counted."""
    digits: Tensor | None = None
    """int64 (b, k): digits from left to right, then -1; they add up to the most probable sum."""
    digit_x: Tensor | None = None
    """int64 (b, k): the pixel column of each digit's centre, then -1."""

    @staticmethod
    def joined(posteriors: Sequence[Posterior]) -> Posterior:
        """Return what one network says of consecutive batches as one."""
        return _combined(posteriors, torch.cat)

    def of_rows(self, rows: Tensor) -> Posterior:
        """Return what is said of some of the images, int64 (n,)."""
        return _combined([self], lambda of: of[0][rows])

    def with_rows(self, rows: Tensor, other: Posterior) -> Posterior:
        """Return the same, but of some of the images, int64 (n,), what `other` says."""
        return _combined([self, other], lambda of: of[0].index_copy(0, rows, of[1]))


def _combined(
    posteriors: Sequence[Posterior], combine: Callable[[list[Tensor]], Tensor]
) -> Posterior:
    def combined(values: list[Tensor | None]) -> Tensor | None:
        known = [value for value in values if value is not None]
        return combine(known) if known else None

    return Posterior(
        combine([p.logits for p in posteriors]),
        combine([p.sum_log_probs for p in posteriors]),
        combined([p.count_probs for p in posteriors]),
        combined([p.digits for p in posteriors]),
        combined([p.digit_x for p in posteriors]),
    )
