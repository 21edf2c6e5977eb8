"""Scoring a labelled archive and comparing: `digitsum evaluate`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from digitsum.archive.location import locate
from digitsum.archive.reading import check_labels, read_chunk
from digitsum.archive.schema import ReadOptions, max_sum
from digitsum.archive.shards import Chunk, open_archive, plan_chunks
from digitsum.errors import InputError
from digitsum.model.bundle import Bundle, load_bundle, packaged_bundle
from digitsum.prefetch import prefetched
from digitsum.scoring.config import ActorOptions, EvaluateConfig
from digitsum.scoring.engine import chunk_engine
from digitsum.scoring.evaluated import Evaluated
from digitsum.scoring.evaluation_totals import EvaluationTotals
from digitsum.scoring.plan import check_shapes


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
    totals = EvaluationTotals(max_sum(num_digits) + 1)
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
        totals = EvaluationTotals(self._num_classes)
        chunk = Chunk.from_row(row)
        for rows in prefetched(read_chunk(self._archive, chunk, self._read, labels=True)):
            totals.count(rows, self._predictor.predict(rows.pixels))
        # As bytes: Ray Data would try to make an Arrow column of the object, and warn.
        return {"totals": pickle.dumps(totals)}
