"""Scoring an archive with Ray Data: `digitsum score`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from digitsum.archive.location import Location, locate
from digitsum.archive.reading import read_chunk
from digitsum.archive.schema import ReadOptions
from digitsum.archive.scores import part_source, told_digest
from digitsum.archive.shards import Archive, Chunk, check_unchanged, open_archive
from digitsum.cluster import connected
from digitsum.model.bundle import Bundle, load_bundle, packaged_bundle
from digitsum.runs import RUNS_DIRECTORY, new_run_id, write_manifest
from digitsum.scoring.actors import make_predictor, map_chunks
from digitsum.scoring.commit import (
    check_committed,
    commit_part,
    committed_parts,
    complete,
    scored_rows,
)
from digitsum.scoring.config import ActorOptions, ScoreConfig
from digitsum.scoring.plan import ScorePlan, check_apart, check_shapes, plan_scores
from digitsum.scoring.progress import Progress


@dataclass(frozen=True)
class Scored:
    """What a scoring run did."""

    archive: Location
    """The directory that shard paths are relative to."""
    scores: Location
    run: Location
    """The run's directory, with its manifest."""
    plan: ScorePlan
    num_images: int
    """Images that this run scored or rejected; not those that were done before."""
    num_rejected: int
    seconds: float
    """From the first chunk given out to the last committed, the actors' start included."""

    @property
    def images_per_s(self) -> float:
        """Images a second; 0 where there was nothing to do."""
        return self.num_images / self.seconds if self.num_images else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the run."""
        return {
            "scores": self.scores.uri,
            "model_digest": self.plan.model_digest,
            "images": self.num_images,
            "rejected": self.num_rejected,
            "seconds": self.seconds,
            "images_per_s": self.images_per_s,
            "plan": self.plan.summary(),
        }


def plan(config: ScoreConfig) -> ScorePlan:
    """Return what `score` would do; reads footers, and starts nothing.

    Raises InputError where the bundle or a shard cannot be used.
    """
    return _prepare(config)[2]


def score(config: ScoreConfig, announce: Callable[[ScorePlan], None] | None = None) -> Scored:
    """Score every chunk of the archive that is not done, and commit each as it is finished.

    `announce` is given the plan before anything is started. May be killed at any moment and run
    again. Raises InputError, before anything is scored, where the bundle or a shard cannot be used.
    """
    started = datetime.now(UTC)
    bundle, archive, plan = _prepare(config)
    if announce:
        announce(plan)
    scores = locate(config.scores)
    run = scores.join(f"{RUNS_DIRECTORY}/{new_run_id('score', started)}")
    num_images, num_rejected, seconds = _score_chunks(config, bundle, archive, plan, scores)
    check_committed(scores, [part_source(chunk, plan.model_digest) for chunk in plan.to_score])
    complete(scores, plan.model_digest, plan.gone)
    scored = Scored(archive.root, scores, run, plan, num_images, num_rejected, seconds)
    write_manifest(run, "score", config, started, scored.to_json())
    return scored


def _prepare(config: ScoreConfig) -> tuple[Bundle, Archive, ScorePlan]:
    scores = locate(config.scores)
    scores.check_directory()
    bundle = load_bundle(config.bundle or packaged_bundle())
    archive = open_archive(config.archive, config.read, bundle.shape)
    check_apart(archive.root, scores)
    check_shapes(archive, bundle.network, config.digits)
    digest = told_digest(bundle.digest, config.digits)
    committed = committed_parts(scores, digest)
    return bundle, archive, plan_scores(archive, digest, config.chunk_images, committed)


def _score_chunks(
    config: ScoreConfig, bundle: Bundle, archive: Archive, plan: ScorePlan, scores: Location
) -> tuple[int, int, float]:
    """Score what the plan says; return images, those of them that were rejected, and seconds."""
    if not plan.to_score:
        return 0, 0, 0.0
    arguments = {
        "bundle": bundle,
        "archive_root": archive.root.uri,
        "scores_uri": scores.uri,
        "read": config.read,
        "actors": config.actors,
        "num_digits": config.digits,
    }
    num_images = num_rejected = 0
    with connected():
        started = time.perf_counter()
        progress = Progress(sum(chunk.num_rows for chunk in plan.to_score))
        for result in map_chunks(ChunkScorer, arguments, plan.to_score, config.actors):
            num_images += result["num_rows"]
            num_rejected += result["num_rejected"]
            progress.advance(result["num_rows"])
        seconds = time.perf_counter() - started
    return num_images, num_rejected, seconds


class ChunkScorer:
    """An actor that holds the model and reads, scores and commits one chunk at a time."""

    def __init__(
        self,
        bundle: Bundle,
        archive_root: str,
        scores_uri: str,
        read: ReadOptions,
        actors: ActorOptions,
        num_digits: int | None,
    ) -> None:
        self._archive = locate(archive_root)
        self._scores = locate(scores_uri)
        self._model_digest = told_digest(bundle.digest, num_digits)
        self._read = read
        self._predictor = make_predictor(bundle, actors, num_digits)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Score and commit the chunk that `row` describes; return its rows and rejected rows."""
        chunk = Chunk.from_row(row)
        source = part_source(chunk, self._model_digest)
        num_rejected = commit_part(self._scores, self._score(chunk), source)
        return {"num_rows": chunk.num_rows, "num_rejected": num_rejected}

    def _score(self, chunk: Chunk) -> Iterator[pa.Table]:
        for rows in read_chunk(self._archive, chunk, self._read):
            yield scored_rows(rows, self._predictor.predict(rows.pixels))
        # After the last row was read, and before they are committed as those of this fingerprint.
        check_unchanged(self._archive, chunk)
