"""Where digits stand, once a network reads them: how far its columns lie from what they emit.

A network that learns from sums alone is free to emit a digit some columns to the left or right of
it, as long as it always does the same. Where images are composed, it is known where glyphs were
put, and so by how much: that is measured after training, and bears on nothing but `digit_x`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from digitsum.archive.glyphs import GLYPH_SIZE, Glyphs
from digitsum.archive.schema import ImageShape
from digitsum.model.counter import CounterNetwork
from digitsum.model.networks import to_input

_AT_ONCE = 500


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
            for part in torch.split(torch.from_numpy(pixels), _AT_ONCE)
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
