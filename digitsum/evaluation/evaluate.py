"""Scoring a labelled archive and comparing: `digitsum evaluate`."""

from __future__ import annotations

from functools import partial

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.reader import check_labels, read_chunk
from digitsum.archive.schema import max_sum
from digitsum.errors import InputError
from digitsum.evaluation.metrics import Evaluated, EvaluationTotals
from digitsum.manifest import find_origin, to_python
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.options import ReadOptions
from digitsum.scoring.config import ComputeOptions, EvaluateConfig
from digitsum.scoring.executors import open_executor
from digitsum.scoring.executors.executor import LostChunk
from digitsum.scoring.survey import survey_archive
from digitsum.storage.location import locate
from digitsum.storage.prefetch import prefetched
from digitsum.storage.retries import retried


def evaluate(config: EvaluateConfig) -> Evaluated:
    """Score every image of a labelled archive, and count how far the sums are off.

    Holds counts and a few images only, whatever the archive's size. What cannot be read is
    rejected: `Evaluated.check_rejected` raises where that is too much. Raises InputError, before
    anything is scored, where the model, all shards or a label cannot be used.
    """
    locate(config.report).check_directory()
    model = load_model(config.model or packaged_model())
    survey = survey_archive(config.archive, config.read, model, config.known_count, {})
    archive = survey.archive
    num_digits = config.known_count or model.network.config.max_digits
    check_labels(archive, config.read, num_digits)
    chunks = [c for shard in archive.shards for c in plan_chunks(shard, config.chunk_images)]
    if not chunks:
        raise InputError(f"{config.archive}: holds no images; give an archive with some.")
    make_worker = partial(ChunkEvaluator, model, archive.root.uri, config.read, config.known_count)
    totals = EvaluationTotals(max_sum(num_digits) + 1)
    num_images = sum(chunk.num_rows for chunk in chunks)
    with open_executor(make_worker, config.compute, num_images) as executor:
        for result in executor.map(chunks):
            assert not isinstance(result, LostChunk), "an executor that does not keep going raises"
            totals.add(result)
    return Evaluated(
        config.archive,
        model,
        config.known_count,
        totals.evaluation(),
        tuple(totals.hits),
        tuple(totals.worst_misses),
        len(archive.shards) + len(survey.rejected),
        {shard.path: shard.reason for shard in survey.rejected},
        dict(sorted(totals.unread_chunks.items())),
        to_python(find_origin()),
    )


class ChunkEvaluator:
    """An actor that holds the model and reads, scores and compares one chunk at a time."""

    def __init__(
        self,
        model: SavedModel,
        archive_uri: str,
        read: ReadOptions,
        known_count: int | None,
        compute: ComputeOptions,
    ) -> None:
        self._archive = locate(archive_uri)
        self._num_classes = max_sum(known_count or model.network.config.max_digits) + 1
        self._read = read
        self._predictor = compute.predictor(model, known_count)
        self._batch_rows = compute.images_per_read

    def __call__(self, chunk: Chunk) -> EvaluationTotals:
        """Return what was counted of a chunk."""
        try:
            return retried(lambda: self._count(chunk))
        except InputError as error:
            totals = EvaluationTotals(self._num_classes)
            totals.reject_chunk(chunk, str(error))
            return totals

    def _count(self, chunk: Chunk) -> EvaluationTotals:
        totals = EvaluationTotals(self._num_classes)
        read_rows = read_chunk(
            self._archive, chunk, self._read, labels=True, batch_rows=self._batch_rows
        )
        for rows in prefetched(read_rows):
            totals.count(rows, self._predictor.predict(rows.pixels))
        if totals.num_images != chunk.num_rows:
            raise InputError(
                f"{chunk.shard}: gave {totals.num_images} rows from row {chunk.first_row} on, but "
                f"its footer promises {chunk.num_rows}: it is damaged; replace the shard."
            )
        return totals
