"""Scoring a labelled archive and comparing: `digitsum evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from digitsum.archive.location import locate
from digitsum.archive.reading import check_labels, read_chunk
from digitsum.archive.schema import ReadOptions
from digitsum.archive.shards import Chunk, open_archive, plan_chunks
from digitsum.cluster import connected
from digitsum.errors import InputError
from digitsum.model.bundle import Bundle, load_bundle
from digitsum.scoring.actors import make_predictor, map_chunks
from digitsum.scoring.config import ActorOptions, EvaluateConfig
from digitsum.scoring.metrics import Evaluation, count_pairs
from digitsum.scoring.plan import check_shapes


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and what it is of."""

    archive_uri: str
    bundle_uri: str
    model_digest: str
    evaluation: Evaluation

    def to_json(self) -> dict[str, Any]:
        """Return the figures as one object."""
        return {
            **self.evaluation.to_json(),
            "archive": self.archive_uri,
            "bundle": self.bundle_uri,
            "model_digest": self.model_digest,
        }


def evaluate(config: EvaluateConfig) -> Evaluated:
    """Score every image of a labelled archive, and count how far the sums are off.

    Holds counts only, whatever the archive's size. Raises InputError, before anything is scored,
    where the bundle, a shard or a label cannot be used.
    """
    locate(config.report).check_directory()
    bundle = load_bundle(config.bundle)
    archive = open_archive(config.archive, config.read, bundle.shape)
    check_shapes(archive, bundle.shape)
    check_labels(archive, config.read, bundle.num_digits)
    chunks = [c for shard in archive.shards for c in plan_chunks(shard, config.chunk_images)]
    if not chunks:
        raise InputError(f"{config.archive}: holds no images; give an archive with some.")
    num_classes = bundle.network.config.num_classes
    confusion = np.zeros((num_classes, num_classes), np.int64)
    num_rejected = 0
    arguments = {
        "bundle": bundle,
        "archive_root": archive.root.uri,
        "read": config.read,
        "actors": config.actors,
    }
    with connected():
        for result in map_chunks(ChunkEvaluator, arguments, chunks, config.actors):
            confusion += result["confusion"]
            num_rejected += result["num_rejected"]
    evaluation = Evaluation(confusion, num_rejected)
    return Evaluated(config.archive, config.bundle, bundle.digest, evaluation)


class ChunkEvaluator:
    """An actor that holds the model and reads, scores and compares one chunk at a time."""

    def __init__(
        self, bundle: Bundle, archive_root: str, read: ReadOptions, actors: ActorOptions
    ) -> None:
        self._archive = locate(archive_root)
        self._num_classes = bundle.network.config.num_classes
        self._read = read
        self._predictor = make_predictor(bundle, actors)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the confusion matrix of the chunk that `row` describes, and its rejected rows."""
        confusion = np.zeros((self._num_classes, self._num_classes), np.int64)
        num_rejected = 0
        for rows in read_chunk(self._archive, Chunk.from_row(row), self._read, labels=True):
            assert rows.digit_sums is not None  # asked for
            kept = np.ones(len(rows.pixels), bool)
            kept[list(rows.errors)] = False
            sums = self._predictor.predict(rows.pixels).sums.astype(np.int64)
            confusion += count_pairs(rows.digit_sums[kept], sums[kept], self._num_classes)
            num_rejected += len(rows.errors)
        return {"confusion": confusion, "num_rejected": num_rejected}
