"""A contact sheet: images under the sums that were predicted for them."""

from __future__ import annotations

from matplotlib.figure import Figure

from digitsum.scoring.sample import ScoredSample

NUM_IMAGES = 12
_NUM_COLUMNS = 3


def draw_contact_sheet(sample: ScoredSample) -> Figure:
    """Return the images in rows of three, each under its predicted sum and its probability."""
    num_rows = -(-len(sample.scores) // _NUM_COLUMNS)
    figure = Figure(figsize=(9, 1.0 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, _NUM_COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, pixels, score in zip(grid.flat, sample.pixels, sample.scores, strict=False):
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_title(_caption(score), fontsize=9, parse_math=False)
    return figure


def _caption(score: dict[str, object]) -> str:
    if score["predicted_sum"] is None:
        return f"rejected: {score['error']}"
    digits = score["digits"]
    read = f" = {' + '.join(map(str, digits))}" if isinstance(digits, list) and digits else ""
    return f"{score['predicted_sum']}{read}, {score['confidence']:.0%}"
