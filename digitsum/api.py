"""Functions for all that digitsum does: a configuration in, a result out, a report written."""

from __future__ import annotations

from collections.abc import Callable

from digitsum.manifest import MANIFEST_FILE
from digitsum.report.build import report_of
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.plan import ScorePlan
from digitsum.scoring.score import ScoreResult, expected_time, plan
from digitsum.scoring.score import score as score_archive

__all__ = ["expected_time", "plan", "score"]


def score(
    config: ScoreConfig, announce: Callable[[ScorePlan], None] | None = None
) -> tuple[ScoreResult, list[str]]:
    """Score an archive, write the run's report, and return the result and what the run left.

    `announce` is given the plan before anything is started. Raises as `scoring.score.score` does.
    """
    result = score_archive(config, announce)
    return result, [MANIFEST_FILE, *report_of(result.run)]
