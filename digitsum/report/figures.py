"""What all of digitsum's pictures have in common."""

from __future__ import annotations

import io

import matplotlib

matplotlib.use("Agg")  # no display is needed, or looked for

from matplotlib.figure import Figure

from digitsum.archive.location import Location
from digitsum.archive.publish import publish_bytes

DOTS_PER_INCH = 120


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    return png.getvalue()


def publish_figure(figure: Figure, target: Location) -> None:
    """Make a figure appear at `target` as a PNG."""
    publish_bytes(to_png(figure), target)
