"""The report of a comparison of two models on one archive."""

from __future__ import annotations

from digitsum.evaluation.compare import Comparison, Disagreement
from digitsum.report.figures import score_caption
from digitsum.report.page import Page, Picture, Section, image_picture


def comparison_page(comparison: Comparison, archive_uri: str) -> Page:
    """Return the page of a comparison."""
    models, num_images = comparison.models, comparison.num_images
    num_labelled, num_different = comparison.num_labelled, num_images - comparison.num_same
    facts = [
        ("images that both scored", f"{num_images:,}"),
        ("same sum", f"{comparison.agreement:.2%}"),
        ("sums within 1", f"{comparison.num_within_1 / num_images:.2%}"),
        ("different sums", f"{num_different:,}"),
    ]
    for i, model in enumerate(models):
        more_confident = f"{comparison.num_more_confident[i]:,}"
        facts.append((f"of these {model} is more confident of", more_confident))
        facts.append((f"mean confidence of {model}", f"{comparison.mean_confidence[i]:.4f}"))
        if num_labelled:
            right = f"{comparison.num_right[i] / num_labelled:.2%} of {num_labelled:,}"
            facts.append((f"right by {model}", right))
    facts += [
        ("rejected by either", f"{comparison.num_rejected:,}"),
        ("parts that only one has", " and ".join(f"{n:,}" for n in comparison.num_unmatched_parts)),
    ]
    truth = (
        "The true sum is the archive's."
        if num_labelled
        else "The archive has no true sums: only a person can say what is right."
    )
    text = [
        f"Under each image what {models[0]} predicts, then {models[1]}; the images of which both "
        f"are the most confident come first. {truth}"
    ]
    if comparison.why_not_shown:
        text.append(f"Some cannot be shown: {comparison.why_not_shown}")
    pictures = [_picture(example) for example in comparison.examples]
    text = text if num_different else ["On no image."]
    return Page(
        title=f"{models[0]} and {models[1]}",
        summary=f"What two models predict of the images of {archive_uri}.",
        facts=facts,
        sections=[Section("Where they differ", text, pictures=pictures)],
    )


def _picture(example: Disagreement) -> Picture:
    assert example.pixels is not None  # a comparison keeps only examples that it can show
    first, second = (score_caption(score) for score in example.scores)
    truth = "" if example.true_sum is None else f" | true: {example.true_sum}"
    image_id = example.scores[0]["image_id"]
    return image_picture(
        example.pixels,
        f"Image {image_id}: {first} against {second}",
        f"{first} | {second}{truth} · {image_id}",
    )
