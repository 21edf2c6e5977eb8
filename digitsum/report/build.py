"""Making the report of a run from what it left: `digitsum report`, and at the end of every run."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pyarrow as pa

from digitsum.archive.reader import Rows
from digitsum.archive.schema import max_sum
from digitsum.console import printable, printable_lines
from digitsum.errors import DigitsumError, InputError
from digitsum.evaluation.metrics import EvaluationTotals
from digitsum.manifest import read_manifest, to_python
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import SavedModel, load_model
from digitsum.options import ReadOptions
from digitsum.report.page import REPORT_FILE, Page, publish_page
from digitsum.report.scoring import score_page
from digitsum.report.training import train_page
from digitsum.scoring.review import review_scoring
from digitsum.storage.location import Location
from digitsum.training.config import TrainConfig
from digitsum.training.metrics import history_from_json
from digitsum.training.validation import validated_images

CURVES_FILE = "curves.json"


def make_report(run: Location) -> Location:
    """Write a run's report beside its manifest, and return where it is.

    Raises InputError where the run left nothing that can be read.
    """
    read = read_manifest(run)
    manifest = to_python(read) | to_python(read.origin)
    try:
        page = _page(run, manifest)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{run.uri}: its manifest is of another version of digitsum, or was changed "
            f"({type(error).__name__}: {error}); make the report with the version that it names."
        ) from error
    report = run.join(REPORT_FILE)
    publish_page(page, report)
    return report


def report_of(run: Location) -> list[str]:
    """Write the report of a run that has just ended; return the file's name, or none.

    A run that is complete does not fail for want of a report.
    """
    try:
        return [make_report(run).name]
    except DigitsumError as error:
        sys.stderr.write(f"no report was made: {printable(str(error))}\n")
    except Exception:
        sys.stderr.write(f"no report was made:\n{printable_lines(traceback.format_exc())}")
    return []


def _page(run: Location, manifest: Mapping[str, Any]) -> Page:
    if manifest["kind"] == "score":
        return score_page(review_scoring(run))
    history = history_from_json(run.join(CURVES_FILE).read_bytes())
    try:
        return train_page(manifest, history, _validated(manifest))
    except DigitsumError as error:
        return train_page(manifest, history, str(error))


def _validated(manifest: Mapping[str, Any]) -> tuple[EvaluationTotals, SavedModel]:
    """Return how a run's model does on what it was validated on, by one look as it was then.

    Raises InputError where it is gone.
    """
    outcome = manifest["outcome"]
    model = replace(load_model(outcome["model"]), cascade_below=0.0)
    if model.digest != outcome["model_digest"]:
        raise InputError(f"{model.uri}: is another run's by now.")
    config = _train_config({**manifest["config"], **outcome["learned_from"]})
    totals = EvaluationTotals(max_sum(model.network.config.max_digits) + 1)
    predictor = make_predictor(model)
    first_row = 0
    for pixels, sums in validated_images(config):
        names = pa.array([f"validation {first_row + i}" for i in range(len(sums))])
        rows = Rows(first_row, names, pixels, {}, sums)
        totals.count(rows, predictor.predict(pixels))
        first_row += len(sums)
    return totals, model


def _train_config(found: Mapping[str, Any]) -> TrainConfig:
    known = {f.name for f in fields(TrainConfig)}
    given = {name: value for name, value in found.items() if name in known}
    return TrainConfig(**{**given, "read": ReadOptions(**found["read"])})
