"""Pages of reports: one HTML file each, which holds all that it shows and makes no request.

A page is plain data; only `render` knows HTML. The template escapes everything that comes from an
archive, such as names and reasons. The page's content security policy forbids the browser all
requests, and any script except the one that sorts tables.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from digitsum.manifest import Origin

REPORT_FILE = "report.html"

# Charts are drawn in this colour, which then becomes that of the page's text, light or dark.
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
class Picture:
    """An image, as PNG, of its own colours."""

    png: bytes
    description: str
    caption: str = ""

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Table:
    """Rows under the names of columns; the reader can sort it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Section:
    """A part of a page under a title."""

    title: str
    text: Sequence[str] = ()
    """Paragraphs."""
    charts: Sequence[Markup] = ()
    """SVG."""
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
    """Names and values, a few words each."""
    sections: Sequence[Section] = ()


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
    script = (Path(__file__).parent / "templates/sort.js").read_text()
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.get_template("page.html.jinja")
    return template.render(page=page, script=Markup(script), script_hash=script_hash).encode()


def format_cell(value: Cell) -> str:
    """Return a cell with separators of thousands, floats to 2 digits."""
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else value


def draw_chart(draw: Callable[[Axes], None], description: str) -> Markup:
    """Return what `draw` draws as SVG that follows the page's colours and width."""
    file = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        draw(figure.subplots())
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    for size in ("width", "height"):  # the page chooses them
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    label = Markup('<svg role="img" aria-label="{}" ').format(description)
    return Markup(svg.replace("<svg ", str(label), 1))


def image_picture(pixels: npt.NDArray[np.uint8], description: str, caption: str) -> Picture:
    """Return an image, uint8 (height, width), as a picture."""
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels), mode="L").save(png, format="png")
    return Picture(png.getvalue(), description, caption)


def origin_section(
    origin: Origin, model_digest: str, others: Sequence[tuple[str, str]] = ()
) -> Section:
    """Return the model, command, versions and others that a page comes from."""
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    rows = [
        ("model", model_digest),
        ("command", " ".join(origin.command)),
        ("versions", versions),
        *others,
    ]
    return Section("Where it comes from", table=Table(("what", "which"), rows))
