"""An evaluation: a labelled archive is scored, and the sums compared: `digitsum evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.reader import Rows, check_labels, read_chunk
from digitsum.archive.schema import max_sum
from digitsum.errors import InputError
from digitsum.evaluation.examples import Examples
from digitsum.evaluation.metrics import Evaluation, SumMetrics, write_evaluation
from digitsum.manifest import find_origin
from digitsum.model.outputs import Predictions
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor
from digitsum.options import ReadOptions
from digitsum.scoring.config import ComputeOptions, EvaluateConfig
from digitsum.scoring.executors import open_executor
from digitsum.scoring.executors.executor import LostChunk
from digitsum.scoring.score_run import survey_archive
from digitsum.storage.location import Location, locate
from digitsum.storage.prefetch import prefetched
from digitsum.storage.retries import retried
from digitsum.training.dataset import PixelsAndSums


@dataclass(frozen=True)
class ChunkEvaluation:
    """The metrics and examples of some chunks; those of several add up."""

    metrics: SumMetrics
    examples: Examples = field(default_factory=Examples)
    unread: Mapping[str, str] = field(default_factory=dict)
    """Reasons by the place of chunks that cannot be read."""

    @staticmethod
    def of(rows: Rows, predictions: Predictions, num_classes: int) -> ChunkEvaluation:
        """Return the evaluation of consecutive labelled rows and what was predicted of them."""
        metrics = SumMetrics.of(rows, predictions, num_classes)
        return ChunkEvaluation(metrics, Examples.of(rows, predictions))

    def __add__(self, other: ChunkEvaluation) -> ChunkEvaluation:
        return ChunkEvaluation(
            self.metrics + other.metrics,
            self.examples + other.examples,
            {**self.unread, **other.unread},
        )


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Score every image of a labelled archive, and count how far the sums are off.

    Holds counts and a few images only, whatever the archive's size. What cannot be read is
    rejected: `Evaluation.check_rejected` raises if that is too much. Raises InputError, before
    anything is scored, if the model, all shards or a label cannot be used.
    """
    locate(config.report).check_directory()
    model = load_model(config.model or packaged_model())
    survey = survey_archive(config.archive, config.read, model, config.known_count, {})
    archive = survey.archive
    max_digits = config.known_count or model.network.config.max_digits
    check_labels(archive, config.read, max_digits)
    chunks = [c for shard in archive.shards for c in plan_chunks(shard, config.chunk_images)]
    if not chunks:
        raise InputError(f"{config.archive}: holds no images; give an archive with some.")
    make_worker = partial(ChunkEvaluator, model, archive.root.uri, config.read, config.known_count)
    num_images = sum(chunk.num_rows for chunk in chunks)
    total = ChunkEvaluation(SumMetrics.empty(max_sum(max_digits) + 1))
    with open_executor(make_worker, config.compute, num_images) as executor:
        for result in executor.map(chunks):
            assert not isinstance(result, LostChunk), "an executor that does not keep going raises"
            total += result
    num_shards = len(archive.shards) + len(survey.rejected)
    return _evaluation(
        config.archive, model, config.known_count, total, num_shards, dict(survey.rejected)
    )


def record_validation(
    model: SavedModel, images: PixelsAndSums, predictions: Predictions, run: Location
) -> None:
    """Write the evaluation of a trained model on its validation images into its run's directory."""
    pixels, sums = images
    ids = pa.array([f"validation {row}" for row in range(len(sums))])
    num_classes = max_sum(model.network.config.max_digits) + 1
    rows = Rows(0, ids, pixels, {}, sums)
    total = ChunkEvaluation.of(rows, predictions, num_classes)
    write_evaluation(_evaluation("validation images", model, None, total, 0, {}), run)


def _evaluation(
    archive_uri: str,
    model: SavedModel,
    known_count: int | None,
    total: ChunkEvaluation,
    num_shards: int,
    unread_shards: dict[str, str],
) -> Evaluation:
    predictor = TorchPredictor(model, batch_size=1, known_count=known_count)
    return Evaluation(
        archive=archive_uri,
        model=model.uri,
        model_digest=model.digest,
        known_count=known_count,
        metrics=total.metrics,
        num_shards=num_shards,
        unread_shards=unread_shards,
        unread_chunks=dict(sorted(total.unread.items())),
        origin=find_origin(),
        examples=total.examples.explained(predictor.explain),
    )


class ChunkEvaluator:
    """A worker that holds the model and reads, scores and compares one chunk at a time."""

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

    def __call__(self, chunk: Chunk) -> ChunkEvaluation:
        """Return the evaluation of a chunk."""
        try:
            return retried(lambda: self._evaluate(chunk))
        except InputError as error:
            metrics = SumMetrics.empty(self._num_classes)
            place = f"{chunk.shard}, rows from {chunk.first_row} on"
            rejected = replace(metrics, num_rejected=chunk.num_rows)
            return ChunkEvaluation(rejected, unread={place: str(error)})

    def _evaluate(self, chunk: Chunk) -> ChunkEvaluation:
        total = ChunkEvaluation(SumMetrics.empty(self._num_classes))
        for rows in prefetched(
            read_chunk(self._archive, chunk, self._read, labels=True, batch_rows=self._batch_rows)
        ):
            predictions = self._predictor.predict(rows.pixels)
            total += ChunkEvaluation.of(rows, predictions, self._num_classes)
        if total.metrics.num_images != chunk.num_rows:
            raise InputError(
                f"{chunk.shard}: has {total.metrics.num_images} rows from row {chunk.first_row} "
                f"on, but its footer says {chunk.num_rows}: it is damaged; replace the shard."
            )
        return total
