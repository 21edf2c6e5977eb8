"""Calibration of a trained network: its temperature, and the offset of the digits it reads.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017: the logits
are divided by the number that makes the validation images' sums most probable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from digitsum.archive.glyphs import GLYPH_SIZE, Glyphs
from digitsum.model.counter import CounterNetwork
from digitsum.model.network import SumNetwork
from digitsum.model.registry import to_input
from digitsum.options import ImageShape
from digitsum.training.dataset import PixelsAndSums

_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.25, 8.0
_TOLERANCE = 0.0025
"""Of the temperature's logarithm."""
_INFINITE_LOSS = 1e12
_NETWORK_BATCH_SIZE = 1000


@dataclass(frozen=True)
class Calibration:
    """A temperature, and the number of images that it was fitted on."""

    temperature: float
    images: int


@torch.inference_mode()
def calibrate(network: SumNetwork, images: PixelsAndSums, pixel_scale: float) -> Calibration:
    """Return the calibration of a network, in evaluation mode, on labelled images."""
    pixels, sums = images
    parts = torch.split(torch.from_numpy(np.array(pixels)), _NETWORK_BATCH_SIZE)
    logits = torch.cat([network(to_input(part, pixel_scale)) for part in parts])
    return Calibration(fit_temperature(network, logits, torch.tensor(sums)), len(sums))


@torch.inference_mode()
def fit_temperature(network: SumNetwork, logits: Tensor, sums_b: Tensor) -> float:
    """Return the temperature, 0.25..8, of the least mean loss, to a quarter of a per cent.

    `logits` are the network's for b images whose true sums, int64 (b,), are `sums_b`.
    """

    def loss(log_temperature: float) -> float:
        calibrated = logits.double() / math.exp(log_temperature)
        total = 0.0
        for part, sums in zip(
            torch.split(calibrated, _NETWORK_BATCH_SIZE),
            torch.split(sums_b, _NETWORK_BATCH_SIZE),
            strict=True,
        ):
            # predicted_log_probs is less precise, and a few images that are very wrong count here.
            log_probs = network.sum_log_probs(part, 0, network.config.max_digits).log_softmax(dim=1)
            total -= float(log_probs.gather(1, sums.unsqueeze(1)).sum())
        # An infinite loss still has to slope towards higher temperatures, at which it is finite.
        return total if math.isfinite(total) else _INFINITE_LOSS * (1 + bounds[1] - log_temperature)

    bounds = math.log(_MIN_TEMPERATURE), math.log(_MAX_TEMPERATURE)
    fitted = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": _TOLERANCE})
    return math.exp(fitted.x)


@torch.inference_mode()
def fit_digit_offset(
    network: CounterNetwork, glyphs: Glyphs, shape: ImageShape, pixel_scale: float
) -> None:
    """Set the network's `digit_offset`: the median, in pixels, over images of one glyph each.

    Leaves it as it is if the network, in evaluation mode, reads one digit on none of them.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(shape.width - GLYPH_SIZE + 1, size=len(glyphs))
    y = (shape.height - GLYPH_SIZE) // 2
    pixels = np.zeros((len(glyphs), shape.height, shape.width), np.uint8)
    for image, left, glyph in zip(pixels, x, glyphs.pixels, strict=True):
        image[y : y + GLYPH_SIZE, left : left + GLYPH_SIZE] = glyph
    parts = torch.split(torch.from_numpy(pixels), _NETWORK_BATCH_SIZE)
    read_x = torch.cat([_single_digit_x(network, to_input(p, pixel_scale)) for p in parts]).numpy()
    is_single = read_x >= 0
    if is_single.any():
        centre = x + (GLYPH_SIZE - 1) / 2
        offset = round(float(np.median(read_x[is_single] - centre[is_single])))
        offset += network.config.digit_offset
        network.config = replace(network.config, digit_offset=offset)


def _single_digit_x(network: CounterNetwork, x_b1hw: Tensor) -> Tensor:
    """Return the column of the digit that was read, int64 (b,), or -1 if not exactly one was."""
    digit_x = network.posterior(network(x_b1hw).float(), None).digit_x
    assert digit_x is not None  # a counter reads digits
    return torch.where((digit_x >= 0).sum(dim=1) == 1, digit_x[:, 0], -1)
