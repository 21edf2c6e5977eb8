"""The report of a scoring run: what a person reads in the morning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from digitsum.manifest import Manifest
from digitsum.model.outputs import CONFIDENCE_EDGES, Counts
from digitsum.report.figures import score_caption
from digitsum.report.page import (
    Cell,
    Page,
    Section,
    Table,
    draw_chart,
    image_picture,
    origin_section,
)
from digitsum.scoring.rejects import REJECTS_DIRECTORY, read_rejects
from digitsum.scoring.results import ChunkResult, ScoreOutcome
from digitsum.scoring.sample import SampledImage, read_sample
from digitsum.scoring.status import last_scored, score_outcome
from digitsum.storage.location import Location

_MAX_REASONS = 8
_NUM_SLOWEST = 20
_RATE_BINS = 60
_COLOURS = {"this run": "#2f7ed8", "validation images": "#808890", "the run before": "#c8741a"}


def score_page(run: Location, manifest: Manifest) -> Page:
    """Return the page of a run from its manifest and the files beside it.

    Raises InputError if the manifest is not one of a scoring run, or if the rejects or the sample
    cannot be read.
    """
    outcome = score_outcome(run)
    alarms = [f"Incomplete: {outcome.why_incomplete}"] if outcome.why_incomplete else []
    alarms += [f"Drift: {shift.sentence()}." for shift in outcome.shifts if shift.is_drift]
    before = last_scored(run.parent.parent, outcome.model_digest, before=run.name)
    backends = sorted({result.backend for result in outcome.chunks} - {""})
    sections = (
        _rate(outcome),
        _predictions(outcome, before),
        _sample(read_sample(run)),
        _rejects(*read_rejects(run)),
        _slowest(outcome.chunks),
        origin_section(manifest.origin, outcome.model_digest, [("back-ends", ", ".join(backends))]),
    )
    return Page(
        title=f"Scoring run {manifest.run}",
        summary=(
            f"{outcome.images:,} images of {outcome.archive}, scored into {outcome.scores}; began "
            f"{_time(manifest.started)}, ended {_time(manifest.ended)}."
        ),
        alarms=alarms,
        facts=_facts(outcome),
        sections=[section for section in sections if section is not None],
    )


def _facts(outcome: ScoreOutcome) -> list[tuple[str, str]]:
    totals, plan = outcome.totals, outcome.plan
    num_chunks = (f"{planned.chunks:,}" for planned in (plan.new, plan.changed, plan.done))
    return [
        ("images scored by this run", f"{outcome.images - outcome.rejected:,}"),
        ("rejected by this run", f"{outcome.rejected:,}"),
        ("images a second", f"{outcome.images_per_s:,.0f}"),
        ("seconds", f"{outcome.elapsed_s:,.1f}"),
        ("images of the archive", f"{totals.images:,}"),
        ("of these scored, in all", f"{totals.scored:,}"),
        ("of these rejected, in all", f"{totals.rejected:,}"),
        ("shards rejected", f"{totals.rejected_shards:,} of {totals.shards:,}"),
        ("chunks new, changed, done before", ", ".join(num_chunks)),
    ]


def _rate(outcome: ScoreOutcome) -> Section | None:
    """Draw images/s over the run, as if each chunk's images were done at an even pace."""
    results = [result for result in outcome.chunks if result.ended]
    if not results:
        return None
    spans = [(result.ended - result.elapsed_s, result.ended) for result in results]
    num_images = np.array([result.chunk.num_rows for result in results])
    starts, ends = (np.array(spans) - np.min(spans)).T
    edges = np.linspace(0, max(ends.max(), 1e-3), _RATE_BINS + 1)
    shares = ((edges[:, None] - starts) / np.maximum(ends - starts, 1e-6)).clip(0, 1)
    rate = np.diff(shares @ num_images) / np.diff(edges)
    description = (
        f"Images a second over {edges[-1]:,.0f} seconds: {rate.mean():,.0f} on average, "
        f"{rate.max():,.0f} at most."
    )

    def draw(axes: Axes) -> None:
        axes.stairs(rate, edges, fill=True, color=_COLOURS["this run"], alpha=0.6)
        axes.set_xlabel("seconds since the first chunk began")
        axes.set_ylabel("images a second")

    chart = draw_chart(draw, description)
    return Section("Rate", text=[_sentence(outcome.bottleneck)], charts=[chart])


def _predictions(outcome: ScoreOutcome, before: ScoreOutcome | None) -> Section | None:
    recorded = {
        "this run": outcome.predicted,
        "validation images": outcome.reference,
        "the run before": before and before.predicted,
    }
    known = {name: counts for name, counts in recorded.items() if counts and counts.num_images}
    if not known:
        return None
    classes = [f"below {CONFIDENCE_EDGES[0]:g}", *(f"from {edge:g}" for edge in CONFIDENCE_EDGES)]
    charts = [
        _histogram({name: counts.sums for name, counts in known.items()}, "predicted sum"),
        _histogram({n: counts.confidences for n, counts in known.items()}, "confidence", classes),
    ]
    if all(counts.digit_counts for counts in known.values()):
        counts = {name: counts.digit_counts for name, counts in known.items()}
        charts.append(_histogram(counts, "digits in the image"))
    text = [_sentence(shift.sentence()) for shift in outcome.shifts]
    text = text or ["Drift was not judged: too few images, or no reference in the model."]
    return Section("What was predicted", text=text, charts=charts)


def _histogram(
    counts: Mapping[str, Counts], label: str, classes: Sequence[str] | None = None
) -> Markup:
    """Draw the share of images by class, of each run or set of images."""
    num_classes = max(map(len, counts.values()))

    def draw(axes: Axes) -> None:
        for name, of_name in counts.items():
            padded = np.pad(of_name, (0, num_classes - len(of_name)))
            is_own = name == "this run"
            axes.stairs(
                padded / max(padded.sum(), 1),
                np.arange(num_classes + 1) - 0.5,
                color=_COLOURS[name],
                label=name,
                fill=is_own,
                alpha=0.45 if is_own else 1.0,
                linewidth=1.6,
            )
        if classes:
            axes.set_xticks(range(num_classes), classes, rotation=40, ha="right")
        axes.set_xlabel(label)
        axes.set_ylabel("share of images")
        axes.legend()

    modes = {name: int(np.argmax(of_name)) for name, of_name in counts.items()}
    described = "; ".join(
        f"{name}: most often {classes[mode] if classes else mode}" for name, mode in modes.items()
    )
    return draw_chart(draw, f"Share of images by {label}. {described}.")


def _sample(images: Sequence[SampledImage]) -> Section | None:
    if not images:
        return None
    captions = [score_caption(vars(image)) for image in images]
    pictures = [
        image_picture(
            image.pixels, f"Image {image.image_id}: {caption}", f"{caption} · {image.image_id}"
        )
        for image, caption in zip(images, captions, strict=True)
    ]
    text = ["The sum that was predicted, the digits that were read, and the probability."]
    return Section("A random sample", text=text, pictures=pictures)


def _rejects(rejects: Sequence[Mapping[str, Any]], counts: Counter[tuple[str, str]]) -> Section:
    if not rejects:
        return Section("Rejected", text=["Nothing was rejected."])
    text = [
        f"{number:,} times {reason} ({stage})"
        for (stage, reason), number in counts.most_common(_MAX_REASONS)
    ]
    if len(counts) > _MAX_REASONS:
        text.append(f"And {len(counts) - _MAX_REASONS:,} other reasons.")
    if counts.total() > len(rejects):
        text.append(
            f"The first {len(rejects):,} of {counts.total():,} are listed; {REJECTS_DIRECTORY}/ "
            "beside this page has all."
        )
    # Null: the row of a whole shard or chunk, and an id that cannot be read.
    nulls = {"row": "all of it", "image_id": ""}
    rows = [
        [nulls[name] if value is None else value for name, value in reject.items()]
        for reject in rejects
    ]
    columns = ("shard", "row", "image id", "stage", "reason")
    return Section("Rejected", text=text, table=Table(columns, rows))


def _slowest(results: Sequence[ChunkResult]) -> Section | None:
    slowest = sorted(results, key=lambda result: result.elapsed_s, reverse=True)[:_NUM_SLOWEST]
    if not slowest:
        return None
    rows: list[dict[str, Cell]] = [
        {
            "shard": result.chunk.shard,
            "from row": result.chunk.first_row,
            "images": result.chunk.num_rows,
            "seconds": result.elapsed_s,
            "waiting for images": result.read_s,
            "network": result.forward_s,
            "writing": result.write_s,
            "attempts": result.attempts,
            "node": result.node,
        }
        for result in slowest
    ]
    table = Table(list(rows[0]), [list(row.values()) for row in rows])
    return Section("Slowest chunks", table=table)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _time(iso: str) -> str:
    return iso.replace("T", " ")[:19] + " UTC"
