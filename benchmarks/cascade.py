"""How the second look was chosen: `python benchmarks/cascade.py`, in a minute.

On images of the validation glyphs, as they are and distorted: which move makes most images right
that the packaged model is not sure of, and how many those are. No test glyph has a part in it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import torch

from digitsum.archive.glyphs import EMBEDDED, Glyphs, load_glyphs
from digitsum.archive.images import Uint8Array
from digitsum.archive.synth import Composition, compose
from digitsum.model.cascade import DOWN, RIGHT
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor
from digitsum.options import ImageShape
from digitsum.training.augmentation import distort_glyphs

IMAGES, BLOCK, DIGITS = 20_000, 1000, 4
STRENGTHS = (0.0, 0.5, 0.75)
MOVES = [move for move in product(range(-3, 5), range(-2, 3)) if move != (0, 0)]
SHOWN = 10


def second_look() -> None:
    """Measure, and print the moves by what they add, the best first."""
    model = load_model(packaged_model())
    below = model.cascade_below
    once = TorchPredictor(replace(model, cascade_below=0.0), batch_size=64, num_threads=2)
    added: dict[tuple[int, int], list[float]] = {move: [] for move in MOVES}
    for strength in STRENGTHS:
        blocks = _composed(strength, model.shape)
        pixels = np.concatenate([block.pixels for block in blocks])
        sums = np.concatenate([block.digit_sums for block in blocks])
        probs = once.sum_probs(pixels)
        unsure = np.flatnonzero(probs.max(axis=1) < below)
        right = np.count_nonzero(probs.argmax(axis=1) == sums)
        print(
            f"distorted by {strength:g}: {right / IMAGES:.2%} of {IMAGES:,} images are right, "
            f"{len(unsure) / IMAGES:.2%} are less sure than {below:g}"
        )
        before = np.count_nonzero(probs[unsure].argmax(axis=1) == sums[unsure])
        for move in MOVES:
            mean = probs[unsure] + once.sum_probs(_moved(pixels[unsure], *move))
            after = np.count_nonzero(mean.argmax(axis=1) == sums[unsure])
            added[move].append((after - before) / IMAGES)
    best = sorted(MOVES, key=lambda move: -sum(added[move]))
    for move in best[:SHOWN]:
        chosen = ", the one taken" if move == (RIGHT, DOWN) else ""
        print(f"{move}: {', '.join(f'{share:+.2%}' for share in added[move])}{chosen}")


def _composed(strength: float, shape: ImageShape) -> list[Composition]:
    """Return images of the validation glyphs, these distorted anew for each block."""
    glyphs, rng = load_glyphs(EMBEDDED, "val"), np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    blocks = []
    for _ in range(IMAGES // BLOCK):
        pixels = distort_glyphs(torch.tensor(glyphs.pixels), strength, generator).numpy()
        distorted = Glyphs(pixels, glyphs.digits)
        blocks.append(compose(distorted, rng, BLOCK, DIGITS, shape))
    return blocks


def _moved(pixels: Uint8Array, right: int, down: int) -> Uint8Array:
    """Return images, uint8 (n, h, w), moved; either may be below 0."""
    _, height, width = pixels.shape
    most = max(abs(right), abs(down))
    padded = np.pad(pixels, ((0, 0), (most, most), (most, most)))
    top, left = most - down, most - right
    return np.ascontiguousarray(padded[:, top : top + height, left : left + width])


if __name__ == "__main__":
    second_look()
