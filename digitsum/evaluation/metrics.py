"""Comparing predicted sums with true ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from digitsum.archive.chunks import Chunk
from digitsum.archive.reader import Rows
from digitsum.errors import TooManyRejectedError
from digitsum.evaluation.calibration import Certainty
from digitsum.evaluation.examples import Example, hits, merge_examples, worst_misses
from digitsum.model.outputs import Predictions
from digitsum.model.saved_model import SavedModel

COVERAGES = (0.5, 0.8, 0.9, 0.95, 0.99)

Int64Array = npt.NDArray[np.int64]


def count_pairs(true_sums: Int64Array, predicted_sums: Int64Array, num_classes: int) -> Int64Array:
    """Return the confusion matrix, int64 (num_classes, num_classes): [true, predicted] images."""
    flat = true_sums * num_classes + predicted_sums
    counts: Int64Array = np.bincount(flat, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def wilson_interval(num_right: int, num_images: int) -> tuple[float, float]:
    """Return the 95% interval of a fraction, after Wilson (JASA 22, 1927); NaN without images.

    It takes images to be independent. Those that are composed of few glyphs are not quite.
    """
    if not num_images:
        return math.nan, math.nan
    z = 1.959964
    fraction = num_right / num_images
    centre = fraction + z * z / (2 * num_images)
    spread = fraction * (1 - fraction) / num_images + (z / (2 * num_images)) ** 2
    half = z * math.sqrt(spread)
    scale = 1 + z * z / num_images
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


@dataclass(frozen=True)
class Evaluation:
    """How predicted sums compare with true ones."""

    confusion: Int64Array
    """int64 (num_classes, num_classes): images by [true sum, predicted sum]."""
    num_rejected: int
    """Labelled images that could not be read, and so were not scored."""
    certainty: Certainty = field(default_factory=Certainty.empty)
    """Scored images by their confidence."""
    num_strings: int = 0
    """Scored images whose digits are known, one by one, and were read."""
    num_strings_right: int = 0
    """Those of them whose digits are all right, and in order."""

    @property
    def num_images(self) -> int:
        """Labelled images, scored or rejected."""
        return int(self.confusion.sum()) + self.num_rejected

    @property
    def accuracy(self) -> float:
        """Fraction of all labelled images whose sum is right; a rejected one is not."""
        return self._fraction_within(0)

    @property
    def accuracy_within_1(self) -> float:
        """Fraction of all labelled images whose sum is at most 1 off."""
        return self._fraction_within(1)

    @property
    def mean_absolute_error(self) -> float:
        """Mean of |predicted - true| over the scored images; NaN where none was scored."""
        scored = int(self.confusion.sum())
        return float((self.confusion * self._distance()).sum() / scored) if scored else float("nan")

    @property
    def digits_accuracy(self) -> float:
        """Fraction of the images of known digits that were read exactly; NaN without any."""
        return self.num_strings_right / self.num_strings if self.num_strings else math.nan

    def to_json(self) -> dict[str, Any]:
        """Return the figures, without the matrix; None for one that does not exist."""
        low, high = wilson_interval(int(np.trace(self.confusion)), self.num_images)
        figures = {
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "images": self.num_images,
            "mean_absolute_error": self.mean_absolute_error,
            "accuracy_within_1": self.accuracy_within_1,
            "rejected": self.num_rejected,
            "calibration_error": self.certainty.calibration_error,
            "digits_accuracy": self.digits_accuracy,
        } | {f"accuracy_at_{100 * c:.0f}": self.certainty.accuracy_at(c) for c in COVERAGES}
        return {name: None if math.isnan(value) else value for name, value in figures.items()}

    def _distance(self) -> Int64Array:
        sums = np.arange(len(self.confusion))
        distance: Int64Array = np.abs(sums[:, None] - sums)
        return distance

    def _fraction_within(self, distance: int) -> float:
        right = int(self.confusion[self._distance() <= distance].sum())
        return right / self.num_images if self.num_images else float("nan")


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and what it is of."""

    archive_uri: str
    model: SavedModel
    num_digits: int | None
    """Digits in each image, where the model was told."""
    evaluation: Evaluation
    hits: tuple[Example, ...]
    """A few images whose sum is right."""
    worst_misses: tuple[Example, ...]
    """The images whose sum is wrong with the most confidence."""
    num_shards: int
    unread_shards: Mapping[str, str]
    """Shards whose footers cannot be read, to the reason: how many images they hold is unknown."""
    unread_chunks: Mapping[str, str]
    """Chunks that cannot be read, to the reason: their images count as rejected."""
    origin: Mapping[str, Any]
    """What computed it: `runs.origin`."""

    @property
    def unread(self) -> dict[str, str]:
        """Shards and chunks that cannot be read, to the reason."""
        return {**self.unread_shards, **self.unread_chunks}

    def said_of_unread(self) -> str:
        """Return how much could not be read, and why the first could not; one at least."""
        place, reason = next(iter(self.unread.items()))
        return (
            f"{len(self.unread_shards):,} of {self.num_shards:,} shards could not be read, and are "
            f"not in the figures, nor could {len(self.unread_chunks):,} chunks, whose images count "
            f"as rejected; the first, {place}: {reason}"
        )

    def check_rejected(self, allowed: float) -> None:
        """Raise TooManyRejectedError where more than a fraction of images or shards was."""
        rejected = self.evaluation.num_rejected
        for what, number, of in (
            ("images", rejected, self.evaluation.num_images),
            ("shards", len(self.unread_shards), self.num_shards),
        ):
            if number > allowed * of:
                why = f"; {self.said_of_unread()}" if self.unread else ""
                raise TooManyRejectedError(
                    f"{number:,} of {of:,} {what} were rejected, more than the "
                    f"{100 * allowed:.4g}% that --max-rejected allows{why}. The figures are of "
                    "all else."
                )

    def to_json(self) -> dict[str, Any]:
        """Return the figures as one object."""
        return {
            **self.evaluation.to_json(),
            "archive": self.archive_uri,
            "model": self.model.uri,
            "model_digest": self.model.digest,
            "digits": self.num_digits,
            "unread": self.unread,
            **self.origin,
        }


class EvaluationTotals:
    """What was counted of some chunks, and the few images that were kept."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.num_rejected = self.num_strings = self.num_strings_right = 0
        self.certainty = Certainty.empty()
        self.hits: list[Example] = []
        self.worst_misses: list[Example] = []
        self.unread_chunks: dict[str, str] = {}
        """Chunks that could not be read, to the reason."""

    @property
    def num_images(self) -> int:
        """Images counted so far."""
        return int(self.confusion.sum()) + self.num_rejected

    def reject_chunk(self, chunk: Chunk, reason: str) -> None:
        """Count all images of a chunk as rejected."""
        self.num_rejected += chunk.num_rows
        self.unread_chunks[f"{chunk.shard}, rows from {chunk.first_row} on"] = reason

    def count(self, rows: Rows, predictions: Predictions) -> None:
        """Count consecutive rows and what was predicted of them."""
        assert rows.digit_sums is not None  # asked for
        kept = np.ones(len(rows.pixels), bool)
        kept[list(rows.errors)] = False
        right = predictions.sums == rows.digit_sums
        self.confusion += count_pairs(
            rows.digit_sums[kept], predictions.sums[kept].astype(np.int64), len(self.confusion)
        )
        self.num_rejected += len(rows.errors)
        self.certainty += Certainty.of(predictions.confidences[kept], right[kept])
        if rows.digits is not None and predictions.readings is not None:
            known = kept & np.array([digits is not None for digits in rows.digits], bool)
            exact = _exact(rows.digits, predictions.readings.digits)
            self.num_strings += int(known.sum())
            self.num_strings_right += int(exact[known].sum())
        self._keep(
            hits(rows, predictions, right & kept), worst_misses(rows, predictions, kept & ~right)
        )

    def add(self, other: EvaluationTotals) -> None:
        """Add what was counted of other chunks."""
        self.confusion += other.confusion
        self.num_rejected += other.num_rejected
        self.num_strings += other.num_strings
        self.num_strings_right += other.num_strings_right
        self.certainty += other.certainty
        self.unread_chunks |= other.unread_chunks
        self._keep(other.hits, other.worst_misses)

    def _keep(self, found_hits: list[Example], found_misses: list[Example]) -> None:
        self.hits = merge_examples(self.hits, found_hits, key=lambda example: example.image_id)
        self.worst_misses = merge_examples(
            self.worst_misses, found_misses, key=lambda example: -example.confidence
        )

    def evaluation(self) -> Evaluation:
        """Return what the counts come to."""
        return Evaluation(
            self.confusion,
            self.num_rejected,
            self.certainty,
            self.num_strings,
            self.num_strings_right,
        )


def _exact(
    true_digits: list[list[int] | None], read: npt.NDArray[np.int8]
) -> npt.NDArray[np.bool_]:
    """Return, bool (n,), whether the digits read, int8 (n, k) then -1, are all the true ones."""
    pairs = zip(true_digits, read.tolist(), strict=True)
    return np.array([true == [d for d in digits if d >= 0] for true, digits in pairs], bool)
