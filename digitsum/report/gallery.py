"""A gallery: images with the digits that were read, over the probabilities column by column."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from digitsum.archive.images import Uint8Array
from digitsum.model.counter import COLUMN_STRIDE
from digitsum.model.explain import Explanation
from digitsum.scoring.examples import Example

_NUM_COLUMNS = 4
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
    rows = [hits[i : i + _NUM_COLUMNS] for i in range(0, len(hits), _NUM_COLUMNS)]
    num_hit_rows = len(rows)
    rows += [worst_misses[i : i + _NUM_COLUMNS] for i in range(0, len(worst_misses), _NUM_COLUMNS)]
    figure = Figure(figsize=(13, 1.9 * max(len(rows), 1)), layout="constrained")
    grid = figure.subplots(
        2 * max(len(rows), 1), _NUM_COLUMNS, squeeze=False, height_ratios=[4, 3] * max(len(rows), 1)
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
