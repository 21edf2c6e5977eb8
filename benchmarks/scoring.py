"""`make bench`: digitsum and other tools score the same archive with the same weights.

All run on the same two cores, one after the other, in interleaved rounds. A run counts only if
every id was scored once, with digitsum's sum: 1 sum in 10,000 may differ, because back-ends round
differently. Steady images/s are those of the middle 80% of the images, by the time when each was
done, so that no worker is still starting or has ended; start-up is from the command to the first
image. Peak memory is the proportional set size (PSS) of the whole tree of processes. Writes a
Markdown table, JSON and a bar chart to build/bench-scoring/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

OUT = Path("build/bench-scoring")
PEERS_PYTHON = "build/bench/bin/python"
ROOT = Path(__file__).parent.parent
# Real shards are larger, and only their last batch is not full; the batches here are all full.
SHARDS = 6
SAMPLE_S = 0.5
MIDDLE = 0.1, 0.9
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "DAFT_ANALYTICS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}
PEERS = {
    "in_memory": "in memory, nothing read or written",
    "plain_loop": "plain loop",
    "torch_data_loader": "torch DataLoader",
    "ray_data": "Ray Data, as its docs show",
    "daft_udf": "Daft",
    "hugging_face": "Hugging Face datasets",
    "spark_udf": "Spark predict_batch_udf",
}
DIGITSUM = {"threads": "digitsum", "ray": "digitsum, on Ray"}


@dataclass(frozen=True)
class Measured:
    """Figures of one run."""

    steady_images_per_s: float
    start_s: float
    """From the command to the first batch."""
    total_s: float
    peak_mb: float


def bench(models: dict[str, str], images: dict[str, int], rounds: int) -> None:
    """Measure every peer and digitsum with each model, and publish the tables."""
    OUT.mkdir(parents=True, exist_ok=True)
    archives = {name: _archive(number) for name, number in images.items()}
    measured: dict[tuple[str, str], dict[int, Measured]] = defaultdict(dict)
    for number in range(rounds):
        for name, model in models.items():
            runs = [(name, title, engine, "own") for engine, title in DIGITSUM.items()]
            runs += [(name, title, peer, "own") for peer, title in PEERS.items()]
            if name == "baseline":
                runs += [(name, title, peer, "eager") for peer, title in PEERS.items()]
            # digitsum first: the others are checked against its sums. They take turns.
            first, others = runs[: len(DIGITSUM)], runs[len(DIGITSUM) :]
            for _, title, what, backend in first + others[number:] + others[:number]:
                row = f"{title} ({backend} back-end)"
                try:
                    found = _run(what, archives[name], model, backend)
                except RuntimeError as error:
                    print(f"round {number + 1}: {name}: {row}: {error}", flush=True)
                    continue
                measured[name, row][number] = found
                print(f"round {number + 1}: {name}: {row}: {found}", flush=True)
        _publish(measured, images, number + 1)


def _archive(images: int) -> Path:
    archive = OUT / f"archive-{images}"
    if not archive.exists():
        command = f"synth --out {archive} --images {images} --shards {SHARDS} --split test"
        subprocess.run([sys.executable, "-m", "digitsum", *command.split()], check=True)
    return archive


def _run(what: str, archive: Path, model: str, backend: str) -> Measured:
    out = OUT / "run"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_suffix(".cache"), ignore_errors=True)
    environment = {**os.environ, **QUIET}
    if what in DIGITSUM:
        command = [sys.executable, "-m", "digitsum", "score", "--archive", archive]
        command += ["--scores", out, "--model", model, "--executor", what]
    else:
        script = ROOT / "benchmarks/peers" / f"{what}.py"
        command = [PEERS_PYTHON, script, archive, model, out, backend]
        environment["PYTHONPATH"] = f"{ROOT}:{script.parent}"
    launched = time.time()
    with (OUT / "log").open("w") as log:
        process = psutil.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)
        peak = 0
        while process.poll() is None:
            peak = max(peak, pss(process))
            time.sleep(SAMPLE_S)
    total_s = time.time() - launched
    if process.returncode:
        raise RuntimeError(f"ended with {process.returncode}: {_last_line(OUT / 'log')}")
    scores, done_at = _scores_of_digitsum(out) if what in DIGITSUM else _scores(out)
    _check(scores, archive, model, is_digitsum=what in DIGITSUM)
    low, high = (int(part * len(done_at)) for part in MIDDLE)
    rate = (high - low) / (done_at[high] - done_at[low])
    return Measured(rate, done_at[0] - launched, total_s, peak / 1e6)


def pss(process: psutil.Process) -> int:
    """Return the bytes of memory of a tree of processes, shared pages in proportion."""
    total = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            total += _pss_of(member)
    except psutil.Error:
        pass
    return total


def _pss_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
    return lines[-1][:300]


Scores = tuple[dict[str, int], npt.NDArray[np.float64]]
"""Sums by id, and when each image was done, in that order."""


def _scores(out: Path) -> Scores:
    """Return the scores that a peer wrote."""
    tables = [pq.read_table(file) for file in sorted(out.rglob("*.parquet"))]
    columns = ["image_id", "predicted_sum", "finished_at"]
    table = pa.concat_tables([t.select(columns) for t in tables], promote_options="permissive")
    return _by_id(table), np.sort(table["finished_at"].to_numpy())


def _scores_of_digitsum(out: Path) -> Scores:
    """Return digitsum's scores; assumes an even pace for the images of a chunk."""
    [manifest] = out.glob("_runs/score-*/manifest.json")
    spent = {
        (result["chunk"]["shard"], result["chunk"]["first_row"]): result["read_s"]
        + result["forward_s"]
        for result in json.loads(manifest.read_text())["outcome"]["chunks"]
    }
    tables, done_at = [], []
    for part in sorted(out.glob("model=*/*/*.parquet")):
        table = pq.read_table(part, partitioning=None)
        first_row = int(part.stem.split("-")[1])
        seconds = spent[f"{part.parent.name}.parquet", first_row]
        ended = part.stat().st_mtime
        done_at.append(np.linspace(ended - seconds, ended, len(table) + 1)[1:])
        tables.append(table)
    return _by_id(pa.concat_tables(tables)), np.sort(np.concatenate(done_at))


def _by_id(table: pa.Table) -> dict[str, int]:
    by_id = dict(
        zip(table["image_id"].to_pylist(), table["predicted_sum"].to_pylist(), strict=True)
    )
    if len(by_id) != len(table):
        raise RuntimeError(f"{len(table) - len(by_id)} images were scored twice")
    return by_id


_EXPECTED: dict[str, dict[str, int]] = {}


def _check(scores: dict[str, int], archive: Path, model: str, *, is_digitsum: bool) -> None:
    """Raise RuntimeError unless every image was scored, with digitsum's sum."""
    ids = set(pq.read_table(archive, columns=["image_id"])["image_id"].to_pylist())
    if scores.keys() != ids:
        raise RuntimeError(f"{len(ids - scores.keys())} images were not scored")
    if is_digitsum:
        _EXPECTED.setdefault(model, scores)
    if model not in _EXPECTED:
        raise RuntimeError("digitsum has not scored them yet")
    expected = _EXPECTED[model]
    differ = sum(scores[image_id] != digit_sum for image_id, digit_sum in expected.items())
    if differ > max(1, len(ids) // 10_000):
        raise RuntimeError(f"{differ} of {len(ids)} sums differ from digitsum's")


def _publish(
    measured: dict[tuple[str, str], dict[int, Measured]], images: dict[str, int], rounds: int
) -> None:
    lines = [
        "| network | run by | images/s, steady | digitsum is faster by | start-up | in total "
        "| peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    bars = []
    for (name, row), by_round in list(measured.items()):
        own = measured.get((name, f"{DIGITSUM['threads']} (own back-end)"), {})
        runs = list(by_round.values())
        rate = statistics.median(run.steady_images_per_s for run in runs)
        ratios = [
            own[number].steady_images_per_s / run.steady_images_per_s
            for number, run in by_round.items()
            if number in own
        ]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        start, total, peak = (
            statistics.median(getattr(run, key) for run in runs)
            for key in ("start_s", "total_s", "peak_mb")
        )
        lines.append(
            f"| {name} | {row} | {rate:,.0f} | {ratio} | {start:.1f} s | {total:.1f} s "
            f"| {peak:,.0f} MB |"
        )
        bars.append((f"{name}: {row}", rate))
    (OUT / "scoring.md").write_text("\n".join(lines) + "\n")
    figures = {
        "images": images,
        "rounds": rounds,
        "runs": [
            {"network": name, "run_by": row, "runs": [asdict(run) for run in runs.values()]}
            for (name, row), runs in measured.items()
        ],
    }
    (OUT / "scoring.json").write_text(json.dumps(figures, indent=2) + "\n")
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(bars) + 1), layout="constrained")
    axes.barh([title for title, _ in bars], [rate for _, rate in bars])
    axes.invert_yaxis()
    axes.set_xlabel(f"images/s, steady, on {psutil.cpu_count()} cores; median of {rounds} rounds")
    figure.savefig(OUT / "scoring.png", dpi=120)
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline-images", type=int, default=96 * 64)
    parser.add_argument("--counter-images", type=int, default=384 * 64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--baseline", default="results/tuned-baseline", help="its model")
    parser.add_argument("--counter", default="digitsum/model/packaged", help="its model")
    given = parser.parse_args()
    bench(
        {"baseline": given.baseline, "counter": given.counter},
        {"baseline": given.baseline_images, "counter": given.counter_images},
        given.rounds,
    )
