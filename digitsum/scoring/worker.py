"""The worker of a scoring run: holds the model; reads, scores and commits one chunk at a time."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from digitsum.archive.chunks import Chunk, ChunkId, check_unchanged
from digitsum.archive.reader import Rows, read_chunk
from digitsum.archive.score_parts import SCORES_SCHEMA
from digitsum.errors import InputError
from digitsum.fault_injection import fault_point
from digitsum.model.decoding import NO_DIGIT
from digitsum.model.outputs import Predictions, PredictionStats
from digitsum.model.saved_model import SavedModel
from digitsum.options import ReadOptions
from digitsum.scoring.commit import commit_part
from digitsum.scoring.config import ComputeOptions
from digitsum.scoring.rejects import chunk_name, rejected_rows, rejected_whole, write_rejects
from digitsum.scoring.results import ChunkResult
from digitsum.scoring.sample import sample_rows, write_sample
from digitsum.storage.location import locate
from digitsum.storage.prefetch import prefetched
from digitsum.storage.retries import retried


@dataclass(frozen=True)
class ScoreTask:
    """Task of every worker of a run, which travels to other machines."""

    model: SavedModel
    model_digest: str
    """The model's digest, with the known count if there is one."""
    archive_uri: str
    """Directory that shard paths are relative to."""
    scores_uri: str
    run_uri: str
    """Directory of the run, for rejects and sample."""
    read: ReadOptions
    known_count: int | None
    sample: Mapping[ChunkId, int] = field(default_factory=dict)
    """Chunks of which images are recorded for the report, and how many."""


@dataclass
class _Attempt:
    """One attempt at a chunk, and the seconds it has spent."""

    tables: list[pa.Table] = field(default_factory=list)
    predicted: PredictionStats = field(default_factory=PredictionStats)
    read_s: float = 0.0
    forward_s: float = 0.0
    sample: pa.Table | None = None


class ChunkScorer:
    """Scores chunks; an image or a chunk that cannot be read is rejected, and the run goes on.

    Raises InputError if a part cannot be written, which is not the chunk's fault.
    """

    def __init__(self, task: ScoreTask, compute: ComputeOptions) -> None:
        self._task = task
        self._archive = locate(task.archive_uri)
        self._scores = locate(task.scores_uri)
        self._run = locate(task.run_uri)
        self._predictor = compute.predictor(task.model, task.known_count)
        self._batch_rows = compute.images_per_read

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Score and commit a chunk."""
        attempts: list[_Attempt] = []
        try:
            table = retried(lambda: self._score(chunk, attempts))
        except InputError as error:
            rejects = rejected_whole("read", {chunk.shard: str(error)})
            write_rejects(self._run, chunk_name(chunk.id), rejects)
            return ChunkResult.rejected(chunk.id, str(error), **self._spent(attempts))
        started = time.perf_counter()
        # Before the part: a chunk that is done must not lack the reasons of its rejected rows.
        write_rejects(self._run, chunk_name(chunk.id), rejected_rows(chunk.id, table))
        fault_point("rejects_written")
        part = retried(lambda: commit_part(self._scores, table, self._task.model_digest, chunk.id))
        fault_point("committed")
        if attempts[-1].sample is not None:
            with suppress(InputError):  # only the report lacks it
                write_sample(self._run, chunk.id, attempts[-1].sample)
        return ChunkResult(
            chunk.id,
            part.num_rejected,
            write_s=time.perf_counter() - started,
            predicted=attempts[-1].predicted,
            **self._spent(attempts),
        )

    def _spent(self, attempts: list[_Attempt]) -> dict[str, Any]:
        node = socket.gethostname()
        return {
            "read_s": attempts[-1].read_s,
            "forward_s": attempts[-1].forward_s,
            "attempts": len(attempts),
            "node": node,
            "backend": self._predictor.backend,
            "ended": time.time(),
            "worker": f"{node} {os.getpid()} {threading.get_ident()}",
        }

    def _score(self, chunk: Chunk, attempts: list[_Attempt]) -> pa.Table:
        """Return the scores of a chunk, as one table of the schema of parts."""
        attempt = _Attempt()
        attempts.append(attempt)
        fault_point(f"scoring {chunk.shard}")
        num_bytes = 0
        before = time.perf_counter()
        read = self._task.read
        for rows in prefetched(read_chunk(self._archive, chunk, read, batch_rows=self._batch_rows)):
            was_read = time.perf_counter()
            predictions = self._predictor.predict(rows.pixels)
            scores = score_table(rows, predictions)
            if not attempt.tables and chunk.id in self._task.sample:
                num_images = self._task.sample[chunk.id]
                attempt.sample = sample_rows(chunk.id, rows, scores, num_images)
            attempt.tables.append(scores)
            num_bytes += scores.nbytes
            if num_bytes > read.max_read_bytes:
                raise InputError(
                    f"{chunk.id}: the scores take more than the {read.max_read_mb:,} MB of "
                    "--max-read-mb; write smaller row groups, or raise the option."
                )
            attempt.predicted += PredictionStats.of(predictions.without(rows.errors))
            attempt.read_s += was_read - before
            before = time.perf_counter()
            attempt.forward_s += before - was_read
        # After the last row was read, and before they are committed under this fingerprint.
        check_unchanged(self._archive, chunk)
        table = pa.concat_tables([SCORES_SCHEMA.empty_table(), *attempt.tables])
        if table.num_rows != chunk.num_rows:
            raise InputError(
                f"{chunk.shard}: gave {table.num_rows} rows from row {chunk.first_row} on, but its "
                f"footer promises {chunk.num_rows}: it is damaged; replace the shard."
            )
        return table


def score_table(rows: Rows, predictions: Predictions) -> pa.Table:
    """Return the scores of consecutive rows; a rejected row has its reason and no sum."""
    is_rejected = np.zeros(len(rows.image_ids), bool)
    is_rejected[list(rows.errors)] = True
    columns = {field.name: pa.nulls(len(is_rejected), field.type) for field in SCORES_SCHEMA}
    columns["image_id"] = rows.image_ids
    columns["predicted_sum"] = pa.array(predictions.sums, pa.int16(), mask=is_rejected)
    columns["confidence"] = pa.array(predictions.confidences, pa.float32(), mask=is_rejected)
    if rows.errors:
        errors = [rows.errors.get(row) for row in range(len(is_rejected))]
        columns["error"] = pa.array(errors, pa.string())
    readings = predictions.readings
    if readings is not None:
        is_read = (readings.digits != NO_DIGIT) & ~is_rejected[:, None]
        is_counted = np.broadcast_to(~is_rejected[:, None], readings.count_probs.shape)
        columns["digits"] = _lists(readings.digits, is_read, is_rejected)
        columns["digit_x"] = _lists(readings.digit_x, is_read, is_rejected)
        columns["count_probabilities"] = _lists(readings.count_probs, is_counted, is_rejected)
    return pa.table(columns, schema=SCORES_SCHEMA)


def _lists(
    values: npt.NDArray[Any], is_kept: npt.NDArray[np.bool_], is_null: npt.NDArray[np.bool_]
) -> pa.ListArray:
    """Return the kept values of each row as a list, or null."""
    ends = np.cumsum(is_kept.sum(axis=1), dtype=np.int32)
    offsets = np.concatenate([np.zeros(1, np.int32), ends])
    return pa.ListArray.from_arrays(offsets, pa.array(values[is_kept]), mask=pa.array(is_null))
