"""Images composed for each epoch, of glyphs distorted for each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from digitsum.archive.glyphs import Glyphs, load_glyphs
from digitsum.archive.synth import compose
from digitsum.training.augmentation import distort
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import PixelsAndSums

VALIDATION_IMAGES = 5000
# Not the user's seed: all runs have the same validation images, so they can be compared.
_VALIDATION_SEED = (0,)
_BLOCK_IMAGES = 8192
_UNDISTORTED = 0.1


def composed_images(
    config: TrainConfig,
    glyphs: Glyphs,
    num_images: int,
    distortion: Callable[[int], float],
    seed: tuple[int, ...],
) -> Iterator[PixelsAndSums]:
    """Yield images and their sums in blocks; all numbers of digits are equally frequent.

    `distortion` gives its strength after a number of images. The same `seed` gives the same images.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    for start in range(0, num_images, _BLOCK_IMAGES):
        num = min(_BLOCK_IMAGES, num_images - start)
        # A glyph for each image: with four digits, each is drawn four times in its block.
        # Distorting twice as many took a tenth of a training step.
        pool = _distorted(glyphs, num, distortion(start), rng, generator)
        yield _compose_counts(pool, rng, num, config)


def validation_images(config: TrainConfig, distortion: float = 0.0) -> PixelsAndSums:
    """Return 5,000 images of the validation glyphs, distorted so strongly, and their sums."""
    glyphs = load_glyphs(config.glyphs, "val")
    blocks = composed_images(
        config, glyphs, VALIDATION_IMAGES, lambda _: distortion, _VALIDATION_SEED
    )
    pixels, sums = zip(*blocks, strict=True)
    return np.concatenate(pixels), np.concatenate(sums)


def _distorted(
    glyphs: Glyphs, num: int, strength: float, rng: np.random.Generator, generator: torch.Generator
) -> Glyphs:
    chosen = rng.integers(len(glyphs), size=num)
    pixels = glyphs.pixels[chosen]
    rest = slice(int(_UNDISTORTED * num), None)
    whole = torch.from_numpy(pixels[rest])
    pixels[rest] = distort(whole, strength, generator, keeps_places=False).numpy()
    return Glyphs(pixels, glyphs.digits[chosen])


def _compose_counts(
    pool: Glyphs, rng: np.random.Generator, num: int, config: TrainConfig
) -> PixelsAndSums:
    """Return `num` images whose numbers of digits are mixed, in random order."""
    pixels = np.empty((num, config.shape.height, config.shape.width), np.uint8)
    sums = np.empty(num, np.int64)
    places = np.array_split(rng.permutation(num), len(config.digit_counts))
    for digit_count, place in zip(config.digit_counts, places, strict=True):
        images = compose(pool, rng, len(place), digit_count, config.shape)
        pixels[place], sums[place] = images.pixels, images.digit_sums
    return pixels, sums
