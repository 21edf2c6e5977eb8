"""What is counted of labelled images while they are scored, part by part."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from digitsum.archive.chunks import Chunk
from digitsum.archive.reading import Rows
from digitsum.model.predictions import Predictions
from digitsum.scoring.certainty import Certainty
from digitsum.scoring.examples import Example, hits, merge_examples, worst_misses
from digitsum.scoring.metrics import Evaluation, count_pairs


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
