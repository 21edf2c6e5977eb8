"""Scoring an archive with Ray Data: `digitsum score`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from digitsum.archive.chunks import Chunk
from digitsum.archive.score_parts import part_directory, part_path, part_source
from digitsum.archive.shards import SHARD_SUFFIX, ListedFile, is_listed_so
from digitsum.errors import DriftError, InputError, TooManyRejectedError
from digitsum.fault_injection import fault_point
from digitsum.manifest import RUNS_DIRECTORY, new_run_id, write_manifest
from digitsum.model.prediction_stats import Distributions
from digitsum.scoring.commit import (
    complete,
    remove_leftovers,
    remove_leftovers_beside,
    remove_parts,
)
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.drift import Shift, drift_sentence, find_shifts
from digitsum.scoring.executors.executor import chunk_engine, chunk_recorder
from digitsum.scoring.footer_cache import read_footer_cache, write_footer_cache
from digitsum.scoring.lock import check_same_archive, held
from digitsum.scoring.plan import ScorePlan
from digitsum.scoring.progress import Progress
from digitsum.scoring.rejects import (
    SHARDS,
    chunk_name,
    rejected_chunk,
    rejected_shards,
    write_rejects,
)
from digitsum.scoring.results import Outcome, ScoredChunk, failed_chunk, rejected_of
from digitsum.scoring.score_run import Prepared, look_through, open_scoring
from digitsum.scoring.status import last_run_died, last_scored, measured_rate
from digitsum.scoring.worker import ChunkScorer
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location, locate
from digitsum.storage.retries import retried

PLAN_FILE = "plan.json"
ACTOR_FAILED = (
    "what scored it failed or was lost, as often as it was tried; the log, or Ray's, says how"
)


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
    shifts: tuple[Shift, ...]
    """How far what was predicted is from what the model holds as reference."""

    @property
    def plan(self) -> ScorePlan:
        """What the run was to do."""
        return self.outcome.plan

    def check_rejected(self) -> None:
        """Raise TooManyRejectedError where more was rejected than is allowed."""
        self.outcome.check_rejected(self.max_rejected)

    def check_drift(self) -> None:
        """Raise DriftError where what was predicted has drifted."""
        if any(shift.is_drift for shift in self.shifts):
            raise DriftError(
                f"{drift_sentence(self.shifts)}; look at the run's report. All is scored, and "
                "CURRENT is this run's."
            )

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the run."""
        shifts = [shift.to_json() for shift in self.shifts]
        return {"scores": self.scores.uri, **self.outcome.to_json(), "shifts": shifts}


def plan(config: ScoreConfig) -> ScorePlan:
    """Return what `score` would do; reads footers, and starts nothing.

    Raises InputError where the model or the archive cannot be used.
    """
    opened = open_scoring(config)
    prepared = look_through(config, opened, read_footer_cache(opened.footer_cache_files))
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
    model or the archive cannot be used, and ScoresHeldError where another run is at work.
    """
    started = datetime.now(UTC)
    opened = open_scoring(config)
    looked_at = look_through(config, opened, read_footer_cache(opened.footer_cache_files))
    scores = opened.scores
    run = scores.join(f"{RUNS_DIRECTORY}/{new_run_id('score', started)}")
    with held(scores, run.name):
        # Listed again while it is held: another run may have ended since, of an archive since then.
        prepared = look_through(config, opened, looked_at.now_known())
        check_same_archive(scores, prepared.survey.archive.root)
        remove_leftovers(scores, prepared.model_digest)
        plan = prepared.plan(config, prepared.committed(), retry=config.retry_rejected)
        if announce:
            announce(plan)
        after_death = last_run_died(scores)
        planned = json.dumps(plan.summary(), indent=2).encode() + b"\n"
        retried(lambda: publish_bytes(planned, run.join(PLAN_FILE)))
        write_rejects(run, SHARDS, rejected_shards(plan.rejected))
        chunks, seconds = _score_chunks(config, prepared, plan, run, after_death)
        parts = (part_path(part_source(chunk, plan.model_digest)) for chunk in plan.to_score)
        remove_leftovers_beside(scores, parts, run)
        listed_ns = time.time_ns()
        committed = prepared.committed()
        after = prepared.plan(config, committed, retry=False)
        outcome = Outcome(plan, after, chunks, seconds)
        _check_committed(outcome, scores)
        outcome.check_conserved()
        reference = opened.model.reference
        predicted = outcome.predicted
        if not predicted.num_images:
            # Nothing to do, perhaps because a scheduler tried again: drift is still what it was.
            predicted = _last_predicted(scores, plan.model_digest, run.name)
        if config.known_count is not None:
            # What the model was told bears on how sure it is, and is how many digits it counts.
            predicted = replace(predicted, confidences=(), digit_counts=())
        scored = Scored(
            prepared.survey.archive.root,
            scores,
            run,
            outcome,
            config.max_rejected_fraction,
            find_shifts(predicted, reference) if reference else (),
        )
        removed = set(_to_remove(outcome, prepared))
        remove_parts(scores, sorted(removed))
        too_many = _too_many(scored)
        if too_many is None:
            complete(scores, plan.model_digest)
        fault_point("completed")
        manifest = {
            **scored.to_json(),
            "archive": prepared.survey.archive.root.uri,
            "complete": too_many is None,
            "why_incomplete": too_many,
            "rejected_shards": {shard.path: shard.reason for shard in plan.rejected},
            "reference": reference.to_json() if reference else None,
            "chunks": outcome.chunks_to_json(),
        }
        retried(lambda: write_manifest(run, "score", config, started, manifest))
        left = [(file, part) for file, part in committed.whole if file.path not in removed]
        with suppress(InputError):  # it is only a cache
            write_footer_cache(
                prepared.opened.footer_cache_files,
                prepared.survey.archive.shards,
                left,
                prepared.surveyed_ns,
                listed_ns,
            )
    return scored


def _last_predicted(scores: Location, model_digest: str, before: str) -> Distributions:
    manifest = last_scored(scores, model_digest, before) or {}
    found = Distributions.from_json(manifest.get("outcome", {}).get("predicted"))
    return found or Distributions()


def _to_remove(outcome: Outcome, prepared: Prepared) -> Iterator[str]:
    """Yield the parts of rows that the archive has no longer, and surely not again by now."""
    archive = prepared.survey.archive
    shards = {
        part_directory(prepared.model_digest, shard.file.path): shard.file
        for shard in archive.shards
    }
    for path in outcome.after.gone:
        # In the plan before too: a part that appeared meanwhile is another run's, of a shard that
        # is not in this run's survey.
        if path not in outcome.plan.gone:
            continue
        directory = path.rpartition("/")[0]
        shard = shards.get(directory)
        name = directory.partition("/")[2] + SHARD_SUFFIX
        if is_listed_so(archive.root, shard or ListedFile(name, 0, 0), there=shard is not None):
            yield path
    unread = rejected_of(outcome.chunks)
    for chunk in outcome.after.chunks("changed"):
        if chunk.key in unread:
            yield part_path(part_source(chunk, prepared.model_digest))


def _score_chunks(
    config: ScoreConfig, prepared: Prepared, plan: ScorePlan, run: Location, after_death: bool
) -> tuple[tuple[ScoredChunk, ...], float]:
    """Score what the plan says; return what became of each chunk, and the seconds it took."""
    if not plan.to_score:
        return (), 0.0
    arguments = {
        "model": prepared.opened.model,
        "archive_root": prepared.survey.archive.root.uri,
        "scores_uri": prepared.opened.scores.uri,
        "run_uri": run.uri,
        "read": config.read,
        "actors": config.actors,
        "num_digits": config.known_count,
    }
    num_images = sum(chunk.num_rows for chunk in plan.to_score)
    engine = chunk_engine(config.actors, num_images, after_death=after_death)
    with engine as map_chunks, Progress(num_images, len(plan.to_score)) as progress:
        started = time.perf_counter()
        record = chunk_recorder(run.name, config.actors)
        scored: dict[tuple[str, int], ScoredChunk] = {}
        to_score: Sequence[Chunk] = plan.to_score
        # Once more, for the fault may have been that of the node, or of the hour.
        for attempt in range(2):
            for row in map_chunks(
                ChunkScorer, arguments, to_score, config.actors, lose_failed=True
            ):
                result = ScoredChunk.from_row(row)
                if result.cannot_write:
                    raise InputError(result.reason)
                scored[result.key] = result
                if not result.reason:  # else it is tried again
                    record(result)
                if attempt == 0:
                    progress.advance(
                        result.num_rows, result.num_rejected, result.worker, result.seconds
                    )
            failed = [chunk for chunk in to_score if chunk.key not in scored]
            for chunk in failed:
                scored[chunk.key] = failed_chunk(chunk, ACTOR_FAILED)
                table = rejected_chunk(chunk, "actor", ACTOR_FAILED)
                write_rejects(run, chunk_name(chunk), table)
            to_score = [chunk for chunk in to_score if scored[chunk.key].reason]
            # Ray was seen to leave an actor that had died last, with its CPU, until the driver
            # ends: a second pool might wait for it for ever.
            if failed or not to_score:
                break
        for result in scored.values():
            if result.reason:
                record(result)
        return tuple(scored.values()), time.perf_counter() - started


def _check_committed(outcome: Outcome, scores: Location) -> None:
    """Raise InputError where a part that actors committed is not what lies there, seen from here.

    So it is where the scores are a local directory of each node, or when another run interfered.
    """
    rejected = rejected_of(outcome.chunks)
    missing = [chunk for chunk in outcome.after.to_score if chunk.key not in rejected]
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
