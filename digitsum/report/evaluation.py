"""The report of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from digitsum.archive.images import Uint8Array
from digitsum.evaluation.examples import Example
from digitsum.evaluation.metrics import COVERAGES, Evaluated, Evaluation, wilson_interval
from digitsum.model.explain import Explanation, explain
from digitsum.model.torch_backend import TorchPredictor
from digitsum.report.figures import draw_certainty, draw_confusion, draw_gallery
from digitsum.report.page import (
    REPORT_FILE,
    Page,
    Section,
    Table,
    origin_section,
    publish_page,
    to_picture,
)
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

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
    predictor = TorchPredictor(evaluated.model, batch_size=1, num_digits=evaluated.num_digits)
    told = "" if evaluated.num_digits is None else f", told that there are {evaluated.num_digits}"
    return Page(
        title=f"Evaluation on {evaluated.archive_uri}",
        summary=(
            f"{evaluation.num_images:,} labelled images, scored by {evaluated.model.uri}{told} "
            f"(model {evaluated.model.digest[:16]})."
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
            origin_section(evaluated.origin, evaluated.model.digest),
        ],
    )


def _unread(unread: Mapping[str, str]) -> Section:
    return Section("What could not be read", table=Table(("shard", "reason"), list(unread.items())))


def evaluation_facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return the figures of an evaluation, by name."""
    right = round(evaluation.accuracy * evaluation.num_images)
    low, high = wilson_interval(right, evaluation.num_images)
    facts = [
        ("images", f"{evaluation.num_images:,}"),
        ("right sums", f"{evaluation.accuracy:.2%} (95%: {low:.1%} to {high:.1%})"),
        ("within 1", f"{evaluation.accuracy_within_1:.2%}"),
        ("mean absolute error", f"{evaluation.mean_absolute_error:.3f}"),
        ("calibration error", f"{evaluation.certainty.calibration_error:.2%}"),
        ("rejected", f"{evaluation.num_rejected:,}"),
    ]
    if evaluation.num_strings:
        facts.append(("all digits right, in order", f"{evaluation.digits_accuracy:.2%}"))
    return facts


def evaluation_sections(
    evaluation: Evaluation,
    hits: Sequence[Example],
    worst_misses: Sequence[Example],
    explain: Callable[[Uint8Array], Explanation | None],
    title: str,
) -> list[Section]:
    """Return confidence, coverage, confusion and gallery; `title` says of which images."""
    certainty = evaluation.certainty
    misses = "; ".join(
        f"{miss.true_sum} was taken for {miss.predicted_sum}, {miss.confidence:.0%} sure"
        for miss in worst_misses
    )
    return [
        Section(
            "What its confidence is worth",
            text=["If only the images of most confidence are taken, so many of them are right:"],
            pictures=[
                to_picture(
                    draw_certainty(certainty),
                    f"Left, accuracy against confidence: calibration error "
                    f"{certainty.calibration_error:.2%}. Right, accuracy against coverage: "
                    f"the table below has its figures.",
                )
            ],
            table=Table(
                ("most confident", "right"),
                [(f"{part:.0%}", f"{certainty.accuracy_at(part):.2%}") for part in COVERAGES],
            ),
        ),
        Section(
            "Hits and worst misses",
            text=[
                "Under each image, a row for each digit: how probable it is, column by column, "
                "that the digit stands there."
            ],
            pictures=[
                to_picture(
                    draw_gallery(hits, worst_misses, explain),
                    f"{len(hits)} images that were read rightly, and the {len(worst_misses)} "
                    f"misses of most confidence: {misses or 'none'}.",
                )
            ],
        ),
        Section(
            "Confusion",
            pictures=[
                to_picture(
                    draw_confusion(evaluation, title),
                    f"True sums against predicted ones: {evaluation.accuracy:.1%} on the diagonal, "
                    f"{evaluation.accuracy_within_1:.1%} within 1 of it.",
                )
            ],
        ),
    ]
