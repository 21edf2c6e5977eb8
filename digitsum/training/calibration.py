"""Making a trained network's probabilities as often right as they say: one temperature.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017: the logits
are divided by the number that makes the validation images' sums most probable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from digitsum.archive.glyphs import GLYPH_SIZE, Glyphs
from digitsum.archive.images import Uint8Array
from digitsum.model.counter import CounterNetwork
from digitsum.model.network import SumNetwork
from digitsum.model.registry import to_input
from digitsum.options import ImageShape
from digitsum.training.config import TrainConfig

_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.25, 8.0
_TOLERANCE = 0.005
_AT_ONCE = 1000
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it was fitted on."""

    temperature: float
    images: int


@torch.inference_mode()
def calibrate(
    network: SumNetwork, pixels: Uint8Array, sums: npt.NDArray[np.int64], config: TrainConfig
) -> Calibration:
    """Return the calibration of a network, in evaluation mode, on images uint8 (n, h, w)."""
    logits = torch.cat(
        [
            network(to_input(part, config.recipe.pixel_scale))
            for part in torch.split(torch.from_numpy(np.array(pixels)), _AT_ONCE)
        ]
    )
    return Calibration(fit_temperature(network, logits, torch.tensor(sums)), len(sums))


@torch.inference_mode()
def fit_temperature(network: SumNetwork, logits: Tensor, sums_b: Tensor) -> float:
    """Return the temperature, 0.25..8, of the least mean loss, to half a per cent.

    `logits` are the network's for b images whose true sums, int64 (b,), are `sums_b`. The loss is
    taken to have one minimum, and found by golden section search (Kiefer 1953).
    """

    def loss(log_temperature: float) -> float:
        cooled = logits.double() / math.exp(log_temperature)
        total = 0.0
        for part, sums in _pairs(cooled, sums_b):
            # Not predicted_log_probs: a few images may be wrong beyond its precision, and count.
            log_probs = network.sum_log_probs(part, 0, network.config.max_digits).log_softmax(dim=1)
            total -= float(log_probs.gather(1, sums.unsqueeze(1)).sum())
        return total

    low, high = math.log(_MIN_TEMPERATURE), math.log(_MAX_TEMPERATURE)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > _TOLERANCE:
        if loss_left <= loss_right and loss_left < math.inf:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = loss(right)
    return math.exp((low + high) / 2)


def _pairs(logits: Tensor, sums_b: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(torch.split(logits, _AT_ONCE), torch.split(sums_b, _AT_ONCE), strict=True)


_OFFSET_BATCH_SIZE = 500


@torch.inference_mode()
def place_digits(
    network: CounterNetwork, glyphs: Glyphs, shape: ImageShape, pixel_scale: float
) -> None:
    """Set the network's `digit_offset`: the median, in pixels, over images of one glyph each.

    Stays as it is where the network, in evaluation mode, reads one digit on none of them.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(shape.width - GLYPH_SIZE + 1, size=len(glyphs))
    y = (shape.height - GLYPH_SIZE) // 2
    pixels = np.zeros((len(glyphs), shape.height, shape.width), np.uint8)
    for image, left, glyph in zip(pixels, x, glyphs.pixels, strict=True):
        image[y : y + GLYPH_SIZE, left : left + GLYPH_SIZE] = glyph
    found = torch.cat(
        [
            _first_of_one(network, to_input(part, pixel_scale))
            for part in torch.split(torch.from_numpy(pixels), _OFFSET_BATCH_SIZE)
        ]
    ).numpy()
    is_one = found >= 0
    if is_one.any():
        centre = x + (GLYPH_SIZE - 1) / 2
        offset = round(float(np.median(found[is_one] - centre[is_one])))
        offset += network.config.digit_offset
        network.config = replace(network.config, digit_offset=offset)


def _first_of_one(network: CounterNetwork, x_b1hw: torch.Tensor) -> torch.Tensor:
    """Return where the digit was read, int64 (b,), or -1 where there is not just one."""
    digit_x = network.posterior(network(x_b1hw).float(), None).digit_x
    assert digit_x is not None  # a counter reads digits
    return torch.where((digit_x >= 0).sum(dim=1) == 1, digit_x[:, 0], -1)
