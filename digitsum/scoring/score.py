"""A night of scoring on one page: lock, list, plan, score, commit, remove, record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from digitsum.archive.chunks import ChunkId
from digitsum.archive.score_parts import Part, part_directory, part_path, read_part
from digitsum.errors import DriftError, InputError, TooManyRejectedError
from digitsum.fault_injection import fault_point
from digitsum.manifest import to_json, to_python, write_manifest
from digitsum.model.outputs import PredictionStats
from digitsum.scoring.commit import (
    check_committed,
    point_current,
    remove_leftovers,
    remove_leftovers_beside,
    remove_parts,
)
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.drift import Shift, drift_sentence, find_shifts
from digitsum.scoring.executors import chunk_recorder, open_executor
from digitsum.scoring.executors.executor import LostChunk
from digitsum.scoring.footer_cache import write_footer_cache
from digitsum.scoring.lock import check_same_archive, lock_scores
from digitsum.scoring.plan import ScorePlan
from digitsum.scoring.progress import Progress
from digitsum.scoring.rejects import SHARDS_NAME, chunk_name, rejected_whole, write_rejects
from digitsum.scoring.results import ChunkResult, ScoreCounts, ScoreOutcome
from digitsum.scoring.sample import choose_sample
from digitsum.scoring.score_run import PlannedRun, ScoreRun, open_score_run, plan_run
from digitsum.scoring.status import last_run_died, last_scored, measured_rate
from digitsum.scoring.worker import ChunkScorer, ScoreTask
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.listing import PARQUET_SUFFIX, ListedFile, list_file
from digitsum.storage.location import Location, locate
from digitsum.storage.retries import CHUNK_PASSES, retried

PLAN_FILE = "plan.json"
LOST = "its worker failed or was lost, as often as it was tried; the log, or Ray's, says how"


@dataclass(frozen=True)
class ScoreResult:
    """Result of a scoring run."""

    run: Location
    """The run's directory, with its manifest."""
    outcome: ScoreOutcome

    def check_rejected(self) -> None:
        """Raise TooManyRejectedError if more was rejected than --max-rejected allows."""
        if self.outcome.why_incomplete is not None:
            raise TooManyRejectedError(self.outcome.why_incomplete)

    def check_drift(self) -> None:
        """Raise DriftError if the predictions have drifted."""
        if any(shift.is_drift for shift in self.outcome.shifts):
            raise DriftError(
                f"{drift_sentence(self.outcome.shifts)}; look at the run's report. All is scored, "
                "and CURRENT is this run's."
            )


def score(config: ScoreConfig, announce: Callable[[ScorePlan], None] | None = None) -> ScoreResult:
    """Score every chunk of an archive that is not done, and commit each when it is finished.

    `announce` is given the plan before anything is started. What cannot be read is rejected; if
    that is too much, CURRENT is not changed. Raises InputError, before anything is scored, if the
    model or the archive cannot be used, and ScoresHeldError if another run holds them.
    """
    run = open_score_run(config)
    with lock_scores(run.scores, run.directory.name):
        planned = plan_run(run)
        check_same_archive(run.scores, planned.survey.archive.root)
        remove_leftovers(run.scores, run.model_digest)
        if announce:
            announce(planned.plan)
        after_death = last_run_died(run.scores)
        summary = to_json(planned.plan.summary(), indent=2) + b"\n"
        retried(lambda: publish_bytes(summary, run.directory.join(PLAN_FILE)))
        write_rejects(run.directory, SHARDS_NAME, rejected_whole("plan", planned.plan.rejected))
        counts = _score_chunks(run, planned, after_death)
        written_ns = time.time_ns()
        written = _check_written(run, counts)
        counts.check_conserved()
        removed = set(_find_removable(run, planned, counts))
        remove_parts(run.scores, sorted(removed))
        why_incomplete = counts.why_incomplete(config.max_rejected_fraction)
        if why_incomplete is None:
            point_current(run.scores, run.model_digest)
        fault_point("completed")
        outcome = ScoreOutcome.of(
            counts,
            scores=run.scores.uri,
            archive=planned.survey.archive.root.uri,
            why_incomplete=why_incomplete,
            reference=run.model.reference,
            shifts=_find_shifts(run, counts),
        )
        retried(
            lambda: write_manifest(run.directory, "score", config, run.started, to_python(outcome))
        )
        replaced = {file.path for file in written} | removed
        kept = {f: part for f, part in planned.parts.items() if part and f.path not in replaced}
        with suppress(InputError):  # it is only a cache
            write_footer_cache(
                run.cache_files,
                planned.survey.archive.shards,
                kept,
                written,
                listed_ns=planned.listed_ns,
                written_ns=written_ns,
            )
    return ScoreResult(run.directory, outcome)


def expected_time(config: ScoreConfig, plan: ScorePlan) -> str:
    """Return a sentence on how long a plan will take, by what the last runs took."""
    num_images = plan.num_to_score
    if not num_images:
        return "nothing to score"
    to_score = f"{num_images:,} images to score"
    measured = measured_rate(locate(config.scores), plan.model_digest)
    if measured is None:
        return f"{to_score}; no earlier run shows how long that takes"
    rate, run = measured
    return f"{to_score}, in about {num_images / rate:,.0f} s at the rate of {run}"


def _score_chunks(run: ScoreRun, planned: PlannedRun, after_death: bool) -> ScoreCounts:
    """Score the chunks of the plan; return what became of each."""
    plan, compute = planned.plan, run.config.compute
    to_score = plan.to_score
    if not to_score:
        return ScoreCounts(plan, (), 0.0)
    task = ScoreTask(
        model=run.model,
        model_digest=run.model_digest,
        archive_uri=planned.survey.archive.root.uri,
        scores_uri=run.scores.uri,
        run_uri=run.directory.uri,
        read=run.config.read,
        known_count=run.config.known_count,
        sample=choose_sample(to_score, seed=run.directory.name),
    )
    num_images, make_worker = plan.num_to_score, partial(ChunkScorer, task)
    opened = open_executor(
        make_worker, compute, num_images, keep_going=True, after_death=after_death
    )
    with opened as executor, Progress(num_images, len(to_score)) as progress:
        started = time.perf_counter()
        record = chunk_recorder(run.directory.name, compute)
        results: dict[ChunkId, ChunkResult] = {}
        for number in range(CHUNK_PASSES):
            has_lost = False
            for result in executor.map(to_score):
                if isinstance(result, LostChunk):
                    has_lost = True
                    chunk_id, rejects = result.chunk.id, {result.chunk.shard: LOST}
                    name = chunk_name(chunk_id)
                    write_rejects(run.directory, name, rejected_whole("worker", rejects))
                    result = ChunkResult.rejected(chunk_id, LOST)
                elif number == 0:
                    progress.advance(result)
                results[result.chunk] = result
                if not result.reason:  # else it is tried again
                    record(result)
            to_score = tuple(chunk for chunk in to_score if results[chunk.id].reason)
            # Ray was seen to keep an actor that died last, with its CPU, until the driver ends: a
            # second pool might wait for it for ever.
            if has_lost or not to_score:
                break
        for chunk in to_score:
            record(results[chunk.id])
        return ScoreCounts(plan, tuple(results.values()), time.perf_counter() - started)


def _check_written(run: ScoreRun, counts: ScoreCounts) -> dict[ListedFile, Part]:
    """Return the parts that the run wrote, read back; raises InputError if one is not there."""
    parts = [
        Part(run.model_digest, result.chunk, result.num_rejected)
        for result in counts.results
        if not result.reason
    ]
    given_out = (part_path(run.model_digest, result.chunk) for result in counts.results)
    remove_leftovers_beside(run.scores, given_out, run.directory)
    return check_committed(run.scores, parts)


def _find_removable(run: ScoreRun, planned: PlannedRun, counts: ScoreCounts) -> Iterator[str]:
    """Yield the parts of rows that the archive no longer has, if that is still so by now."""
    archive = planned.survey.archive
    shards = {part_directory(run.model_digest, s.file.path): s.file for s in archive.shards}
    for path in planned.plan.gone:
        directory = path.rpartition("/")[0]
        file = shards.get(directory)
        shard = file.path if file else directory.partition("/")[2] + PARQUET_SUFFIX
        if list_file(archive.root, shard) == file:
            yield path
    failed = {result.chunk for result in counts.results if result.reason}
    for decision in planned.plan.decisions:
        # The part is of bytes that the shard no longer has.
        is_outdated = decision.decided == "changed" and not decision.has_scores
        if is_outdated and decision.chunk.id in failed:
            path = part_path(run.model_digest, decision.chunk.id)
            part = retried(partial(read_part, run.scores.join(path)))
            # Unless a worker that counts as lost, or another run, has replaced it by now.
            if part is None or part.chunk != decision.chunk.id:
                yield path


def _find_shifts(run: ScoreRun, counts: ScoreCounts) -> tuple[Shift, ...]:
    predicted, reference = counts.predicted, run.model.reference
    if reference is None:
        return ()
    if not predicted.num_images:
        # Nothing was scored, perhaps because a scheduler tried again: drift is what it was.
        last = last_scored(run.scores, run.model_digest, before=run.directory.name)
        predicted = last.predicted if last else PredictionStats()
    if run.config.known_count is not None:
        # A known count changes how sure the model is, and is how many digits it counts.
        predicted = replace(predicted, confidences=(), digit_counts=())
    return find_shifts(predicted, reference)
