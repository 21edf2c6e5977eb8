"""Functions for all that digitsum does: a configuration in, a result out, reports written.

The commands call these. Each imports what it needs when it is called: torch takes two seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from digitsum.errors import InputError
from digitsum.options import InspectConfig, ReportConfig
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location, locate

if TYPE_CHECKING:
    from digitsum.evaluation.compare import Comparison
    from digitsum.evaluation.metrics import Evaluation
    from digitsum.report.inspect import Inspected
    from digitsum.scoring.config import (
        CompareConfig,
        EvaluateConfig,
        ScoreConfig,
        StatusConfig,
        VerifyConfig,
    )
    from digitsum.scoring.plan import ScorePlan
    from digitsum.scoring.score import ScoreResult
    from digitsum.scoring.status import Status
    from digitsum.scoring.verify import Verification
    from digitsum.training.config import TrainConfig
    from digitsum.training.train import TrainResult


def train(config: TrainConfig) -> TrainResult:
    """Train a network, or resume the run of that name, and write the model and the run's report.

    Raises InputError, before Ray is started, if an option, an archive or a model cannot be used.
    """
    from digitsum.evaluation.evaluate import record_validation
    from digitsum.report.build import report_of
    from digitsum.training.train import train

    result = train(config)
    record_validation(result.model, result.images, result.predictions, result.run)
    report_of(result.run)
    return result


def plan(config: ScoreConfig) -> ScorePlan:
    """Return what `score` would do; writes and starts nothing. Raises as `score` does."""
    from digitsum.scoring.score_run import open_score_run, plan_run

    return plan_run(open_score_run(config)).plan


def score(config: ScoreConfig, announce: Callable[[ScorePlan], None] | None = None) -> ScoreResult:
    """Score an archive and write the run's report; `announce` is given the plan at the start.

    Raises InputError, before anything is scored, if the model or the archive cannot be used, and
    ScoresHeldError if another run holds the scores.
    """
    from digitsum.report.build import report_of
    from digitsum.scoring.score import score

    result = score(config, announce)
    report_of(result.run)
    return result


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Score a labelled archive, compare with the true sums, and write the figures and a report.

    Raises InputError if the model, all shards or a label cannot be used.
    """
    from digitsum.evaluation.evaluate import evaluate
    from digitsum.evaluation.metrics import write_evaluation
    from digitsum.report.build import make_report

    evaluation = evaluate(config)
    write_evaluation(evaluation, locate(config.report))
    make_report(locate(config.report))
    return evaluation


def compare(config: CompareConfig) -> Comparison:
    """Compare two models on one archive, write a report; raises InputError if they share none."""
    from digitsum.evaluation.compare import compare
    from digitsum.report.comparison import comparison_page
    from digitsum.report.page import REPORT_FILE, render

    directory = locate(config.report)
    directory.check_directory()
    comparison = compare(config)
    page = render(comparison_page(comparison, config.archive))
    publish_bytes(page, directory.join(REPORT_FILE))
    return comparison


def verify(config: VerifyConfig) -> Verification:
    """Check scores against their archive; raises InputError if one of them cannot be read."""
    from digitsum.scoring.verify import verify

    return verify(config)


def status(config: StatusConfig) -> Status:
    """Return what a scores directory holds; raises InputError if it holds no scores."""
    from digitsum.scoring.status import status

    return status(config)


def inspect(config: InspectConfig) -> Inspected:
    """Describe an archive, scores, a model or a run, and draw a contact sheet if asked to.

    Raises InputError if the place holds none of these, or no images to draw.
    """
    from digitsum.report.figures import NUM_IMAGES, draw_contact_sheet, to_png
    from digitsum.report.inspect import inspect

    inspected = inspect(config.path, config.read)
    if config.sheet is not None:
        if not inspected.images:
            raise InputError(f"{config.path}: a {inspected.kind} has no images; leave --sheet out.")
        sheet = draw_contact_sheet(inspected.images[:NUM_IMAGES])
        publish_bytes(to_png(sheet), locate(config.sheet))
    return inspected


def report(config: ReportConfig) -> Location:
    """Write the report of a run or an evaluation again; raises InputError if there is no record."""
    from digitsum.report.build import make_report

    return make_report(locate(config.run))
