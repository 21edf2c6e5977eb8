"""The report of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

from digitsum.archive.location import Location
from digitsum.archive.publish import publish_bytes
from digitsum.model.explain import explain
from digitsum.model.torch_predictor import TorchPredictor
from digitsum.report.evaluation_sections import evaluation_facts, evaluation_sections
from digitsum.report.origin import origin_section
from digitsum.report.page import REPORT_FILE, Page, Section, Table, publish_page
from digitsum.scoring.evaluated import Evaluated

FIGURES_FILE = "evaluation.json"


def publish_evaluation(evaluated: Evaluated, directory: Location) -> list[str]:
    """Write the figures and the report of an evaluation, and return the files' names."""
    figures = json.dumps(evaluated.to_json())
    publish_bytes(f"{figures}\n".encode(), directory.join(FIGURES_FILE))
    publish_page(evaluation_page(evaluated), directory.join(REPORT_FILE))
    return [REPORT_FILE, FIGURES_FILE]


def evaluation_page(evaluated: Evaluated) -> Page:
    """Return the page of an evaluation."""
    evaluation = evaluated.evaluation
    predictor = TorchPredictor(evaluated.bundle, batch_size=1, num_digits=evaluated.num_digits)
    told = "" if evaluated.num_digits is None else f", told that there are {evaluated.num_digits}"
    return Page(
        title=f"Evaluation on {evaluated.archive_uri}",
        summary=(
            f"{evaluation.num_images:,} labelled images, scored by {evaluated.bundle.uri}{told} "
            f"(model {evaluated.bundle.digest[:16]})."
        ),
        alarms=[f"{evaluated.said_of_unread()}."] if evaluated.unread else [],
        facts=evaluation_facts(evaluation),
        sections=[
            *evaluation_sections(
                evaluation,
                evaluated.hits,
                evaluated.worst_misses,
                partial(explain, predictor),
                evaluated.archive_uri,
            ),
            *([_unread(evaluated.unread)] if evaluated.unread else []),
            origin_section(evaluated.origin, evaluated.bundle.digest),
        ],
    )


def _unread(unread: Mapping[str, str]) -> Section:
    return Section("What could not be read", table=Table(("shard", "reason"), list(unread.items())))
