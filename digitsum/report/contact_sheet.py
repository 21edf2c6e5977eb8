"""A contact sheet: images under what there is to say of them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from digitsum.archive.images import Uint8Array

NUM_IMAGES = 24
_NUM_COLUMNS = 3


def draw_contact_sheet(images: Sequence[tuple[Uint8Array, str]]) -> Figure:
    """Return images, uint8 (height, width), in rows of three, each under its caption."""
    num_rows = max(1, -(-len(images) // _NUM_COLUMNS))
    figure = Figure(figsize=(9, 1.0 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, _NUM_COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (pixels, caption) in zip(grid.flat, images, strict=False):
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=9, parse_math=False)
    return figure
