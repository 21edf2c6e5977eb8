"""Images composed for each epoch, of glyphs distorted for each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from digitsum.archive.glyphs import Glyphs, load_glyphs
from digitsum.archive.synth import compose
from digitsum.options import ImageShape
from digitsum.training.augmentation import distort_glyphs
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import PixelsAndSums

VALIDATION_IMAGES = 5000
# Not the user's seed: all runs have the same validation images, so they can be compared.
_VALIDATION_SEED = (0,)
_BLOCK_IMAGES = 8192
# With four digits in an image, each glyph is drawn four times in its block. Distorting twice as
# many took a tenth of a training step.
_GLYPHS_PER_IMAGE = 1
_UNDISTORTED = 0.1


def composed_images(
    glyphs: Glyphs,
    shape: ImageShape,
    digit_counts: range,
    num_images: int,
    distortion: Callable[[int], float],
    seed: tuple[int, ...],
) -> Iterator[PixelsAndSums]:
    """Yield images and their sums in blocks.

    All `digit_counts` are equally frequent. `distortion` gives the strength of distortion after a
    number of images. The same `seed` gives the same images.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    for start in range(0, num_images, _BLOCK_IMAGES):
        num = min(_BLOCK_IMAGES, num_images - start)
        pool = _distorted(glyphs, _GLYPHS_PER_IMAGE * num, distortion(start), rng, generator)
        yield _compose_counts(pool, rng, num, digit_counts, shape)


def validation_images(config: TrainConfig, distortion: float = 0.0) -> PixelsAndSums:
    """Return images composed of the validation glyphs, distorted so strongly, and their sums."""
    blocks = composed_images(
        load_glyphs(config.glyphs, "val"),
        config.shape,
        config.digit_counts,
        VALIDATION_IMAGES,
        lambda _: distortion,
        _VALIDATION_SEED,
    )
    pixels, sums = zip(*blocks, strict=True)
    return np.concatenate(pixels), np.concatenate(sums)


def _distorted(
    glyphs: Glyphs, num: int, strength: float, rng: np.random.Generator, generator: torch.Generator
) -> Glyphs:
    chosen = rng.integers(len(glyphs), size=num)
    pixels = glyphs.pixels[chosen]
    rest = slice(int(_UNDISTORTED * num), None)
    pixels[rest] = distort_glyphs(torch.from_numpy(pixels[rest]), strength, generator).numpy()
    return Glyphs(pixels, glyphs.digits[chosen])


def _compose_counts(
    pool: Glyphs, rng: np.random.Generator, num: int, digit_counts: range, shape: ImageShape
) -> PixelsAndSums:
    """Return `num` images whose numbers of digits are mixed, in random order."""
    pixels = np.empty((num, shape.height, shape.width), np.uint8)
    sums = np.empty(num, np.int64)
    places = np.array_split(rng.permutation(num), len(digit_counts))
    for digit_count, place in zip(digit_counts, places, strict=True):
        images = compose(pool, rng, len(place), digit_count, shape)
        pixels[place], sums[place] = images.pixels, images.digit_sums
    return pixels, sums
