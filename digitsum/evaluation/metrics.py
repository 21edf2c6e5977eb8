"""Metrics of predicted sums against true ones, and the evaluation that holds them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, InstanceOf
from scipy.stats import binomtest

from digitsum.archive.reader import Rows
from digitsum.errors import TooManyRejectedError
from digitsum.evaluation.calibration import ConfidenceCounts, Int64Array, SparseCounts
from digitsum.evaluation.examples import Examples, read_examples, write_examples
from digitsum.manifest import Origin, parse_json, to_python
from digitsum.model.outputs import Predictions
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

EVALUATION_FILE = "evaluation.json"
COVERAGES = (0.5, 0.8, 0.9, 0.95, 0.99)


def count_pairs(true_sums: Int64Array, predicted_sums: Int64Array, num_classes: int) -> Int64Array:
    """Return the confusion matrix, int64 (num_classes, num_classes): [true, predicted] images."""
    flat = true_sums * num_classes + predicted_sums
    counts: Int64Array = np.bincount(flat, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


@dataclass(frozen=True)
class SumMetrics:
    """Counts of predicted sums against true ones; those of two parts of an archive add up."""

    confusion: SparseCounts
    """int64 (num_classes, num_classes): scored images by [true sum, predicted sum]."""
    num_rejected: int = 0
    """Labelled images that could not be read, and so were not scored."""
    confidences: ConfidenceCounts = field(default_factory=ConfidenceCounts.empty)
    """Scored images by their confidence."""
    num_with_digits: int = 0
    """Scored images whose true digits are known, one by one, and of which digits were read."""
    num_digits_right: int = 0
    """Those of them whose digits are all right, in order."""

    @staticmethod
    def empty(num_classes: int) -> SumMetrics:
        """Return the metrics of zero images, for sums 0 to num_classes - 1."""
        return SumMetrics(np.zeros((num_classes, num_classes), np.int64))

    @staticmethod
    def of(rows: Rows, predictions: Predictions, num_classes: int) -> SumMetrics:
        """Return the metrics of consecutive labelled rows and of what was predicted of them."""
        assert rows.digit_sums is not None  # evaluation asks for labels
        is_scored = np.ones(len(rows.pixels), bool)
        is_scored[list(rows.errors)] = False
        true_sums = rows.digit_sums[is_scored]
        sums = predictions.sums[is_scored].astype(np.int64)
        num_with_digits = num_digits_right = 0
        if rows.digits is not None and predictions.readings is not None:
            read = predictions.readings.digits
            for row in np.flatnonzero(is_scored):
                if (true_digits := rows.digits[row]) is not None:
                    num_with_digits += 1
                    num_digits_right += true_digits == read[row][read[row] >= 0].tolist()
        return SumMetrics(
            count_pairs(true_sums, sums, num_classes),
            len(rows.errors),
            ConfidenceCounts.of(predictions.confidences[is_scored], sums == true_sums),
            num_with_digits,
            num_digits_right,
        )

    def __add__(self, other: SumMetrics) -> SumMetrics:
        return SumMetrics(
            self.confusion + other.confusion,
            self.num_rejected + other.num_rejected,
            self.confidences + other.confidences,
            self.num_with_digits + other.num_with_digits,
            self.num_digits_right + other.num_digits_right,
        )

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
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy, after Wilson (JASA 22, 1927); NaN without images.

        It takes images to be independent. Those that are composed of few glyphs are not quite.
        """
        if not self.num_images:
            return math.nan, math.nan
        test = binomtest(int(np.trace(self.confusion)), self.num_images)
        interval = test.proportion_ci(confidence_level=0.95, method="wilson")
        return float(interval.low), float(interval.high)

    @property
    def mean_absolute_error(self) -> float:
        """Mean of |predicted - true| over the scored images; NaN if none was scored."""
        num_scored = self.confusion.sum()
        return (
            float((self.confusion * self._error()).sum() / num_scored) if num_scored else math.nan
        )

    @property
    def digits_accuracy(self) -> float:
        """Fraction of the images of known digits that were read exactly; NaN without any."""
        return self.num_digits_right / self.num_with_digits if self.num_with_digits else math.nan

    def figures(self) -> dict[str, Any]:
        """Return the figures by name; None for one that does not exist."""
        low, high = self.accuracy_interval
        figures = {
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "images": self.num_images,
            "mean_absolute_error": self.mean_absolute_error,
            "accuracy_within_1": self.accuracy_within_1,
            "rejected": self.num_rejected,
            "calibration_error": self.confidences.calibration_error,
            "digits_accuracy": self.digits_accuracy,
        } | {f"accuracy_at_{100 * c:.0f}": self.confidences.accuracy_at(c) for c in COVERAGES}
        return {name: None if math.isnan(value) else value for name, value in figures.items()}

    def _error(self) -> Int64Array:
        sums = np.arange(len(self.confusion))
        error: Int64Array = np.abs(sums[:, None] - sums)
        return error

    def _fraction_within(self, error: int) -> float:
        num_within = int(self.confusion[self._error() <= error].sum())
        return num_within / self.num_images if self.num_images else math.nan


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation, and what it was measured on."""

    archive: str
    """URI, or "validation images"."""
    model: str
    model_digest: str
    known_count: int | None
    """Digits in each image, if the user says so."""
    metrics: SumMetrics
    num_shards: int
    unread_shards: dict[str, str]
    """Reasons by the path of shards whose footers cannot be read: their images are not counted."""
    unread_chunks: dict[str, str]
    """Reasons by the place of chunks that cannot be read: their images count as rejected."""
    origin: Origin
    examples: Annotated[InstanceOf[Examples], Field(exclude=True)] = field(default_factory=Examples)
    version: Literal[1] = 1

    @property
    def unread(self) -> dict[str, str]:
        """Reasons by shard or chunk that cannot be read."""
        return {**self.unread_shards, **self.unread_chunks}

    def unread_sentence(self) -> str:
        """Return how much cannot be read, and the first reason; call it only if something is."""
        place, reason = next(iter(self.unread.items()))
        return (
            f"{len(self.unread_shards):,} of {self.num_shards:,} shards cannot be read and are not "
            f"in the figures; {len(self.unread_chunks):,} chunks cannot be read and their images "
            f"count as rejected; the first is {place}: {reason}"
        )

    def check_rejected(self, allowed: float) -> None:
        """Raise TooManyRejectedError if more than a fraction of images or shards was rejected."""
        for what, num_rejected, num_all in (
            ("images", self.metrics.num_rejected, self.metrics.num_images),
            ("shards", len(self.unread_shards), self.num_shards),
        ):
            if num_rejected > allowed * num_all:
                why = f"; {self.unread_sentence()}" if self.unread else ""
                raise TooManyRejectedError(
                    f"{num_rejected:,} of {num_all:,} {what} were rejected, more than the "
                    f"{100 * allowed:.4g}% that --max-rejected allows{why}. The figures are of "
                    "everything else; replace what is damaged, or raise --max-rejected."
                )

    def to_json(self) -> dict[str, Any]:
        """Return the figures and what they are of."""
        return {
            **self.metrics.figures(),
            "archive": self.archive,
            "model": self.model,
            "model_digest": self.model_digest,
            "known_count": self.known_count,
            "unread": self.unread,
            **to_python(self.origin),
        }


def write_evaluation(evaluation: Evaluation, directory: Location) -> None:
    """Write `evaluation.json` and `examples.parquet`: all that the report shows."""
    write_examples(evaluation.examples, directory)
    content = json.dumps(evaluation.to_json() | to_python(evaluation)).encode() + b"\n"
    publish_bytes(content, directory.join(EVALUATION_FILE))


def read_evaluation(directory: Location) -> Evaluation:
    """Return what `write_evaluation` wrote.

    Raises InputError if it is not what this digitsum reads, and LookupError, TypeError or
    ValueError if counts were changed.
    """
    file = directory.join(EVALUATION_FILE)
    evaluation = parse_json(Evaluation, file.read_bytes(), file.uri)
    return replace(evaluation, examples=read_examples(directory))
