"""The report of a scoring run: what a person reads in the morning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from digitsum.model.prediction_stats import CONFIDENCE_EDGES, Counts, Distributions
from digitsum.report.figures import score_caption
from digitsum.report.page import (
    Chart,
    Page,
    Picture,
    Section,
    Table,
    chart_style,
    image_picture,
    new_figure,
    origin_section,
    to_chart,
)
from digitsum.scoring.drift import Shift
from digitsum.scoring.review import MOST_REJECTED, ScoreReview
from digitsum.scoring.sample import SampledImage

_SLOWEST = 20
_RATE_BINS = 60
_COLOURS = {"this run": "#2f7ed8", "validation images": "#808890", "the run before": "#c8741a"}


def score_page(review: ScoreReview) -> Page:
    """Return the page of a run."""
    outcome = review.outcome
    alarms = [f"Incomplete: {outcome['why_incomplete']}"] if outcome["why_incomplete"] else []
    shifts = [Shift(s["quantity"], s["index"], s["p_value"]) for s in outcome.get("shifts", [])]
    alarms += [f"Drift: {shift.sentence()}." for shift in shifts if shift.is_drift]
    return Page(
        title=f"Scoring run {review.manifest['run']}",
        summary=(
            f"{outcome['images']:,} images of {outcome['archive']}, scored into "
            f"{outcome['scores']}; began {_time(review.manifest['started'])}, ended "
            f"{_time(review.manifest['ended'])}."
        ),
        alarms=alarms,
        facts=_facts(review),
        sections=[
            section
            for section in (
                _rate(outcome),
                _predictions(review, shifts),
                _sample(review),
                _rejected(review),
                _slowest(outcome),
                _origin(review),
            )
            if section is not None
        ],
    )


def _facts(review: ScoreReview) -> list[tuple[str, str]]:
    outcome = review.outcome
    totals, plan = outcome["totals"], outcome["plan"]
    return [
        ("images scored by this run", f"{outcome['images'] - outcome['rejected']:,}"),
        ("rejected by this run", f"{outcome['rejected']:,}"),
        ("images a second", f"{outcome['images_per_s']:,.0f}"),
        ("seconds", f"{outcome['seconds']:,.1f}"),
        ("images of the archive", f"{totals['images']:,}"),
        ("of these scored, in all", f"{totals['scored']:,}"),
        ("of these rejected, in all", f"{totals['rejected']:,}"),
        ("shards rejected", f"{totals['rejected_shards']:,} of {totals['shards']:,}"),
        (
            "chunks new, changed, done before",
            ", ".join(f"{plan[decided]['chunks']:,}" for decided in ("new", "changed", "done")),
        ),
    ]


def _rate(outcome: Mapping[str, Any]) -> Section | None:
    """Draw images/s over the run; a chunk's images are taken to be done at an even pace."""
    spans = [
        (
            chunk["ended"] - chunk["read_s"] - chunk["forward_s"] - chunk["write_s"],
            chunk["ended"],
            chunk["num_rows"],
        )
        for chunk in outcome["chunks"]
        if chunk["ended"]
    ]
    if not spans:
        return None
    starts, ends, rows = np.array(spans).T
    origin = starts.min()
    edges = np.linspace(0, max(ends.max() - origin, 1e-3), _RATE_BINS + 1)
    begun = starts - origin
    taken = np.maximum(ends - starts, 1e-6)
    done = [float((rows * ((edge - begun) / taken).clip(0, 1)).sum()) for edge in edges]
    rate = np.diff(done) / np.diff(edges)
    with chart_style():
        figure = new_figure()
        axes = figure.subplots()
        axes.stairs(rate, edges, fill=True, color=_COLOURS["this run"], alpha=0.6)
        axes.set_xlabel("seconds since the first chunk was begun")
        axes.set_ylabel("images a second")
        chart = to_chart(
            figure,
            f"Images a second over {edges[-1]:,.0f} seconds: {rate.mean():,.0f} on average, "
            f"{rate.max():,.0f} at most.",
        )
    return Section("Rate", text=[_sentence(outcome["bottleneck"])], charts=[chart])


def _predictions(review: ScoreReview, shifts: Sequence[Shift]) -> Section | None:
    found = review.distributions()
    if not found:
        return None
    classes = [f"below {CONFIDENCE_EDGES[0]:g}", *(f"from {edge:g}" for edge in CONFIDENCE_EDGES)]
    charts = [
        _histogram(found, "sums", "predicted sum", None),
        _histogram(found, "confidences", "confidence", classes),
    ]
    if all(counts.digit_counts for counts in found.values()):
        charts.append(_histogram(found, "digit_counts", "digits in the image", None))
    said = [_sentence(shift.sentence()) for shift in shifts]
    said = said or ["Drift was not judged, for want of images or of a reference in the model."]
    return Section("What was predicted", text=said, charts=charts)


def _histogram(
    found: Mapping[str, Distributions], quantity: str, label: str, classes: list[str] | None
) -> Chart:
    """Draw the share of images by class, of all that are known."""
    counts: dict[str, Counts] = {name: getattr(of, quantity) for name, of in found.items()}
    longest = max(map(len, counts.values()))
    used = max(len(np.trim_zeros(np.array(of), "b")) for of in counts.values())
    length = longest if classes else max(used, 1)
    with chart_style():
        figure = new_figure()
        axes = figure.subplots()
        for name, of in counts.items():
            share = np.zeros(length)
            share[: min(len(of), length)] = of[:length]
            share /= max(sum(of), 1)
            own = name == "this run"
            axes.stairs(
                share,
                np.arange(length + 1) - 0.5,
                color=_COLOURS[name],
                label=name,
                fill=own,
                alpha=0.45 if own else 1.0,
                linewidth=1.6,
            )
        if classes:
            axes.set_xticks(range(length), classes, rotation=40, ha="right")
        axes.set_xlabel(label)
        axes.set_ylabel("share of images")
        axes.legend()
        most = {name: int(np.argmax(of)) for name, of in counts.items() if any(of)}
        described = "; ".join(
            f"{name}: most often {classes[of] if classes else of}" for name, of in most.items()
        )
        return to_chart(figure, f"Share of images by {label}. {described}.")


def _sample(review: ScoreReview) -> Section | None:
    if review.no_sample:
        return Section("A random sample", text=[f"No image can be shown: {review.no_sample}"])
    if not review.sample:
        return None
    return Section(
        "A random sample",
        text=["The sum that was predicted, the digits that were read, and the probability."],
        pictures=[_picture(sampled) for sampled in review.sample],
    )


def _picture(sampled: SampledImage) -> Picture:
    said = score_caption(vars(sampled))
    image_id = sampled.image_id
    return image_picture(sampled.pixels, f"Image {image_id}: {said}", f"{said} · {image_id}")


def _rejected(review: ScoreReview) -> Section:
    if not review.rejected:
        return Section("Rejected", text=["Nothing was rejected."])
    by_reason = sorted(review.reasons.items(), key=lambda item: -item[1])
    total = sum(review.reasons.values())
    text = [f"{number:,} times {reason} ({stage})" for (stage, reason), number in by_reason[:8]]
    if len(by_reason) > 8:
        text.append(f"And {len(by_reason) - 8:,} other reasons.")
    if total > len(review.rejected):
        text.append(
            f"The first {MOST_REJECTED} of {total:,} are listed; rejected/ beside this has all."
        )
    rows = [
        (
            row["shard"],
            "all of it" if row["row"] is None else row["row"],
            row["image_id"] or "",
            row["stage"],
            row["reason"],
        )
        for row in review.rejected
    ]
    return Section(
        "Rejected", text=text, table=Table(("shard", "row", "image id", "stage", "reason"), rows)
    )


def _slowest(outcome: Mapping[str, Any]) -> Section | None:
    def seconds(chunk: Mapping[str, Any]) -> float:
        return float(chunk["read_s"] + chunk["forward_s"] + chunk["write_s"])

    slowest = sorted(outcome["chunks"], key=seconds, reverse=True)[:_SLOWEST]
    if not slowest:
        return None
    rows = [
        (
            chunk["shard"],
            chunk["first_row"],
            chunk["num_rows"],
            seconds(chunk),
            chunk["read_s"],
            chunk["forward_s"],
            chunk["write_s"],
            chunk["attempts"],
            chunk["node"],
        )
        for chunk in slowest
    ]
    columns = (
        "shard",
        "from row",
        "images",
        "seconds",
        "waiting for images",
        "network",
        "writing",
        "attempts",
        "node",
    )
    return Section("Slowest chunks", table=Table(columns, rows))


def _origin(review: ScoreReview) -> Section:
    backends = sorted({chunk["backend"] for chunk in review.outcome["chunks"]} - {""})
    return origin_section(
        review.manifest, review.outcome["model_digest"], [("back-ends", ", ".join(backends))]
    )


def _sentence(said: str) -> str:
    return f"{said[0].upper()}{said[1:]}."


def _time(iso: str) -> str:
    return iso.replace("T", " ")[:19] + " UTC"
