"""Composing the images of each epoch afresh, from glyphs that are distorted afresh."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from digitsum.archive.glyphs import Glyphs, load_glyphs
from digitsum.archive.images import Uint8Array
from digitsum.archive.synth import compose
from digitsum.options import ImageShape
from digitsum.training.augmentation import distort_glyphs
from digitsum.training.config import TrainConfig

VALIDATION_IMAGES = 5000
# No user's seed: the validation images of all runs are the same, so that runs compare.
_VALIDATION_SEED = (0,)
_BLOCK_IMAGES = 8192
# Of four digits, so each is drawn four times in its block, in other company: distorting twice as
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
) -> Iterator[tuple[Uint8Array, npt.NDArray[np.int64]]]:
    """Yield images, uint8 (n, height, width), and their sums, int64 (n,), in blocks.

    Each image holds one of `digit_counts` digits, all as likely. `distortion` says how strongly
    glyphs are distorted after so many images. The same `seed` gives the same images.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    for start in range(0, num_images, _BLOCK_IMAGES):
        num = min(_BLOCK_IMAGES, num_images - start)
        pool = _distorted(glyphs, _GLYPHS_PER_IMAGE * num, distortion(start), rng, generator)
        yield _compose_counts(pool, rng, num, digit_counts, shape)


def validation_images(config: TrainConfig) -> tuple[Uint8Array, npt.NDArray[np.int64]]:
    """Return images, uint8 (n, height, width), and sums, int64 (n,), of the validation glyphs."""
    return _held_out_images(config, 0.0)


def calibration_images(config: TrainConfig) -> tuple[Uint8Array, npt.NDArray[np.int64]]:
    """Return the validation images, their glyphs distorted as strongly as in the training.

    The validation glyphs as they are chose the epoch, and are few: a temperature that is fitted on
    them makes the network surer than it is right about other hands.
    """
    return _held_out_images(config, config.recipe.distortion)


def _held_out_images(
    config: TrainConfig, distortion: float
) -> tuple[Uint8Array, npt.NDArray[np.int64]]:
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
) -> tuple[Uint8Array, npt.NDArray[np.int64]]:
    """Compose `num` images whose numbers of digits are mixed, in random order."""
    pixels = np.empty((num, shape.height, shape.width), np.uint8)
    sums = np.empty(num, np.int64)
    places = np.array_split(rng.permutation(num), len(digit_counts))
    for digit_count, place in zip(digit_counts, places, strict=True):
        images = compose(pool, rng, len(place), digit_count, shape)
        pixels[place], sums[place] = images.pixels, images.digit_sums
    return pixels, sums
