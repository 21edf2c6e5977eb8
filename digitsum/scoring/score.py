"""Scoring an archive with Ray Data: `digitsum score`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from digitsum.archive.location import Location, locate
from digitsum.archive.publish import publish_bytes
from digitsum.archive.scores import told_digest
from digitsum.archive.shards import Chunk
from digitsum.cluster import connected
from digitsum.errors import InputError, TooManyRejectedError
from digitsum.faults import fault_point
from digitsum.model.bundle import Bundle, load_bundle, packaged_bundle
from digitsum.runs import RUNS_DIRECTORY, new_run_id, write_manifest
from digitsum.scoring.actors import map_chunks
from digitsum.scoring.chunk_scorer import ChunkScorer
from digitsum.scoring.commit import (
    CommittedParts,
    committed_parts,
    complete,
    parts_of_other_models,
    remove_leftovers,
)
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.hold import held
from digitsum.scoring.ledger import Ledger, LedgerFiles, ledger_files, read_ledger, write_ledger
from digitsum.scoring.outcome import Outcome, ScoredChunk, rejected_of
from digitsum.scoring.plan import ScorePlan, Survey, check_apart, plan_scores
from digitsum.scoring.progress import Progress
from digitsum.scoring.quarantine import rejected_shards, write_quarantine
from digitsum.scoring.status import measured_rate
from digitsum.scoring.survey import survey_archive

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class Scored:
    """What a scoring run did."""

    archive: Location
    """The directory that shard paths are relative to."""
    scores: Location
    run: Location
    """The run's directory, with its manifest."""
    outcome: Outcome
    max_rejected: float
    """The fraction of images, or of shards, that may be rejected."""

    @property
    def plan(self) -> ScorePlan:
        """What the run was to do."""
        return self.outcome.plan

    def first_committed(self) -> Chunk | None:
        """Return a chunk that this run scored; None where it scored none."""
        rejected = rejected_of(self.outcome.chunks)
        chunks = self.plan.to_score
        return next((c for c in chunks if (c.shard, c.first_row) not in rejected), None)

    def check_rejected(self) -> None:
        """Raise TooManyRejectedError where more was rejected than is allowed."""
        self.outcome.check_rejected(self.max_rejected)

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the run."""
        return {"scores": self.scores.uri, **self.outcome.to_json()}


@dataclass(frozen=True)
class _Prepared:
    """What a run needs before it looks at the scores."""

    bundle: Bundle
    model_digest: str
    survey: Survey
    surveyed_ns: int
    scores: Location
    ledger_files: LedgerFiles
    ledger: Ledger

    def committed(self) -> CommittedParts:
        return committed_parts(self.scores, self.model_digest, self.ledger.parts)

    def plan(self, config: ScoreConfig, committed: CommittedParts, *, retry: bool) -> ScorePlan:
        make = partial(
            plan_scores,
            self.survey,
            self.model_digest,
            config.chunk_images,
            committed.by_path,
            retry_rejected=retry,
        )
        plan = make()
        if not plan.chunks("new"):
            return plan
        return make(by_other_models=parts_of_other_models(self.scores, self.model_digest))


def plan(config: ScoreConfig) -> ScorePlan:
    """Return what `score` would do; reads footers, and starts nothing.

    Raises InputError where the bundle or the archive cannot be used.
    """
    prepared = _prepare(config)
    return prepared.plan(config, prepared.committed(), retry=config.retry_rejected)


def expected_time(config: ScoreConfig, plan: ScorePlan) -> str:
    """Return a sentence on how long a plan will take, by what the last runs took."""
    num_images = sum(chunk.num_rows for chunk in plan.to_score)
    if not num_images:
        return "nothing to score"
    measured = measured_rate(locate(config.scores), plan.model_digest)
    if measured is None:
        return f"{num_images:,} images to score; no earlier run tells how long that takes"
    rate, run = measured
    return (
        f"{num_images:,} images to score, in about {num_images / rate:,.0f} s at the rate of {run}"
    )


def score(config: ScoreConfig, announce: Callable[[ScorePlan], None] | None = None) -> Scored:
    """Score every chunk of the archive that is not done, and commit each as it is finished.

    `announce` is given the plan before anything is started. May be killed at any moment and run
    again. What cannot be read is rejected: `Scored.check_rejected` raises where that is too much,
    and CURRENT is then left as it was. Raises InputError, before anything is scored, where the
    bundle or the archive cannot be used, and ScoresHeldError where another run is at work.
    """
    started = datetime.now(UTC)
    prepared = _prepare(config)
    scores = prepared.scores
    run = scores.join(f"{RUNS_DIRECTORY}/{new_run_id('score', started)}")
    with held(scores, run.name):
        remove_leftovers(scores, prepared.model_digest)
        plan = prepared.plan(config, prepared.committed(), retry=config.retry_rejected)
        if announce:
            announce(plan)
        publish_bytes(json.dumps(plan.summary(), indent=2).encode() + b"\n", run.join(PLAN_FILE))
        write_quarantine(run, "shards", rejected_shards(plan.rejected))
        chunks, seconds = _score_chunks(config, prepared, plan, run)
        listed_ns = time.time_ns()
        committed = prepared.committed()
        after = prepared.plan(config, committed, retry=False)
        outcome = Outcome(plan, after, chunks, seconds)
        _check_committed(outcome, scores)
        outcome.check_conserved()
        scored = Scored(
            prepared.survey.archive.root, scores, run, outcome, config.max_rejected_fraction
        )
        too_many = _too_many(scored)
        if too_many is None:
            complete(scores, plan.model_digest, after.gone)
            left = [(file, part) for file, part in committed.whole if file.path not in after.gone]
            write_ledger(
                prepared.ledger_files,
                prepared.survey.archive.shards,
                left,
                prepared.surveyed_ns,
                listed_ns,
            )
        fault_point("completed")
        manifest = {
            **scored.to_json(),
            "complete": too_many is None,
            "why_incomplete": too_many,
            "rejected_shards": {shard.path: shard.reason for shard in plan.rejected},
            "chunks": outcome.chunks_to_json(),
        }
        write_manifest(run, "score", config, started, manifest)
    return scored


def _prepare(config: ScoreConfig) -> _Prepared:
    scores = locate(config.scores)
    scores.check_directory()
    bundle = load_bundle(config.bundle or packaged_bundle())
    archive = locate(config.archive)
    check_apart(archive, scores)
    digest = told_digest(bundle.digest, config.digits)
    files = ledger_files(scores, archive, digest, config.read, str(bundle.shape))
    ledger = read_ledger(files)
    surveyed_ns = time.time_ns()
    survey = survey_archive(config.archive, config.read, bundle, config.digits, ledger.shards)
    return _Prepared(bundle, digest, survey, surveyed_ns, scores, files, ledger)


def _score_chunks(
    config: ScoreConfig, prepared: _Prepared, plan: ScorePlan, run: Location
) -> tuple[tuple[ScoredChunk, ...], float]:
    """Score what the plan says; return what became of each chunk, and the seconds it took."""
    if not plan.to_score:
        return (), 0.0
    arguments = {
        "bundle": prepared.bundle,
        "archive_root": prepared.survey.archive.root.uri,
        "scores_uri": prepared.scores.uri,
        "run_uri": run.uri,
        "read": config.read,
        "actors": config.actors,
        "num_digits": config.digits,
    }
    chunks = []
    with connected():
        started = time.perf_counter()
        progress = Progress(sum(chunk.num_rows for chunk in plan.to_score))
        for row in map_chunks(ChunkScorer, arguments, plan.to_score, config.actors):
            chunks.append(ScoredChunk.from_row(row))
            progress.advance(chunks[-1].num_rows)
        return tuple(chunks), time.perf_counter() - started


def _check_committed(outcome: Outcome, scores: Location) -> None:
    """Raise InputError where a part that actors committed is not what lies there, seen from here.

    So it is where the scores are a local directory of each node, or when another run interfered.
    """
    rejected = rejected_of(outcome.chunks)
    missing = [c for c in outcome.after.to_score if (c.shard, c.first_row) not in rejected]
    if missing:
        raise InputError(
            f"{scores.uri}: {len(missing)} of {len(outcome.plan.decisions)} parts are not there, "
            f"or not of the shards as planned, the first of {missing[0].shard}; give --scores a "
            "place that all nodes share, and run again."
        )


def _too_many(scored: Scored) -> str | None:
    try:
        scored.check_rejected()
    except TooManyRejectedError as error:
        return str(error)
    return None
