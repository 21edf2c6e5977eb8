"""The report of a run, an evaluation or a training, rendered from what it recorded."""

from __future__ import annotations

import sys
import traceback

import pyarrow as pa

from digitsum.console import printable_lines, warn
from digitsum.errors import DigitsumError, InputError
from digitsum.evaluation.metrics import EVALUATION_FILE, read_evaluation
from digitsum.manifest import MANIFEST_FILE, read_manifest
from digitsum.report.evaluation import evaluation_page
from digitsum.report.page import REPORT_FILE, Page, render
from digitsum.report.scoring import score_page
from digitsum.report.training import train_page
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location


def make_report(directory: Location) -> Location:
    """Write the report of a run or an evaluation beside its record, and return where it is.

    Raises InputError if the directory holds no record that can be read.
    """
    try:
        page = _page(directory)
    except (LookupError, TypeError, AttributeError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{directory.uri}: its record is of another version of digitsum, or was changed "
            f"({type(error).__name__}: {error}); make the report with the version that it names."
        ) from error
    report = directory.join(REPORT_FILE)
    publish_bytes(render(page), report)
    return report


def report_of(run: Location) -> list[str]:
    """Write the report of a run that has just ended; return the file's name, or [] if it fails.

    A complete run does not fail for want of a report.
    """
    try:
        return [make_report(run).name]
    except DigitsumError as error:
        warn(f"no report was made: {error}")
    except Exception:
        sys.stderr.write(f"no report was made:\n{printable_lines(traceback.format_exc())}")
    return []


def _page(directory: Location) -> Page:
    is_evaluated = directory.join(EVALUATION_FILE).is_file()
    evaluation = read_evaluation(directory) if is_evaluated else None
    if evaluation is not None and not directory.join(MANIFEST_FILE).is_file():
        return evaluation_page(evaluation)
    manifest = read_manifest(directory)
    if manifest.kind == "score":
        return score_page(directory, manifest)
    return train_page(directory, manifest, evaluation)
