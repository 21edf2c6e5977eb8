"""The report of a comparison of two models on one archive."""

from __future__ import annotations

from digitsum.evaluation.compare import Comparison
from digitsum.report.figures import score_caption
from digitsum.report.page import Page, Section, image_picture


def comparison_page(found: Comparison, archive_uri: str) -> Page:
    """Return the page of a comparison."""
    first, second = found.models
    differ = found.num_images - found.num_same
    facts = [
        ("images that both scored", f"{found.num_images:,}"),
        ("the same sum", f"{found.agreement:.2%}"),
        ("sums within 1", f"{found.num_within_1 / found.num_images:.2%}"),
        ("another sum", f"{differ:,}"),
        (f"of these {first} is surer of", f"{found.surer[0]:,}"),
        (f"of these {second} is surer of", f"{found.surer[1]:,}"),
        (f"mean confidence of {first}", f"{found.mean_confidence[0]:.4f}"),
        (f"mean confidence of {second}", f"{found.mean_confidence[1]:.4f}"),
        *(
            (f"right by {model}", f"{right / found.num_labelled:.2%} of {found.num_labelled:,}")
            for model, right in zip(found.models, found.right, strict=True)
            if found.num_labelled
        ),
        ("rejected by either", f"{found.num_rejected:,}"),
        ("parts of one only", f"{found.only_one[0]:,} and {found.only_one[1]:,}"),
    ]
    pictures = [
        image_picture(
            example.pixels,
            f"Image {example.first['image_id']}: {score_caption(example.first)} against "
            f"{score_caption(example.second)}",
            f"{score_caption(example.first)} | {score_caption(example.second)}"
            f"{_truth(example.true_sum)} · {example.first['image_id']}",
        )
        for example in found.examples
    ]
    text = [
        f"Under each image what {first} said, then what {second} said; those first of which both "
        "were sure. "
        + (
            "The true sum is the archive's."
            if found.num_labelled
            else "What is right only a person can tell: the archive has no true sums."
        )
    ]
    if found.not_shown:
        text.append(f"Some cannot be shown: {found.not_shown}")
    return Page(
        title=f"{first} and {second}",
        summary=f"What two models say of the images of {archive_uri}.",
        facts=facts,
        sections=[
            Section("Where they differ", text=text, pictures=pictures)
            if differ
            else Section("Where they differ", text=["On no image."])
        ],
    )


def _truth(true_sum: int | None) -> str:
    return "" if true_sum is None else f" | true: {true_sum}"
