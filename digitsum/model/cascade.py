"""The cascade: a second pass over the images that a network is unsure of, averaged with the first.

A network with strides reads an image differently if it is shifted by less than a stride (Azulay
and Weiss, "Why do deep convolutional networks generalize so poorly to small image
transformations?", JMLR 20, 2019), and it is seldom sure if it errs for that reason. Half a column
to the right and one pixel down is one of several shifts that get most images of the validation
glyphs right, distorted or not (`benchmarks/cascade.py`). The second pass loses the ink in the last
row and the last two columns.
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

SHIFT_RIGHT, SHIFT_DOWN = 2, 1
"""Pixels by which the second pass shifts an image."""


def shift_images(pixels: Uint8Array) -> Uint8Array:
    """Return images, uint8 (n, h, w), shifted right and down; what enters at the borders is 0."""
    shifted = np.zeros_like(pixels)
    shifted[:, SHIFT_DOWN:, SHIFT_RIGHT:] = pixels[:, :-SHIFT_DOWN, :-SHIFT_RIGHT]
    return shifted


def average_passes(
    network: SumNetwork, first: Posterior, second: Posterior, known_count: int | None
) -> Posterior:
    """Return the mean of a network's posteriors of b images and of the same images shifted.

    The digits come from the pass that gives the mean's most probable sum the higher probability.
    """
    sum_log_probs = torch.logaddexp(first.sum_log_probs, second.sum_log_probs) - math.log(2)
    sums_b = sum_log_probs.argmax(dim=1)
    is_second_b = _log_probs_of(second, sums_b) > _log_probs_of(first, sums_b)
    count_probs = None
    if first.count_probs is not None and second.count_probs is not None:
        count_probs = (first.count_probs + second.count_probs) / 2
    mean = network.posterior_from_probs(
        second.logits.where(is_second_b.reshape(-1, *[1] * (first.logits.ndim - 1)), first.logits),
        sum_log_probs,
        count_probs,
        known_count,
    )
    if mean.digit_x is None:
        return mean
    is_shifted = is_second_b.unsqueeze(1) & (mean.digit_x >= 0)
    shifted_back = (mean.digit_x - SHIFT_RIGHT).clamp(min=0)
    return replace(mean, digit_x=shifted_back.where(is_shifted, mean.digit_x))


def _log_probs_of(posterior: Posterior, sums_b: Tensor) -> Tensor:
    return posterior.sum_log_probs.gather(1, sums_b.unsqueeze(1)).squeeze(1)
