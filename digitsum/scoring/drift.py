"""Whether a night's images are still of the kind that the model was made for.

Nobody labels them, so what is compared is what the model says of them: the sums, how sure it is,
and how many digits it counts, with what it said of the images that it was validated on. A shift
counts as drift where it is both large and certain: a population stability index beyond 0.2, which
the field calls a major change (Siddiqi, "Credit Risk Scorecards", 2006), and a chi-square test of
homogeneity with a p-value below 0.001. Of few images only the first, of many only the second would
be exceeded by chance or by a trifle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2_contingency

from digitsum.model.prediction_stats import Counts, Distributions

MAX_INDEX = 0.2
MAX_P_VALUE = 0.001
LEAST_IMAGES = 100
# Classes are joined until each may expect so many images; chi-square is not to be trusted below.
_LEAST_EXPECTED = 5.0
# Of an image, so that a class that is empty on one side does not make the index infinite.
_SMOOTHING = 0.5

Quantity = Literal["sums", "confidences", "digit_counts"]
QUANTITIES: tuple[Quantity, ...] = ("sums", "confidences", "digit_counts")


@dataclass(frozen=True)
class Shift:
    """How far a distribution is from that of reference."""

    quantity: Quantity
    index: float
    """Population stability index: the sum of (p - q) ln(p / q) over the classes."""
    p_value: float
    """Of the chi-square test that both are one distribution."""

    @property
    def is_drift(self) -> bool:
        """Whether it is both large and certain."""
        return self.index > MAX_INDEX and self.p_value < MAX_P_VALUE

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return asdict(self) | {"drift": self.is_drift}

    def sentence(self) -> str:
        """Return what there is to say of it."""
        what = {
            "sums": "the predicted sums",
            "confidences": "the confidences",
            "digit_counts": "the numbers of digits",
        }[self.quantity]
        said = f"population stability index {self.index:.2f}, p = {self.p_value:.2g}"
        return f"{what} {'have drifted' if self.is_drift else 'are as expected'} ({said})"


def find_shifts(found: Distributions, reference: Distributions) -> tuple[Shift, ...]:
    """Return how far each quantity is from that of reference; () where too few images tell.

    A quantity that one of them has not is left out.
    """
    if found.num_images < LEAST_IMAGES or reference.num_images < LEAST_IMAGES:
        return ()
    pairs = ((q, getattr(found, q), getattr(reference, q)) for q in QUANTITIES)
    return tuple(
        find_shift(q, counts, expected) for q, counts, expected in pairs if counts and expected
    )


def find_shift(quantity: Quantity, found: Counts, reference: Counts) -> Shift:
    """Return how far counts by class are from those of reference, both of some images."""
    counts = np.zeros((2, max(len(found), len(reference))))
    counts[0, : len(found)] = found
    counts[1, : len(reference)] = reference
    joined = _joined(counts)
    if joined.shape[1] < 2:
        return Shift(quantity, 0.0, 1.0)
    smoothed = joined + _SMOOTHING
    p, q = smoothed / smoothed.sum(axis=1, keepdims=True)
    index = float(((p - q) * np.log(p / q)).sum())
    return Shift(quantity, index, float(chi2_contingency(joined).pvalue))


def _joined(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Join neighbouring classes, float64 (2, k), until each may expect enough on both sides."""
    if not counts.sum():
        return counts[:, :1]
    least_share = counts.sum(axis=1).min() / counts.sum()
    classes: list[npt.NDArray[np.float64]] = []
    open_class = np.zeros(2)
    for column in counts.T:
        open_class = open_class + column
        if open_class.sum() * least_share >= _LEAST_EXPECTED:
            classes.append(open_class)
            open_class = np.zeros(2)
    if classes:
        classes[-1] = classes[-1] + open_class
    else:
        classes = [open_class]
    return np.stack(classes, axis=1)


def drift_sentence(found: Sequence[Shift]) -> str:
    """Return what there is to say of a night's shifts."""
    if not found:
        return (
            f"drift: not judged: the run scored fewer than {LEAST_IMAGES} images, or the model "
            "holds no reference"
        )
    drifted = [one for one in found if one.is_drift]
    if drifted:
        said = "; ".join(one.sentence() for one in drifted)
        return f"drift: {said}; other images, or inverted, or of digits of another size?"
    return f"no drift: {'; '.join(one.sentence() for one in found)}"
