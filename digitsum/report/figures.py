"""What all of digitsum's pictures have in common."""

from __future__ import annotations

import io

import matplotlib

matplotlib.use("Agg")  # no display is needed, or looked for

from matplotlib.figure import Figure

from digitsum.archive.location import Location
from digitsum.archive.publish import publish_bytes

DOTS_PER_INCH = 120


def publish_figure(figure: Figure, target: Location) -> None:
    """Make a figure appear at `target` as a PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    publish_bytes(png.getvalue(), target)
