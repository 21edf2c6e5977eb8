"""What earlier runs on a scores directory left written: how they ended, and how fast they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from digitsum.archive.score_parts import CURRENT_FILE
from digitsum.errors import InputError
from digitsum.manifest import MANIFEST_FILE, RUNS_DIRECTORY
from digitsum.scoring.config import StatusConfig
from digitsum.storage.location import Location, locate

_RUN_PREFIX = "score-"
NUM_RUNS = 10
# More nights than a year has, for on most of them there may be nothing to score.
_MOST_RUNS_LOOKED_AT = 400


@dataclass(frozen=True)
class RunStatus:
    """An earlier run."""

    name: str
    manifest: dict[str, Any] | None
    """None where it has none: it was ended before it was complete, or is still at work."""

    @property
    def outcome(self) -> dict[str, Any]:
        """What came of it; {} where nothing is written."""
        outcome = (self.manifest or {}).get("outcome")
        return outcome if isinstance(outcome, dict) else {}

    def sentence(self) -> str:
        """Return what there is to say of it."""
        if not self.outcome:
            return "ended before it was complete, or is still at work"
        said = self.outcome
        why = " ".join(str(said.get("why_incomplete")).split())
        ended = "complete" if said.get("complete") else f"incomplete: {why}"
        images, rejected, seconds = map(self.number, ("images", "rejected", "seconds"))
        return (
            f"{images - rejected:,} images scored and {rejected:,} rejected in {seconds:,.1f} s; "
            f"{ended}"
        )

    def number(self, name: str) -> float:
        """Return a number of the outcome; 0 where none of that name is written."""
        found = self.outcome.get(name)
        return found if isinstance(found, int | float) else 0


@dataclass(frozen=True)
class Status:
    """What a scores directory holds."""

    scores_uri: str
    current: str | None
    """The directory of the last complete run's model; None where none was complete."""
    runs: tuple[RunStatus, ...]
    """The last runs, latest first."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it, but the runs' chunks, as one object."""
        return {
            "scores": self.scores_uri,
            "current": self.current,
            "runs": [
                {"run": run.name}
                | {name: value for name, value in run.outcome.items() if name != "chunks"}
                for run in self.runs
            ],
        }


def status(config: StatusConfig) -> Status:
    """Return the status of a scores directory; raises InputError where it is none."""
    scores = locate(config.scores)
    pointer = scores.join(CURRENT_FILE)
    current = pointer.read_bytes().decode(errors="replace").strip() if pointer.is_file() else None
    runs = tuple(last_runs(scores, NUM_RUNS))
    if current is None and not runs:
        raise InputError(f"{scores.uri}: holds no scores and no runs; give what `score` wrote to.")
    return Status(scores.uri, current, runs)


def measured_rate(scores: Location, model_digest: str) -> tuple[float, str] | None:
    """Return images a second, and the run that had them: the last that scored, with that model.

    Of another model's runs where that one has none; None where there was no run.
    """
    of_another = None
    for run in last_runs(scores):
        rate = run.number("images_per_s")
        if rate and run.outcome.get("model_digest") == model_digest:
            return float(rate), run.name
        if rate and of_another is None:
            of_another = float(rate), run.name
    return of_another


def last_scored(scores: Location, model_digest: str, before: str) -> dict[str, Any] | None:
    """Return the manifest of the last run before one that scored images by a model; or None."""
    for run in last_runs(scores, before=before):
        if run.outcome.get("images") and run.outcome.get("model_digest") == model_digest:
            return run.manifest
    return None


def chunks_that_failed(scores: Location, model_digest: str) -> dict[tuple[str, int], str]:
    """Return the chunks, by shard and first row, that a model's last run rejected as a whole.

    To the run and the reason. Every run tries them again, so that none before it counts.
    """
    for run in last_runs(scores):
        if run.outcome.get("model_digest") == model_digest:
            return {
                (chunk["shard"], chunk["first_row"]): f"rejected by {run.name}: {chunk['reason']}"
                for chunk in run.outcome.get("chunks", [])
                if chunk.get("reason")
            }
    return {}


def last_run_died(scores: Location) -> bool:
    """Return whether the last run left a plan and no manifest."""
    return any(run.manifest is None for run in last_runs(scores, 1))


def last_runs(
    scores: Location, num_runs: int = _MOST_RUNS_LOOKED_AT, before: str | None = None
) -> Iterator[RunStatus]:
    """Yield the last scoring runs of a scores directory, latest first; those `before` one."""
    names = scores.join(RUNS_DIRECTORY).directories()
    runs = [name for name in names if name.startswith(_RUN_PREFIX)]
    runs = [name for name in runs if before is None or name < before]
    for name in runs[: -num_runs - 1 : -1]:
        yield RunStatus(name, _manifest(scores.join(f"{RUNS_DIRECTORY}/{name}/{MANIFEST_FILE}")))


def _manifest(file: Location) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) else None
