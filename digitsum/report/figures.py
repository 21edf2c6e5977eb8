"""Figures of reports: galleries, calibration, confusion and contact sheets, by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from digitsum.evaluation.calibration import CALIBRATION_BINS, ConfidenceCounts
from digitsum.evaluation.examples import Example, Examples
from digitsum.evaluation.metrics import SumMetrics
from digitsum.model.counter import COLUMN_STRIDE

matplotlib.use("Agg")  # needs no display

NUM_IMAGES = 24
_DOTS_PER_INCH = 120
_GALLERY_COLUMNS = 4
_SHEET_COLUMNS = 3
_DIGITS = 10


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=_DOTS_PER_INCH, bbox_inches="tight")
    return png.getvalue()


def draw_gallery(examples: Examples) -> Figure:
    """Return hits, and below them the most confident misses, each with what the network saw.

    Under each image, one row for each digit 0..9 from the top shows, column by column, how
    probable it is that this digit stands there; the digits read are written over their places.
    """
    rows = [
        group[start : start + _GALLERY_COLUMNS]
        for group in (examples.hits, examples.misses)
        for start in range(0, len(group), _GALLERY_COLUMNS)
    ]
    num_rows = max(len(rows), 1)
    figure = Figure(figsize=(13, 1.9 * num_rows), layout="constrained")
    grid = figure.subplots(
        2 * num_rows, _GALLERY_COLUMNS, squeeze=False, height_ratios=[4, 3] * num_rows
    )
    for axes in grid.flat:
        axes.axis("off")
    for row, of_row in enumerate(rows):
        for column, example in enumerate(of_row):
            _draw_image(grid[2 * row, column], example)
            _draw_columns(grid[2 * row + 1, column], example)
    figure.suptitle(
        f"Hits ({len(examples.hits)}), and the most confident misses ({len(examples.misses)})"
    )
    return figure


def _draw_image(axes: Axes, example: Example) -> None:
    height, width = example.pixels.shape
    axes.imshow(example.pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    verdict = "right" if example.is_hit else f"but is {example.true_sum}"
    axes.set_title(
        f"{example.predicted_sum} ({example.confidence:.1%}), {verdict}",
        fontsize=9,
        color="#1b6e2c" if example.is_hit else "#a11212",
    )
    if example.explanation is not None:
        digits = zip(example.explanation.digits, example.explanation.digit_x, strict=True)
        for digit, x in digits:
            axes.text(x, height, str(digit), color="#ffb000", fontsize=11, ha="center", va="bottom")


def _draw_columns(axes: Axes, example: Example) -> None:
    """Draw the digits' probabilities under the image, each column as wide as its pixels."""
    if example.explanation is None:
        return
    probs = example.explanation.column_probs[:, 1:].T
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
    axes.set_xlim(0, example.pixels.shape[1])
    axes.set_xticks([])
    axes.set_yticks([0, 3, 6, 9])
    axes.tick_params(labelsize=6)


def draw_calibration(confidences: ConfidenceCounts) -> Figure:
    """Return, side by side, accuracy against confidence and accuracy against coverage."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    is_some = confidences.bins[:, 0] > 0
    images, num_right, confidence = confidences.bins[is_some].T
    centres = (np.flatnonzero(is_some) + 0.5) / CALIBRATION_BINS
    left.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
    left.bar(centres, num_right / images, width=0.9 / CALIBRATION_BINS, color="#7aa6d1")
    left.plot(confidence / images, num_right / images, "o", color="#1f4e79")
    left.set_xlabel("confidence")
    left.set_ylabel("accuracy")
    left.set_title(f"calibration error {confidences.calibration_error:.2%}")
    right.plot(*confidences.curve(), color="#1f4e79")
    right.set_xlabel("coverage: the most confident fraction of the images")
    right.set_ylabel("accuracy of these")
    right.set_xlim(0, 1)
    right.set_title(f"the most confident 80%: {confidences.accuracy_at(0.8):.2%} right")
    right.grid(alpha=0.3)
    return figure


def draw_confusion(metrics: SumMetrics, title: str) -> Figure:
    """Return the matrix: true sums down, predicted sums across, each row as fractions of itself."""
    largest = int(np.argwhere(metrics.confusion).max(initial=0))  # that occurs
    counts = metrics.confusion[: largest + 1, : largest + 1]
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="magma", vmin=0, vmax=1)
    axes.set_xlabel("predicted sum")
    axes.set_ylabel("true sum")
    axes.set_title(
        f"{title}\n{metrics.accuracy:.1%} right, {metrics.accuracy_within_1:.1%} within 1, "
        f"mean error {metrics.mean_absolute_error:.2f}, {metrics.num_images:,} images",
        parse_math=False,  # a path may hold any sign
    )
    figure.colorbar(image, label="fraction of the images of a true sum")
    return figure


def draw_contact_sheet(images: Sequence[tuple[npt.NDArray[np.uint8], str]]) -> Figure:
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
    """Return a row of scores as a caption: sum, digits and confidence, or why it was rejected."""
    if score["predicted_sum"] is None:
        return f"rejected: {score['error']}"
    digits = score.get("digits")
    addends = f" = {' + '.join(map(str, digits))}" if digits else ""
    return f"{score['predicted_sum']}{addends}, {score['confidence']:.1%}"
