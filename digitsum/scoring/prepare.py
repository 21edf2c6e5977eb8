"""What a scoring run is given and finds before it scores: model, archive, scores, and the plan."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from digitsum.archive.location import Location, locate
from digitsum.archive.scores import model_directory, told_digest
from digitsum.model.bundle import Bundle, load_bundle, packaged_bundle
from digitsum.runs import RUNS_DIRECTORY
from digitsum.scoring.commit import CommittedParts, committed_parts, parts_of_other_models
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.ledger import Ledger, LedgerFiles, ledger_files
from digitsum.scoring.plan import ScorePlan, Survey, check_apart, plan_scores
from digitsum.scoring.survey import survey_archive


@dataclass(frozen=True)
class Opened:
    """What a run was given, before it looks at it."""

    bundle: Bundle
    model_digest: str
    scores: Location
    ledger_files: LedgerFiles


@dataclass(frozen=True)
class Prepared:
    """What a run plans by."""

    opened: Opened
    survey: Survey
    surveyed_ns: int
    ledger: Ledger

    @property
    def model_digest(self) -> str:
        """The model's digest, marked where it is told how many digits there are."""
        return self.opened.model_digest

    def now_known(self) -> Ledger:
        """Return the ledger with what was read of shards since."""
        return Ledger({s.file: s for s in self.survey.archive.shards}, self.ledger.parts)

    def committed(self) -> CommittedParts:
        """Return the model's parts, as they lie there now."""
        return committed_parts(self.opened.scores, self.model_digest, self.ledger.parts)

    def plan(self, config: ScoreConfig, committed: CommittedParts, *, retry: bool) -> ScorePlan:
        """Return the plan that these parts leave; `retry` also takes what has rejected rows."""
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
        return make(by_other_models=parts_of_other_models(self.opened.scores, self.model_digest))


def open_scoring(config: ScoreConfig) -> Opened:
    """Return what a run was given; raises InputError where the bundle or a place cannot be used."""
    scores = locate(config.scores)
    scores.check_directory()
    bundle = load_bundle(config.bundle or packaged_bundle())
    archive = locate(config.archive)
    check_apart(archive, scores)
    digest = told_digest(bundle.digest, config.digits)
    for directory in (model_directory(digest), f"{RUNS_DIRECTORY}/ledger"):
        scores.check_below(f"{directory}/_")
    files = ledger_files(scores, archive, digest, config.read, str(bundle.shape))
    return Opened(bundle, digest, scores, files)


def look_through(config: ScoreConfig, opened: Opened, ledger: Ledger) -> Prepared:
    """Return what a run plans by; `ledger` spares reading footers that were read before.

    Raises InputError where the archive is none, or none of its shards can be scored.
    """
    surveyed_ns = time.time_ns()
    bundle, known = opened.bundle, ledger.shards
    survey = survey_archive(config.archive, config.read, bundle, config.digits, known)
    return Prepared(opened, survey, surveyed_ns, ledger)
