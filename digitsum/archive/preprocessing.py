"""Preparation of images from elsewhere for a model: bright ink, one height, one width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from digitsum.archive.images import Uint8Array
from digitsum.options import ImageShape, check_at_least


@dataclass(frozen=True, kw_only=True)
class CanvasOptions:
    """Changes to each image before it is written."""

    invert: bool = False
    """Invert images whose ink is dark on bright paper."""
    height: int | None = None
    """Height in pixels to scale images to; the packaged model reads 40; by default unchanged."""
    width: int | None = None
    """Width in pixels to pad narrower images to; by default all must be as wide as the first."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "height", "width")

    @property
    def keeps_shape(self) -> bool:
        """True if images keep their size."""
        return self.height is None and self.width is None

    def fit(self, pixels: Uint8Array, shape: ImageShape | None = None) -> Uint8Array:
        """Return an image, uint8 (height, width), inverted, scaled and padded as asked.

        Raises ValueError, with the reason, if the result is not of `shape` or wider than `width`.
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
        fitted = ImageShape(*pixels.shape)
        wanted = shape or ImageShape(height, self.width or width)
        if fitted != wanted:
            verb = "is" if self.height is None else "scaled is"
            raise ValueError(f"image {verb} {fitted} pixels, not {wanted}")
        return pixels


def count_bright(pixels: Uint8Array) -> int:
    """Return how many images, uint8 (n, height, width), are bright on average, as paper is."""
    return int((pixels.mean(axis=(1, 2)) > 255 / 2).sum())
