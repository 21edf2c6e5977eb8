"""The actor of a scoring run: reads, scores and commits one chunk at a time."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from digitsum.archive.chunks import Chunk, check_unchanged
from digitsum.archive.reader import read_chunk
from digitsum.archive.score_parts import SCORES_SCHEMA, known_count_digest, part_source
from digitsum.errors import InputError
from digitsum.fault_injection import fault_point
from digitsum.model.prediction_stats import Distributions
from digitsum.model.saved_model import SavedModel
from digitsum.options import ReadOptions
from digitsum.scoring.commit import commit_part, scored_rows
from digitsum.scoring.config import ActorOptions
from digitsum.scoring.rejects import (
    chunk_name,
    rejected_chunk,
    rejected_rows,
    write_rejects,
)
from digitsum.scoring.results import ScoredChunk
from digitsum.storage.location import locate
from digitsum.storage.prefetch import prefetched
from digitsum.storage.retries import retried


class ChunkScorer:
    """Holds the model; an image or a chunk that cannot be read is rejected, and the run goes on."""

    def __init__(
        self,
        model: SavedModel,
        archive_root: str,
        scores_uri: str,
        run_uri: str,
        read: ReadOptions,
        actors: ActorOptions,
        num_digits: int | None,
    ) -> None:
        self._archive = locate(archive_root)
        self._scores = locate(scores_uri)
        self._run = locate(run_uri)
        self._model_digest = known_count_digest(model.digest, num_digits)
        self._read = read
        self._predictor = actors.predictor(model, num_digits)
        self._batch_rows = actors.images_per_read
        self._node = socket.gethostname()
        self._read_s = self._forward_s = 0.0
        self._attempts = 0
        self._predicted = Distributions()

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Score and commit the chunk that `row` describes; return its `ScoredChunk` as a row."""
        chunk = Chunk.from_row(row)
        self._attempts = 0
        try:
            table = retried(lambda: self._score(chunk))
        except InputError as error:
            write_rejects(self._run, chunk_name(chunk), rejected_chunk(chunk, "read", str(error)))
            return self._said(chunk, chunk.num_rows, str(error), 0.0, Distributions())
        started = time.perf_counter()
        # Before the part: a chunk that is done must not lack the reasons of its rejected rows.
        write_rejects(self._run, chunk_name(chunk), rejected_rows(chunk, table))
        fault_point("rejects_written")
        source = part_source(chunk, self._model_digest)
        try:
            part = retried(lambda: commit_part(self._scores, [table], source))
        except InputError as error:
            said = self._said(chunk, chunk.num_rows, str(error), 0.0, Distributions())
            return said | {"cannot_write": True}
        fault_point("committed")
        write_s = time.perf_counter() - started
        return self._said(chunk, part.num_rejected, "", write_s, self._predicted)

    def _score(self, chunk: Chunk) -> pa.Table:
        self._attempts += 1
        fault_point(f"scoring {chunk.shard}")
        self._read_s = self._forward_s = 0.0
        self._predicted = Distributions()
        tables: list[pa.Table] = []
        held = 0
        before = time.perf_counter()
        read_rows = read_chunk(self._archive, chunk, self._read, batch_rows=self._batch_rows)
        for rows in prefetched(read_rows):
            read = time.perf_counter()
            predictions = self._predictor.predict(rows.pixels)
            tables.append(scored_rows(rows, predictions))
            held += tables[-1].nbytes
            if held > self._read.max_read_bytes:
                raise InputError(
                    f"{chunk.shard}: the scores of the {chunk.num_rows:,} rows from row "
                    f"{chunk.first_row} on take more than the {self._read.max_read_mb:,} MB of "
                    "--max-read-mb; write smaller row groups, or raise the option."
                )
            self._predicted += Distributions.of(predictions.without(rows.errors))
            self._read_s += read - before
            before = time.perf_counter()
            self._forward_s += before - read
        # After the last row was read, and before they are committed as those of this fingerprint.
        check_unchanged(self._archive, chunk)
        table = pa.concat_tables([SCORES_SCHEMA.empty_table(), *tables])
        if table.num_rows != chunk.num_rows:
            raise InputError(
                f"{chunk.shard}: gave {table.num_rows} rows from row {chunk.first_row} on, but its "
                f"footer promises {chunk.num_rows}: it is damaged; replace the shard."
            )
        return table

    def _said(
        self,
        chunk: Chunk,
        num_rejected: int,
        reason: str,
        write_s: float,
        predicted: Distributions,
    ) -> dict[str, Any]:
        said = ScoredChunk(
            chunk.shard,
            chunk.fingerprint,
            chunk.first_row,
            chunk.num_rows,
            num_rejected,
            reason,
            self._read_s,
            self._forward_s,
            write_s,
            self._attempts,
            self._node,
            predicted,
            self._predictor.backend,
            time.time(),
            f"{self._node} {os.getpid()} {threading.get_ident()}",
        )
        return said.to_row()
