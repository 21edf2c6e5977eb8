"""Example images of an evaluation: hits and confident misses, with what the network saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from digitsum.archive.images import Uint8Array
from digitsum.archive.reader import Rows
from digitsum.model.outputs import Explanation, Predictions

NUM_EXAMPLES = 8


@dataclass(frozen=True)
class Example:
    """A labelled image, what was predicted of it, and why."""

    image_id: str
    pixels: Uint8Array
    """uint8 (height, width)."""
    true_sum: int
    predicted_sum: int
    confidence: float
    """0..1."""
    explanation: Explanation | None = None
    """What the network saw; None if it reads no digits, or while images are still counted."""

    @property
    def is_hit(self) -> bool:
        """True if the predicted sum is right."""
        return self.true_sum == self.predicted_sum


@dataclass(frozen=True)
class Examples:
    """The examples of some images; those of two parts of an archive add up."""

    hits: tuple[Example, ...] = ()
    """The images of the lowest ids whose sum is right, at most NUM_EXAMPLES."""
    misses: tuple[Example, ...] = ()
    """The most confident images whose sum is wrong, at most NUM_EXAMPLES."""

    @staticmethod
    def of(rows: Rows, predictions: Predictions) -> Examples:
        """Return the examples of consecutive labelled rows; rejected rows are none."""
        assert rows.digit_sums is not None  # evaluation asks for labels
        is_right = predictions.sums == rows.digit_sums
        is_scored = np.ones(len(is_right), bool)
        is_scored[list(rows.errors)] = False
        wrong = np.flatnonzero(~is_right & is_scored)
        most_confident = wrong[np.argsort(-predictions.confidences[wrong], kind="stable")]
        return Examples(
            tuple(_examples(rows, predictions, np.flatnonzero(is_right & is_scored))),
            tuple(_examples(rows, predictions, most_confident)),
        )

    def __add__(self, other: Examples) -> Examples:
        """Return the examples of both, in whichever order they come: ties go to the lowest ids."""
        hits = sorted(self.hits + other.hits, key=lambda hit: hit.image_id)
        misses = sorted(
            self.misses + other.misses, key=lambda miss: (-miss.confidence, miss.image_id)
        )
        return Examples(tuple(hits[:NUM_EXAMPLES]), tuple(misses[:NUM_EXAMPLES]))

    def explained(self, explain: Callable[[Uint8Array], Explanation | None]) -> Examples:
        """Return the examples with what `explain` returns for the pixels of each."""

        def with_explanation(examples: Sequence[Example]) -> tuple[Example, ...]:
            return tuple(replace(one, explanation=explain(one.pixels)) for one in examples)

        return Examples(with_explanation(self.hits), with_explanation(self.misses))


def _examples(
    rows: Rows, predictions: Predictions, indices: npt.NDArray[np.int64]
) -> Iterator[Example]:
    assert rows.digit_sums is not None
    for i in indices[:NUM_EXAMPLES].tolist():
        yield Example(
            rows.image_ids[i].as_py(),
            rows.pixels[i].copy(),  # so that the rows can be freed
            int(rows.digit_sums[i]),
            int(predictions.sums[i]),
            float(predictions.confidences[i]),
        )
