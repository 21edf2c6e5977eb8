"""The status of a scores directory: how its last runs ended, and how fast they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from digitsum.archive.chunks import ChunkId
from digitsum.archive.score_parts import CURRENT_FILE
from digitsum.errors import InputError
from digitsum.manifest import MANIFEST_FILE, RUNS_DIRECTORY, from_python, read_manifest
from digitsum.scoring.config import StatusConfig
from digitsum.scoring.results import ScoreOutcome
from digitsum.storage.location import Location, locate

_RUN_PREFIX = "score-"
NUM_RUNS = 10
# More nights than a year has: in most of them there may be nothing to score.
_MAX_RUNS = 400


@dataclass(frozen=True)
class RunStatus:
    """An earlier run."""

    name: str
    outcome: ScoreOutcome | None
    """None if it ended before it was complete, or is still running."""

    def sentence(self) -> str:
        """Return how the run ended."""
        outcome = self.outcome
        if outcome is None:
            return "ended before it was complete, or is still running"
        why = " ".join((outcome.why_incomplete or "").split())
        counts = f"{outcome.images - outcome.rejected:,} images scored and {outcome.rejected:,}"
        end = "complete" if outcome.complete else f"incomplete: {why}"
        return f"{counts} rejected in {outcome.elapsed_s:,.1f} s; {end}"


@dataclass(frozen=True)
class Status:
    """Current model and last runs of a scores directory."""

    scores_uri: str
    current: str | None
    """Directory of the last complete run's model; None if no run was complete."""
    runs: tuple[RunStatus, ...]
    """The last runs, latest first."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it, without the runs' chunks, as one JSON object."""
        runs = [
            {"run": run.name} | (run.outcome.to_json() if run.outcome else {}) for run in self.runs
        ]
        return {"scores": self.scores_uri, "current": self.current, "runs": runs}


def status(config: StatusConfig) -> Status:
    """Return the status of a scores directory; raises InputError if it holds no scores."""
    scores = locate(config.scores)
    pointer = scores.join(CURRENT_FILE)
    current = pointer.read_bytes().decode(errors="replace").strip() if pointer.is_file() else None
    runs = tuple(last_runs(scores, NUM_RUNS))
    if current is None and not runs:
        raise InputError(f"{scores.uri}: holds no scores and no runs; give what `score` wrote to.")
    return Status(scores.uri, current, runs)


def measured_rate(scores: Location, model_digest: str) -> tuple[float, str] | None:
    """Return images/s and name of the last run that scored, by this model if one did, or None."""
    of_another = None
    for run in last_runs(scores):
        if run.outcome and run.outcome.images_per_s:
            measured = run.outcome.images_per_s, run.name
            if run.outcome.model_digest == model_digest:
                return measured
            of_another = of_another or measured
    return of_another


def last_scored(scores: Location, model_digest: str, before: str) -> ScoreOutcome | None:
    """Return the outcome of the last run, before one, that scored images with a model."""
    for run in last_runs(scores, before=before):
        outcome = run.outcome
        if outcome and outcome.images and outcome.model_digest == model_digest:
            return outcome
    return None


def failed_chunks(scores: Location, model_digest: str) -> dict[ChunkId, str]:
    """Return the chunks that a model's last run rejected as a whole, and by which run and why."""
    for run in last_runs(scores):
        if run.outcome and run.outcome.model_digest == model_digest:
            outcome = score_outcome(scores.join(f"{RUNS_DIRECTORY}/{run.name}"))
            return {
                result.chunk: f"rejected by {run.name}: {result.reason}"
                for result in outcome.chunks
                if result.reason
            }
    return {}


def last_run_died(scores: Location) -> bool:
    """Return whether the last run left a plan and no manifest."""
    return any(run.outcome is None for run in last_runs(scores, 1))


def last_runs(
    scores: Location, num_runs: int = _MAX_RUNS, before: str | None = None
) -> Iterator[RunStatus]:
    """Yield the last scoring runs of a scores directory, or those before one, latest first.

    Without their chunks, which take most of the time to read.
    """
    runs = scores.join(RUNS_DIRECTORY)
    names = [name for name in runs.directories() if name.startswith(_RUN_PREFIX)]
    names = [name for name in names if before is None or name < before]
    for name in names[: -num_runs - 1 : -1]:
        outcome = None
        with suppress(InputError):  # it has no manifest, or none that can be read
            outcome = score_outcome(runs.join(name), with_chunks=False)
        yield RunStatus(name, outcome)


def score_outcome(run: Location, *, with_chunks: bool = True) -> ScoreOutcome:
    """Return what came of a scoring run; raises InputError if its manifest is not one's."""
    manifest = read_manifest(run)
    if manifest.kind != "score":
        raise InputError(f"{run.uri}: not a scoring run; give one of a scores directory's _runs/.")
    chunks = {} if with_chunks else {"chunks": ()}
    return from_python(ScoreOutcome, manifest.outcome | chunks, run.join(MANIFEST_FILE).uri)
