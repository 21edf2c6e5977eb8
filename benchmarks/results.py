"""`make results`: trains each network by its preset, measures it on glyphs it never saw, tabulates.

Everything lies under results/. What is there already is not made again, so that a run that was
interrupted goes on; delete the directory for a fresh one. `python benchmarks/results.py full small`
makes the rows of these presets only.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.archive.schema import ImageShape
from digitsum.archive.synth import compose
from digitsum.cli import main
from digitsum.cluster import connected
from digitsum.model.bundle import Bundle, load_bundle, num_parameters
from digitsum.model.networks import NetworkName
from digitsum.model.predictor import make_predictor
from digitsum.training.recipes import PresetName

OUT = Path("results")
TEST_IMAGES = 10_000
FULL, FULL_FIRST = "full-counter", "full-counter-first"
TEACHERS = (FULL_FIRST, "small-counter", "large-counter")


@dataclass(frozen=True)
class Training:
    """A training by a preset; the paper's images are made once, the others' afresh."""

    preset: PresetName
    network: NetworkName
    options: str = "--workers 2"
    needs: tuple[str, ...] = ()
    """Bundles that it learns from."""


# By bundle. The model that comes with digitsum goes on from its first training, taught by that and
# by the other sizes, which together are right more often than any of them; the weights of both
# trainings are averaged.
TRAININGS = {
    "paper-baseline": Training(
        "paper", "baseline", f"--archive {OUT}/train --validation {OUT}/val"
    ),
    "tuned-baseline": Training("tuned", "baseline"),
    "small-counter": Training("small", "counter"),
    FULL_FIRST: Training("full", "counter"),
    FULL: Training(
        "full",
        "counter",
        f"--workers 2 --start-from {OUT}/{FULL_FIRST} --epochs 12 --seed 2 --teachers "
        f"{' '.join(f'{OUT}/{name}' for name in TEACHERS)} --average-with {OUT}/{FULL_FIRST}",
        needs=TEACHERS,
    ),
    "large-counter": Training("large", "counter"),
}
_SPEED_IMAGES = 1024
_SPEED_ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One network's figures on the test images."""

    network: str
    preset: str
    parameters: int
    mflop: float
    """Per image of the test images' shape, a multiplication and an addition being two."""
    images_per_s: float
    """On one core by the default back-end, in memory, sums and digits included."""
    evaluation: dict[str, float | None]


def results(presets: Sequence[str]) -> None:
    """Make the archives, the bundles and the tables, of these presets or of all."""
    rows_of = {t.preset: name for name, t in TRAININGS.items()}  # the last training is the row's
    wanted = [name for preset, name in rows_of.items() if preset in presets or not presets]
    if "paper-baseline" in wanted:
        _synth("train", 24_000, "--split train --shards 3")
        _synth("val", 6_000, "--split val")
    _synth("test", TEST_IMAGES, "--split test --shards 4 --true-digits")
    with connected(state_api=True):
        rows = [_row(name) for name in wanted]
        counts = range(1, 9) if FULL in wanted else ()
        by_count = [_evaluate(FULL, _counted(count)) for count in counts]
        told = _evaluate(FULL, "test", "--digits 4") if counts else None
    _publish(rows, by_count, told)


def _synth(name: str, images: int, options: str) -> None:
    if not (OUT / name).exists():
        _run(f"synth --out {OUT}/{name} --images {images} {options}")


def _counted(num_digits: int) -> str:
    """Make an archive of images of so many digits, wider above four, and return its name."""
    name, width = f"test-{num_digits}", max(168, 42 * num_digits)
    _synth(name, TEST_IMAGES, f"--split test --digits {num_digits} --width {width} --true-digits")
    return name


def _row(name: str) -> Row:
    _train(name)
    training, bundle = TRAININGS[name], load_bundle(f"{OUT}/{name}")
    return Row(
        training.network,
        training.preset,
        num_parameters(bundle.network),
        _mflop(bundle),
        _images_per_s(bundle),
        _evaluate(name, "test"),
    )


def _train(name: str) -> None:
    """Train a bundle, and first those that it learns from, where it is not there."""
    if (OUT / name / "config.json").exists():
        return
    training = TRAININGS[name]
    for needed in training.needs:
        _train(needed)
    # Named, so that a training that was interrupted goes on.
    _run(
        f"train --model {training.network} --preset {training.preset} --bundle {OUT}/{name} "
        f"--name {name} {training.options}"
    )


def _evaluate(bundle: str, archive: str, options: str = "") -> dict[str, float | None]:
    told = "-told" if options else ""
    report = OUT / "evaluations" / f"{bundle}-on-{archive}{told}"
    if not (report / "evaluation.json").exists():
        command = f"evaluate --archive {OUT}/{archive} --bundle {OUT}/{bundle} --report {report}"
        _run(f"{command} {options}")
    figures: dict[str, float | None] = json.loads((report / "evaluation.json").read_text())
    return figures


def _mflop(bundle: Bundle) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        bundle.network(torch.zeros(1, 1, bundle.shape.height, bundle.shape.width))
    return counter.get_total_flops() / 1e6


def _images_per_s(bundle: Bundle) -> float:
    shape = ImageShape(bundle.shape.height, bundle.shape.width)
    rng = np.random.default_rng(0)
    images = compose(load_glyphs(EMBEDDED, "test"), rng, _SPEED_IMAGES, 4, shape)
    predictor = make_predictor(bundle, batch_size=64, num_threads=1)
    seconds = []
    for _ in range(_SPEED_ROUNDS):
        started = time.perf_counter()
        predictor.predict(images.pixels)
        seconds.append(time.perf_counter() - started)
    return _SPEED_IMAGES / statistics.median(seconds)


def _publish(
    rows: list[Row], by_count: list[dict[str, float | None]], told: dict[str, float | None] | None
) -> None:
    table = [
        "| network, preset | parameters | MFLOP | images/s, one core | right sums (95% interval) "
        "| all digits right | most confident 80% | calibration error |",
        "|---|---|---|---|---|---|---|---|",
        *(_table_row(row) for row in rows),
        "",
        "| digits | " + " | ".join(str(count + 1) for count in range(len(by_count))) + " |",
        "|---|" + "---|" * len(by_count),
        "| right sums | " + " | ".join(_percent(e["accuracy"]) for e in by_count) + " |",
        "| all digits right | "
        + " | ".join(_percent(e["digits_accuracy"]) for e in by_count)
        + " |",
    ]
    if told:
        table += [
            "",
            f"full, told that there are four digits: {_percent(told['accuracy'])} "
            f"({_percent(told['accuracy_low'])} to {_percent(told['accuracy_high'])}), of the most "
            f"confident 80% {_percent(told['accuracy_at_80'])}, calibration error "
            f"{_percent(told['calibration_error'])}",
        ]
    (OUT / "results.md").write_text("\n".join(table) + "\n")
    figures = {"rows": [asdict(row) for row in rows], "full_by_digits": by_count, "full_told": told}
    (OUT / "results.json").write_text(json.dumps(figures, indent=2) + "\n")
    print("\n".join(table))


def _table_row(row: Row) -> str:
    figures = row.evaluation
    low, high = _percent(figures["accuracy_low"]), _percent(figures["accuracy_high"])
    return (
        f"| {row.network}, {row.preset} | {row.parameters:,} | {row.mflop:.1f} "
        f"| {row.images_per_s:,.0f} | {_percent(figures['accuracy'])} ({low} to {high}) "
        f"| {_percent(figures['digits_accuracy'])} | {_percent(figures['accuracy_at_80'])} "
        f"| {_percent(figures['calibration_error'])} |"
    )


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"


def _run(command: str) -> None:
    print(f"\n$ digitsum {command}", flush=True)
    if main(command.split()):
        raise SystemExit(2)


if __name__ == "__main__":
    results(sys.argv[1:])
