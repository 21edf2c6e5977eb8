"""A report as a page: one HTML file that holds all it shows, and asks nothing of any server.

What a page is made of is plain data; `render` alone knows HTML. Everything that comes from an
archive, a name or a reason, is escaped by the template. Requests, and any script but the one that
sorts tables, are forbidden to the browser by the page's own content security policy.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from digitsum.archive.images import Uint8Array
from digitsum.report.figures import to_png
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

REPORT_FILE = "report.html"
TEMPLATES = Path(__file__).parent / "templates"

# Drawn in this colour, and then in that of the page's text, light or dark.
_INK = "#010203"
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.framealpha": 0.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}

Cell = str | int | float


@dataclass(frozen=True)
class Chart:
    """A drawing that follows the page's colours, as SVG."""

    svg: Markup
    description: str
    """For those who cannot see it."""


@dataclass(frozen=True)
class Picture:
    """An image that stays as it is, as PNG."""

    png: bytes
    description: str
    caption: str = ""

    @property
    def uri(self) -> str:
        """The picture itself, as a URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Table:
    """Rows under names of columns; whoever looks at it can sort it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Section:
    """A part of a page under a title."""

    title: str
    text: Sequence[str] = ()
    """Paragraphs."""
    charts: Sequence[Chart] = ()
    pictures: Sequence[Picture] = ()
    table: Table | None = None


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    summary: str
    """A sentence."""
    alarms: Sequence[str] = ()
    """Sentences that must not be missed."""
    facts: Sequence[tuple[str, str]] = ()
    """What was measured, in a few words each, by name."""
    sections: Sequence[Section] = field(default_factory=tuple)


def render(page: Page) -> bytes:
    """Return a page as HTML, UTF-8."""
    environment = Environment(
        loader=PackageLoader("digitsum.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = format_cell
    script = (TEMPLATES / "sort.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.get_template("page.html.jinja")
    return template.render(
        page=page,
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    ).encode()


def format_cell(value: Cell) -> str:
    """Return a cell as a person reads it."""
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else value


def publish_page(page: Page, target: Location) -> None:
    """Make a page appear at `target`."""
    publish_bytes(render(page), target)


def new_figure(width: float = 7.2, height: float = 2.8) -> Figure:
    """Return an empty figure, inches, of a chart's style; to be drawn on within `chart_style`."""
    return Figure(figsize=(width, height), layout="constrained")


def chart_style() -> AbstractContextManager[None]:
    """Return the context in which charts are drawn."""
    return mpl.rc_context(_STYLE)


def to_chart(figure: Figure, description: str) -> Chart:
    """Return a figure that was drawn within `chart_style` as a chart."""
    drawn = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    label = Markup('<svg role="img" aria-label="{}" ').format(description)
    return Chart(Markup(svg.replace("<svg ", str(label), 1)), description)


def to_picture(figure: Figure, description: str, caption: str = "") -> Picture:
    """Return a figure as a picture."""
    return Picture(to_png(figure), description, caption)


def image_picture(pixels: Uint8Array, description: str, caption: str) -> Picture:
    """Return an image, uint8 (height, width), as a picture."""
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels), mode="L").save(png, format="png")
    return Picture(png.getvalue(), description, caption)


def origin_section(
    origin: Mapping[str, Any], model_digest: str, more: Sequence[tuple[str, str]] = ()
) -> Section:
    """Return what computed something: a manifest, or `runs.origin`, and what more there is."""
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    rows = [
        ("model", model_digest),
        ("command", " ".join(origin["command"])),
        ("versions", versions),
        *more,
    ]
    return Section("Where it comes from", table=Table(("what", "which"), rows))
