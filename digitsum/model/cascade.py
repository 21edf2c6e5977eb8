"""A second look at the images that a network is not sure of: the mean of two opinions.

A network with strides reads an image otherwise where it is moved by less than a stride (Azulay and
Weiss, "Why do deep convolutional networks generalize so poorly to small image transformations?",
JMLR 20, 2019), and where it errs for that reason it is seldom sure. Half a column across
and one pixel down is one of several moves that make most images of the validation glyphs right,
distorted or not (`benchmarks/cascade.py`). Ink in the last row and the last two columns is lost
to the second look.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from digitsum.archive.images import Uint8Array
from digitsum.model.network import SumNetwork
from digitsum.model.outputs import Posterior

RIGHT, DOWN = 2, 1
"""Pixels by which an image is moved for the second look."""


def moved(pixels: Uint8Array) -> Uint8Array:
    """Return images, uint8 (n, h, w), moved; what comes in from the borders is blank."""
    images = np.zeros_like(pixels)
    images[:, DOWN:, RIGHT:] = pixels[:, :-DOWN, :-RIGHT]
    return images


def mean_of_looks(
    network: SumNetwork, first: Posterior, second: Posterior, num_digits: int | None
) -> Posterior:
    """Return the mean of what a network says of b images, and of the same images moved.

    The digits are those that the look reads which makes the mean's most probable sum more probable.
    """
    sum_log_probs = torch.logaddexp(first.sum_log_probs, second.sum_log_probs) - math.log(2)
    sums_b = sum_log_probs.argmax(dim=1)
    by_second = _of(second, sums_b) > _of(first, sums_b)
    as_logits = by_second.reshape(-1, *(1 for _ in first.logits.shape[1:]))
    mean = network.posterior_of(
        second.logits.where(as_logits, first.logits),
        sum_log_probs,
        _mean(first.count_probs, second.count_probs),
        num_digits,
    )
    if mean.digit_x is None:
        return mean
    is_moved = by_second.unsqueeze(1) & (mean.digit_x >= 0)
    return replace(mean, digit_x=(mean.digit_x - RIGHT).clamp(min=0).where(is_moved, mean.digit_x))


def _mean(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else (first + second) / 2


def _of(look: Posterior, sums_b: Tensor) -> Tensor:
    return look.sum_log_probs.gather(1, sums_b.unsqueeze(1)).squeeze(1)
