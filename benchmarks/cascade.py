"""The choice of the cascade's shift: `python benchmarks/cascade.py`, in a minute.

It prints which shifts get most images right that the packaged model is unsure of, on images of the
validation glyphs, as they are and distorted. It uses no test glyph.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import torch

from digitsum.archive.glyphs import EMBEDDED, Glyphs, load_glyphs
from digitsum.archive.images import Uint8Array
from digitsum.archive.synth import Composition, compose
from digitsum.model.cascade import SHIFT_DOWN, SHIFT_RIGHT
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor
from digitsum.options import ImageShape
from digitsum.training.augmentation import distort

IMAGES, BLOCK, DIGITS = 20_000, 1000, 4
STRENGTHS = (0.0, 0.5, 0.75)
SHIFTS = [shift for shift in product(range(-3, 5), range(-2, 3)) if shift != (0, 0)]
SHOWN = 10


def choose_shift() -> None:
    """Measure the shifts and print how many images each gets right, the best first."""
    model = load_model(packaged_model())
    below = model.cascade_below
    one_pass = TorchPredictor(replace(model, cascade_below=0.0), batch_size=64, num_threads=2)
    added: dict[tuple[int, int], list[float]] = {shift: [] for shift in SHIFTS}
    for strength in STRENGTHS:
        blocks = _compose(strength, model.shape)
        pixels = np.concatenate([block.pixels for block in blocks])
        sums = np.concatenate([block.digit_sums for block in blocks])
        probs = one_pass.sum_probs(pixels)
        unsure = np.flatnonzero(probs.max(axis=1) < below)
        right = np.count_nonzero(probs.argmax(axis=1) == sums)
        print(
            f"distorted by {strength:g}: {right / IMAGES:.2%} of {IMAGES:,} images are right, "
            f"{len(unsure) / IMAGES:.2%} have a confidence below {below:g}"
        )
        before = np.count_nonzero(probs[unsure].argmax(axis=1) == sums[unsure])
        for shift in SHIFTS:
            mean = probs[unsure] + one_pass.sum_probs(_shift(pixels[unsure], *shift))
            after = np.count_nonzero(mean.argmax(axis=1) == sums[unsure])
            added[shift].append((after - before) / IMAGES)
    best = sorted(SHIFTS, key=lambda shift: -sum(added[shift]))
    for shift in best[:SHOWN]:
        chosen = ", the cascade's" if shift == (SHIFT_RIGHT, SHIFT_DOWN) else ""
        print(f"{shift}: {', '.join(f'{share:+.2%}' for share in added[shift])}{chosen}")


def _compose(strength: float, shape: ImageShape) -> list[Composition]:
    """Return images of the validation glyphs, each block distorted differently."""
    glyphs, rng = load_glyphs(EMBEDDED, "val"), np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    blocks = []
    for _ in range(IMAGES // BLOCK):
        whole = torch.tensor(glyphs.pixels)
        pixels = distort(whole, strength, generator, keeps_places=False).numpy()
        distorted = Glyphs(pixels, glyphs.digits)
        blocks.append(compose(distorted, rng, BLOCK, DIGITS, shape))
    return blocks


def _shift(pixels: Uint8Array, right: int, down: int) -> Uint8Array:
    """Return images, uint8 (n, h, w), shifted by pixels, which may be negative."""
    _, height, width = pixels.shape
    most = max(abs(right), abs(down))
    padded = np.pad(pixels, ((0, 0), (most, most), (most, most)))
    top, left = most - down, most - right
    return np.ascontiguousarray(padded[:, top : top + height, left : left + width])


if __name__ == "__main__":
    choose_shift()
