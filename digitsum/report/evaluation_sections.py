"""The parts of a report that say how good a model is on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from digitsum.archive.images import Uint8Array
from digitsum.model.explain import Explanation
from digitsum.report.certainty import draw_certainty
from digitsum.report.confusion import draw_confusion
from digitsum.report.gallery import draw_gallery
from digitsum.report.page import Section, Table, to_picture
from digitsum.scoring.examples import Example
from digitsum.scoring.metrics import COVERAGES, Evaluation, wilson_interval


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
