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
from digitsum.model.predictor import make_predictor

OUT = Path("results")
TEST_IMAGES = 10_000
# Preset, network, and its trainings: the paper's images are made once, the others afresh. The
# model that comes with digitsum goes on from its first training, which has shown the recipe to be
# good, on the validation glyphs too.
ROWS = (
    ("paper", "baseline", (f"--archive {OUT}/train --validation {OUT}/val",)),
    ("tuned", "baseline", ("--workers 2",)),
    ("small", "counter", ("--workers 2",)),
    (
        "full",
        "counter",
        (
            "--workers 2",
            f"--workers 2 --start-from {OUT}/full-counter-first --train-on-validation "
            "--epochs 12 --seed 1",
        ),
    ),
    ("large", "counter", ("--workers 2",)),
)
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
    wanted = [row for row in ROWS if row[0] in presets or not presets]
    if "paper" in [preset for preset, *_ in wanted]:
        _synth("train", 24_000, "--split train --shards 3")
        _synth("val", 6_000, "--split val")
    _synth("test", TEST_IMAGES, "--split test --shards 4 --true-digits")
    with connected(state_api=True):
        rows = [_row(preset, network, trainings) for preset, network, trainings in wanted]
        counts = range(1, 9) if "full" in [row.preset for row in rows] else ()
        by_count = [_evaluate("full-counter", _counted(count)) for count in counts]
        told = _evaluate("full-counter", "test", "--digits 4") if counts else None
    _publish(rows, by_count, told)


def _synth(name: str, images: int, options: str) -> None:
    if not (OUT / name).exists():
        _run(f"synth --out {OUT}/{name} --images {images} {options}")


def _counted(num_digits: int) -> str:
    """Make an archive of images of so many digits, wider above four, and return its name."""
    name, width = f"test-{num_digits}", max(168, 42 * num_digits)
    _synth(name, TEST_IMAGES, f"--split test --digits {num_digits} --width {width} --true-digits")
    return name


def _row(preset: str, network: str, trainings: Sequence[str]) -> Row:
    name = f"{preset}-{network}"
    stages = [*(f"{name}-first" for _ in trainings[1:]), name]
    is_trained = (OUT / name / "config.json").exists()
    for stage, options in zip(stages, trainings, strict=True):
        if not is_trained and not (OUT / stage / "config.json").exists():
            # Named, so that a training that was interrupted goes on.
            _run(
                f"train --model {network} --preset {preset} --bundle {OUT}/{stage} --name {stage} "
                f"{options}"
            )
    bundle = load_bundle(f"{OUT}/{name}")
    return Row(
        network,
        preset,
        num_parameters(bundle.network),
        _mflop(bundle),
        _images_per_s(bundle),
        _evaluate(name, "test"),
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
