"""Bringing images from elsewhere to what a model reads: bright ink, one height, one width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from digitsum.archive.images import Uint8Array
from digitsum.errors import InputError
from digitsum.options import ImageShape

# Of pixels, 0..255: the mean of an image with dark ink on bright paper is above it.
_MIDDLE = 127.5


@dataclass(frozen=True, kw_only=True)
class CanvasOptions:
    """What is done to each image before it is written."""

    invert: bool = False
    """The ink is dark on bright paper: turn it over."""
    height: int | None = None
    """Scale images to this height in pixels, and their width in proportion; the model that comes
    with digitsum reads 40. By default they stay as they are."""
    width: int | None = None
    """Fill narrower images up to this width in pixels, with dark ones on the right; by default all
    must be as wide as the first."""

    def __post_init__(self) -> None:
        for option in ("height", "width"):
            given = getattr(self, option)
            if given is not None and given < 1:
                raise InputError(f"--{option} {given}: give at least 1.")

    @property
    def keeps_shape(self) -> bool:
        """Whether images stay as large as they are."""
        return self.height is None and self.width is None

    def fit(self, pixels: Uint8Array, shape: ImageShape | None = None) -> Uint8Array:
        """Return an image, uint8 (height, width), as it is to be written.

        Raises ValueError, with the reason, where it is then not of the height of `shape`, or is
        wider; where `width` was not given, also where it is narrower.
        """
        if self.invert:
            pixels = 255 - pixels
        if self.height is not None and self.height != len(pixels):
            height, width = pixels.shape
            size = max(1, round(width * self.height / height)), self.height
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        height, width = pixels.shape
        if self.width is not None and width < self.width:
            pixels = np.pad(pixels, ((0, 0), (0, self.width - width)))
        found = ImageShape(*pixels.shape)
        wanted = shape or ImageShape(height, self.width or width)
        if found != wanted:
            scaled = "is" if self.height is None else "scaled is"
            raise ValueError(f"image {scaled} {found} pixels, not {wanted}")
        return pixels


def count_bright(pixels: Uint8Array) -> int:
    """Return how many of images, uint8 (n, height, width), are bright, as paper is."""
    return int((pixels.mean(axis=(1, 2)) > _MIDDLE).sum())
