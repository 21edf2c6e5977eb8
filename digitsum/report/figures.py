"""What all of digitsum's pictures have in common."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from digitsum.archive.images import Uint8Array
from digitsum.evaluation.calibration import CALIBRATION_BINS, Certainty
from digitsum.evaluation.examples import Example
from digitsum.evaluation.metrics import Evaluation
from digitsum.model.counter import COLUMN_STRIDE
from digitsum.model.explain import Explanation

matplotlib.use("Agg")  # no display is needed, or looked for


from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

DOTS_PER_INCH = 120


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    return png.getvalue()


def publish_figure(figure: Figure, target: Location) -> None:
    """Make a figure appear at `target` as a PNG."""
    publish_bytes(to_png(figure), target)


_GALLERY_COLUMNS = 4
_DIGITS = 10


def draw_gallery(
    hits: Sequence[Example],
    worst_misses: Sequence[Example],
    explain: Callable[[Uint8Array], Explanation | None],
) -> Figure:
    """Return hits, and below them the misses of most confidence, each with what was seen there.

    Under each image, one row for each digit 0..9 from the top shows, column by column, how
    probable it is that this digit stands there; the digits read are written over their places.
    """
    rows = [hits[i : i + _GALLERY_COLUMNS] for i in range(0, len(hits), _GALLERY_COLUMNS)]
    num_hit_rows = len(rows)
    rows += [
        worst_misses[i : i + _GALLERY_COLUMNS]
        for i in range(0, len(worst_misses), _GALLERY_COLUMNS)
    ]
    figure = Figure(figsize=(13, 1.9 * max(len(rows), 1)), layout="constrained")
    grid = figure.subplots(
        2 * max(len(rows), 1),
        _GALLERY_COLUMNS,
        squeeze=False,
        height_ratios=[4, 3] * max(len(rows), 1),
    )
    for axes in grid.flat:
        axes.axis("off")
    for row, examples in enumerate(rows):
        for column, example in enumerate(examples):
            explanation = explain(example.pixels)
            _draw_image(grid[2 * row, column], example, explanation, hit=row < num_hit_rows)
            if explanation is not None:
                _draw_columns(grid[2 * row + 1, column], example, explanation)
    figure.suptitle(
        f"Hits ({len(hits)}), and below them the misses of most confidence ({len(worst_misses)})"
    )
    return figure


def _draw_image(
    axes: Axes, example: Example, explanation: Explanation | None, *, hit: bool
) -> None:
    height, width = example.pixels.shape
    axes.imshow(example.pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    said = f"{example.predicted_sum} ({example.confidence:.1%})"
    axes.set_title(
        f"{said}, right" if hit else f"{said}, but is {example.true_sum}",
        fontsize=9,
        color="#1b6e2c" if hit else "#a11212",
    )
    if explanation is None:
        return
    for digit, x in zip(explanation.digits, explanation.digit_x, strict=True):
        axes.text(x, height, str(digit), color="#ffb000", fontsize=11, ha="center", va="bottom")


def _draw_columns(axes: Axes, example: Example, explanation: Explanation) -> None:
    """Draw the digits' probabilities under the image, each column as wide as its pixels."""
    probs = explanation.column_probs[:, 1:].T
    width = example.pixels.shape[1]
    left = -COLUMN_STRIDE / 2
    axes.imshow(
        probs,
        cmap="magma",
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        extent=(left, left + COLUMN_STRIDE * probs.shape[1], _DIGITS - 0.5, -0.5),
    )
    axes.axis("on")
    axes.set_facecolor("black")  # the last column may end before the image does
    axes.set_xlim(0, width)
    axes.set_xticks([])
    axes.set_yticks([0, 3, 6, 9])
    axes.tick_params(labelsize=6)


def draw_certainty(certainty: Certainty) -> Figure:
    """Return, side by side, accuracy against confidence and accuracy against coverage."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_calibration(left, certainty)
    _draw_coverage(right, certainty)
    return figure


def _draw_calibration(axes: Axes, certainty: Certainty) -> None:
    images, num_right, confidence = certainty.bins.T
    some = images > 0
    axes.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
    axes.bar(
        (np.arange(CALIBRATION_BINS)[some] + 0.5) / CALIBRATION_BINS,
        num_right[some] / images[some],
        width=0.9 / CALIBRATION_BINS,
        color="#7aa6d1",
    )
    axes.plot(confidence[some] / images[some], num_right[some] / images[some], "o", color="#1f4e79")
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.set_title(f"calibration error {certainty.calibration_error:.2%}")


def _draw_coverage(axes: Axes, certainty: Certainty) -> None:
    coverage, accuracy = certainty.curve()
    axes.plot(coverage, accuracy, color="#1f4e79")
    axes.set_xlabel("coverage: the most confident fraction of the images")
    axes.set_ylabel("accuracy of these")
    axes.set_xlim(0, 1)
    axes.set_title(f"the most confident 80%: {certainty.accuracy_at(0.8):.2%} right")
    axes.grid(alpha=0.3)


def draw_confusion(evaluation: Evaluation, title: str) -> Figure:
    """Return the matrix: true sums down, predicted sums across, each row as fractions of itself."""
    counts = evaluation.confusion
    largest = int(np.argwhere(counts).max(initial=0))  # the model may know greater sums than occur
    counts = counts[: largest + 1, : largest + 1]
    per_true_sum = counts.sum(axis=1, keepdims=True)
    fractions = np.divide(counts, per_true_sum, out=np.zeros(counts.shape), where=per_true_sum > 0)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="magma", vmin=0, vmax=1)
    axes.set_xlabel("predicted sum")
    axes.set_ylabel("true sum")
    axes.set_title(
        f"{title}\n{evaluation.accuracy:.1%} right, {evaluation.accuracy_within_1:.1%} within 1, "
        f"mean error {evaluation.mean_absolute_error:.2f}, {evaluation.num_images:,} images",
        parse_math=False,  # a path may hold any sign
    )
    figure.colorbar(image, label="fraction of the images of a true sum")
    return figure


NUM_IMAGES = 24
_SHEET_COLUMNS = 3


def draw_contact_sheet(images: Sequence[tuple[Uint8Array, str]]) -> Figure:
    """Return images, uint8 (height, width), in rows of three, each under its caption."""
    num_rows = max(1, -(-len(images) // _SHEET_COLUMNS))
    figure = Figure(figsize=(9, 1.0 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, _SHEET_COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (pixels, caption) in zip(grid.flat, images, strict=False):
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=9, parse_math=False)
    return figure


def score_caption(score: Mapping[str, Any]) -> str:
    """Return what a row of the scores says of its image."""
    if score["predicted_sum"] is None:
        return f"rejected: {score['error']}"
    digits = score.get("digits")
    read = f" = {' + '.join(map(str, digits))}" if digits else ""
    return f"{score['predicted_sum']}{read}, {score['confidence']:.1%}"
