"""Recipes: the sizes, steps and distortions that each network is trained with, by preset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from digitsum.model.baseline import PIXEL_SCALE
from digitsum.model.registry import NetworkName

PresetName = Literal["quick", "small", "full", "large", "paper", "tuned"]

# The packaged model is less confident than this of 3% of images of four validation glyphs distorted
# by half; with a second pass over them, an image takes 20 MFLOP on average (benchmarks/cascade.py).
CASCADE_BELOW = 0.58
# The step size rises for this part of a one-cycle schedule, and falls from then on.
_RISING = 0.2
_FIRST_OF_PEAK = 1 / 25
# Distortion grows from a tenth over the first half of the training: a network that meets all of it
# from the start needs twice as long to discover that there are digits. It shrinks to a half over
# the last fifth, because a small network finishes better on handwriting as it is.
_DISTORTION_GROWING, _DISTORTION_SHRINKING = 0.5, 0.2
_FIRST_DISTORTION, _LAST_DISTORTION = 0.1, 0.5


@dataclass(frozen=True)
class Recipe:
    """A recipe for training a network; TrainConfig describes the fields that are options too."""

    epochs: int
    images_per_epoch: int = 24_000
    batch_size: int = 64
    learning_rate: float = 4e-3
    one_cycle: bool = True
    """True if the step size rises and falls once, False if it is constant."""
    weight_decay: float = 0.02
    """Decoupled weight decay of weights; biases and normalizations do not decay."""
    max_gradient_norm: float | None = 2.0
    """Length that longer gradients are clipped to, or None."""
    averaging: float = 0.005
    """Fraction of the averaged weights that each step replaces; 1 keeps the last weights only."""
    distortion: float = 1.0
    pull_images: int = 72_000
    """Images over which the pull on expected count and sum fades from 1 to 0; 0 for no pull."""
    bf16_on_cpus: bool = True
    """True if CPUs with bf16 instructions compute in bf16."""
    pixel_scale: float = 1 / 255
    distortion_grows: bool = True
    """True if distortion is weak at first."""
    cascade_below: float = CASCADE_BELOW
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the network that are not its defaults."""

    def continued(self) -> Recipe:
        """Return the recipe for a network that can already read digits."""
        return replace(
            self, learning_rate=self.learning_rate / 2, pull_images=0, distortion_grows=False
        )

    def learning_rate_at(self, progress: float) -> float:
        """Return the step size after the fraction `progress`, 0..1, of the training.

        One cycle of cosines, after Smith and Topin, "Super-convergence" (2018): from a 25th to all
        in the first fifth, then to 0. Not torch's OneCycleLR: it counts steps, not progress.
        """
        if not self.one_cycle:
            return self.learning_rate
        if progress < _RISING:
            risen = (1 - math.cos(math.pi * progress / _RISING)) / 2
            return self.learning_rate * (_FIRST_OF_PEAK + (1 - _FIRST_OF_PEAK) * risen)
        left = min(1.0, (1 - progress) / (1 - _RISING))
        return self.learning_rate * (1 - math.cos(math.pi * left)) / 2

    def distortion_at(self, progress: float) -> float:
        """Return the strength of distortions after the fraction `progress`, 0..1."""
        grown = _FIRST_DISTORTION + progress / _DISTORTION_GROWING if self.distortion_grows else 1.0
        left = (1 - progress) / _DISTORTION_SHRINKING
        shrunk = _LAST_DISTORTION + (1 - _LAST_DISTORTION) * left
        return self.distortion * min(1.0, grown, shrunk)

    def pull_at(self, num_images_seen: int) -> float:
        """Return the weight, 1 to 0, of the pull on expected count and sum after these images."""
        return max(0.0, 1 - num_images_seen / self.pull_images) if self.pull_images else 0.0


_COUNTER_SIZES = "stem_channels", "body_channels", "row_channels", "column_channels", "num_mixers"
# As many images as `paper`, so as long, but newly composed, one cycle and averaged weights.
_TUNED = Recipe(
    epochs=8,
    learning_rate=1e-3,
    distortion=0.5,
    pull_images=0,
    pixel_scale=PIXEL_SCALE,
    cascade_below=0.0,
)
# The first of a network's is the default.
PRESETS: dict[NetworkName, dict[PresetName, Recipe]] = {
    "counter": {
        "full": Recipe(epochs=38, images_per_epoch=96_000, batch_size=128),
        "quick": Recipe(epochs=6),
        "small": Recipe(
            epochs=10,
            images_per_epoch=96_000,
            batch_size=128,
            sizes=dict(zip(_COUNTER_SIZES, (12, 20, 32, 80, 2), strict=True)),
        ),
        "large": Recipe(
            epochs=10,
            images_per_epoch=96_000,
            batch_size=128,
            sizes=dict(zip(_COUNTER_SIZES, (24, 64, 128, 224, 4), strict=True)),
        ),
    },
    "baseline": {
        "paper": replace(
            _TUNED,
            one_cycle=False,
            weight_decay=0.0,
            max_gradient_norm=None,
            averaging=1.0,
            distortion=0.0,
            bf16_on_cpus=False,
        ),
        "tuned": _TUNED,
    },
}
