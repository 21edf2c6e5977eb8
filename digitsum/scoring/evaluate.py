"""Scoring a labelled archive and comparing: `digitsum evaluate`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from digitsum.archive.location import locate
from digitsum.archive.reading import Rows, check_labels, read_chunk
from digitsum.archive.schema import ReadOptions, max_sum
from digitsum.archive.shards import Chunk, open_archive, plan_chunks
from digitsum.errors import InputError
from digitsum.model.bundle import Bundle, load_bundle, packaged_bundle
from digitsum.model.predictions import Predictions
from digitsum.prefetch import prefetched
from digitsum.scoring.certainty import Certainty
from digitsum.scoring.config import ActorOptions, EvaluateConfig
from digitsum.scoring.engine import chunk_engine
from digitsum.scoring.examples import Example, hits, merge_examples, worst_misses
from digitsum.scoring.metrics import Evaluation, count_pairs
from digitsum.scoring.plan import check_shapes


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and what it is of."""

    archive_uri: str
    bundle: Bundle
    num_digits: int | None
    """Digits in each image, where the model was told."""
    evaluation: Evaluation
    hits: tuple[Example, ...]
    """A few images whose sum is right."""
    worst_misses: tuple[Example, ...]
    """The images whose sum is wrong with the most confidence."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures as one object."""
        return {
            **self.evaluation.to_json(),
            "archive": self.archive_uri,
            "bundle": self.bundle.uri,
            "model_digest": self.bundle.digest,
            "digits": self.num_digits,
        }


def evaluate(config: EvaluateConfig) -> Evaluated:
    """Score every image of a labelled archive, and count how far the sums are off.

    Holds counts and a few images only, whatever the archive's size. Raises InputError, before
    anything is scored, where the bundle, a shard or a label cannot be used.
    """
    locate(config.report).check_directory()
    bundle = load_bundle(config.bundle or packaged_bundle())
    archive = open_archive(config.archive, config.read, bundle.shape)
    check_shapes(archive, bundle.network, config.digits)
    num_digits = config.digits or bundle.network.config.max_digits
    check_labels(archive, config.read, num_digits)
    chunks = [c for shard in archive.shards for c in plan_chunks(shard, config.chunk_images)]
    if not chunks:
        raise InputError(f"{config.archive}: holds no images; give an archive with some.")
    arguments = {
        "bundle": bundle,
        "archive_root": archive.root.uri,
        "read": config.read,
        "actors": config.actors,
        "num_digits": config.digits,
    }
    totals = _Totals(max_sum(num_digits) + 1)
    with chunk_engine(config.actors, sum(chunk.num_rows for chunk in chunks)) as map_chunks:
        for result in map_chunks(ChunkEvaluator, arguments, chunks, config.actors):
            totals.add(pickle.loads(result["totals"]))
    return Evaluated(
        config.archive,
        bundle,
        config.digits,
        totals.evaluation(),
        tuple(totals.hits),
        tuple(totals.worst_misses),
    )


class _Totals:
    """What was counted of some chunks, and the few images that were kept."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.num_rejected = self.num_strings = self.num_strings_right = 0
        self.certainty = Certainty.empty()
        self.hits: list[Example] = []
        self.worst_misses: list[Example] = []

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

    def add(self, other: _Totals) -> None:
        """Add what was counted of other chunks."""
        self.confusion += other.confusion
        self.num_rejected += other.num_rejected
        self.num_strings += other.num_strings
        self.num_strings_right += other.num_strings_right
        self.certainty += other.certainty
        self._keep(other.hits, other.worst_misses)

    def _keep(self, found_hits: list[Example], found_misses: list[Example]) -> None:
        self.hits = merge_examples(self.hits, found_hits, key=lambda example: example.image_id)
        self.worst_misses = merge_examples(
            self.worst_misses, found_misses, key=lambda example: -example.confidence
        )

    def evaluation(self) -> Evaluation:
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


class ChunkEvaluator:
    """An actor that holds the model and reads, scores and compares one chunk at a time."""

    def __init__(
        self,
        bundle: Bundle,
        archive_root: str,
        read: ReadOptions,
        actors: ActorOptions,
        num_digits: int | None,
    ) -> None:
        self._archive = locate(archive_root)
        self._num_classes = max_sum(num_digits or bundle.network.config.max_digits) + 1
        self._read = read
        self._predictor = actors.predictor(bundle, num_digits)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was counted of the chunk that `row` describes."""
        totals = _Totals(self._num_classes)
        chunk = Chunk.from_row(row)
        for rows in prefetched(read_chunk(self._archive, chunk, self._read, labels=True)):
            totals.count(rows, self._predictor.predict(rows.pixels))
        # As bytes: Ray Data would try to make an Arrow column of the object, and warn.
        return {"totals": pickle.dumps(totals)}
