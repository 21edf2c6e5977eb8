"""A few images of an evaluation that are worth looking at: hits, and the worst misses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from digitsum.archive.images import Uint8Array
from digitsum.archive.reader import Rows
from digitsum.model.outputs import Predictions

NUM_EXAMPLES = 8


@dataclass(frozen=True)
class Example:
    """A labelled image and what was predicted of it."""

    image_id: str
    pixels: Uint8Array
    """uint8 (height, width)."""
    true_sum: int
    predicted_sum: int
    confidence: float
    """0..1."""


def hits(rows: Rows, predictions: Predictions, right: npt.NDArray[np.bool_]) -> list[Example]:
    """Return the first of the right ones, bool (n,), of some rows."""
    return _examples(rows, predictions, np.flatnonzero(right)[:NUM_EXAMPLES])


def worst_misses(
    rows: Rows, predictions: Predictions, wrong: npt.NDArray[np.bool_]
) -> list[Example]:
    """Return those of the wrong ones, bool (n,), that the model is most sure of."""
    numbers = np.flatnonzero(wrong)
    most_sure = numbers[np.argsort(-predictions.confidences[numbers], kind="stable")]
    return _examples(rows, predictions, most_sure[:NUM_EXAMPLES])


def merge_examples(
    some: list[Example], others: list[Example], key: Callable[[Example], Any]
) -> list[Example]:
    """Return the NUM_EXAMPLES examples of the lowest keys; of equals, those of the lowest ids.

    So the order in which chunks are finished does not matter, where ids are unique.
    """
    ranked = sorted([*some, *others], key=lambda example: (key(example), example.image_id))
    return ranked[:NUM_EXAMPLES]


def _examples(
    rows: Rows, predictions: Predictions, numbers: npt.NDArray[np.int64]
) -> list[Example]:
    assert rows.digit_sums is not None  # only labelled images are compared
    return [
        Example(
            rows.image_ids[n].as_py(),
            rows.pixels[n].copy(),
            int(rows.digit_sums[n]),
            int(predictions.sums[n]),
            float(predictions.confidences[n]),
        )
        for n in map(int, numbers)
    ]
