"""What a network saw on one image, column by column, for a person to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from digitsum.archive.images import Uint8Array
from digitsum.model.torch_backend import TorchPredictor


@dataclass(frozen=True)
class Explanation:
    """The digits that were read on an image, and how probable others were."""

    column_probs: npt.NDArray[np.float32]
    """float32 (columns, 11): what each column emits, blank first, where the digits were read."""
    digits: tuple[int, ...]
    """From left to right."""
    digit_x: tuple[int, ...]
    """The pixel column of each digit's centre."""


def explain(predictor: TorchPredictor, pixels: Uint8Array) -> Explanation | None:
    """Return the explanation of an image, uint8 (height, width), or None where there is none."""
    column_probs = predictor.column_probs(pixels[None])
    readings = predictor.predict(pixels[None]).readings
    if column_probs is None or readings is None:
        return None
    is_read = readings.digits[0] >= 0
    return Explanation(
        column_probs[0],
        tuple(map(int, readings.digits[0][is_read])),
        tuple(map(int, readings.digit_x[0][is_read])),
    )
