"""The report of an evaluation."""

from __future__ import annotations

from digitsum.evaluation.examples import Examples
from digitsum.evaluation.metrics import COVERAGES, Evaluation, SumMetrics
from digitsum.report.figures import draw_calibration, draw_confusion, draw_gallery, to_png
from digitsum.report.page import Page, Picture, Section, Table, origin_section


def evaluation_page(evaluation: Evaluation) -> Page:
    """Return the page of an evaluation."""
    metrics, count = evaluation.metrics, evaluation.known_count
    known = "" if count is None else f", each with a known count of {count} digits"
    sections = evaluation_sections(metrics, evaluation.examples, evaluation.archive)
    if evaluation.unread:
        table = Table(("shard", "reason"), list(evaluation.unread.items()))
        sections.append(Section("What could not be read", table=table))
    return Page(
        title=f"Evaluation on {evaluation.archive}",
        summary=(
            f"{metrics.num_images:,} labelled images{known}, scored by {evaluation.model} "
            f"(model {evaluation.model_digest[:16]})."
        ),
        alarms=[f"{evaluation.unread_sentence()}."] if evaluation.unread else [],
        facts=evaluation_facts(metrics),
        sections=[*sections, origin_section(evaluation.origin, evaluation.model_digest)],
    )


def evaluation_facts(metrics: SumMetrics) -> list[tuple[str, str]]:
    """Return the figures of an evaluation, by name."""
    low, high = metrics.accuracy_interval
    facts = [
        ("images", f"{metrics.num_images:,}"),
        ("right sums", f"{metrics.accuracy:.2%} (95%: {low:.1%} to {high:.1%})"),
        ("within 1", f"{metrics.accuracy_within_1:.2%}"),
        ("mean absolute error", f"{metrics.mean_absolute_error:.3f}"),
        ("calibration error", f"{metrics.confidences.calibration_error:.2%}"),
        ("rejected", f"{metrics.num_rejected:,}"),
    ]
    if metrics.num_with_digits:
        facts.append(("all digits right, in order", f"{metrics.digits_accuracy:.2%}"))
    return facts


def evaluation_sections(metrics: SumMetrics, examples: Examples, title: str) -> list[Section]:
    """Return confidence, examples and confusion; `title` says which images these are."""
    confidences = metrics.confidences
    misses = "; ".join(
        f"{miss.true_sum} was taken for {miss.predicted_sum}, {miss.confidence:.0%} confident"
        for miss in examples.misses
    )
    calibration = Picture(
        to_png(draw_calibration(confidences)),
        "Left, accuracy against confidence: calibration error "
        f"{confidences.calibration_error:.2%}. Right, accuracy against coverage, as in the table "
        "below.",
    )
    gallery = Picture(
        to_png(draw_gallery(examples)),
        f"{len(examples.hits)} images whose sum is right, and the {len(examples.misses)} most "
        f"confident misses: {misses or 'none'}.",
    )
    confusion = Picture(
        to_png(draw_confusion(metrics, title)),
        f"True sums against predicted ones: {metrics.accuracy:.1%} on the diagonal, "
        f"{metrics.accuracy_within_1:.1%} within 1 of it.",
    )
    rows = [(f"{part:.0%}", f"{confidences.accuracy_at(part):.2%}") for part in COVERAGES]
    of_confident = ["Of the most confident images only, this fraction is right:"]
    below_images = [
        "Under each image, a row for each digit: how probable it is, column by column, that the "
        "digit stands there."
    ]
    table = Table(("most confident", "right"), rows)
    return [
        Section("What its confidence is worth", of_confident, [], [calibration], table),
        Section("Hits and worst misses", below_images, pictures=[gallery]),
        Section("Confusion", pictures=[confusion]),
    ]
