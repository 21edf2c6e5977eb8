"""`make bench`: digitsum against what else would score the same archive by the same weights.

All run on the same two cores, one after the other, in interleaved rounds. A run counts only if
every id was scored once, and as digitsum did: 1 sum of 10,000 may be another, for back-ends round
differently. Steady images/s is from the first batch to the last; what comes before is start-up.
Peak memory is the proportional set size (PSS) of the whole tree of processes. Everything lies
under build/bench-scoring/: a Markdown table, JSON, a bar chart.
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
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

OUT = Path("build/bench-scoring")
PEERS_PYTHON = "build/bench/bin/python"
ROOT = Path(__file__).parent.parent
SHARDS = 12
SAMPLE_S = 0.5
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
    """One run."""

    steady_images_per_s: float
    start_s: float
    """From the command to the first batch."""
    total_s: float
    peak_mb: float


def bench(bundles: dict[str, str], images: int, rounds: int) -> None:
    """Measure every peer and digitsum with each bundle, and publish the tables."""
    OUT.mkdir(parents=True, exist_ok=True)
    archive = OUT / f"archive-{images}"
    if not archive.exists():
        options = f"--images {images} --shards {SHARDS} --split test"
        subprocess.run(
            [sys.executable, "-m", "digitsum", "synth", "--out", archive, *options.split()],
            check=True,
        )
    measured: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for number in range(rounds):
        for name, bundle in bundles.items():
            runs = [(name, title, engine, "own") for engine, title in DIGITSUM.items()]
            runs += [(name, title, peer, "own") for peer, title in PEERS.items()]
            if name == "baseline":
                runs += [(name, title, peer, "eager") for peer, title in PEERS.items()]
            # Whichever comes first in one round comes last in another.
            for _, title, what, backend in runs[number:] + runs[:number]:
                row = f"{title} ({backend} back-end)"
                try:
                    found = _run(what, archive, bundle, backend)
                except RuntimeError as error:
                    print(f"round {number + 1}: {name}: {row}: {error}", flush=True)
                    continue
                measured[name, row].append(found)
                print(f"round {number + 1}: {name}: {row}: {found}", flush=True)
    _publish(measured, images, rounds)


def _run(what: str, archive: Path, bundle: str, backend: str) -> Measured:
    out = OUT / "run"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_suffix(".cache"), ignore_errors=True)
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    if what in DIGITSUM:
        command = [sys.executable, "-m", "digitsum", "score", "--archive", archive]
        command += ["--scores", out, "--bundle", bundle, "--engine", what]
    else:
        script = ROOT / "benchmarks/peers" / f"{what}.py"
        command = [PEERS_PYTHON, script, archive, bundle, out, backend]
        environment["PYTHONPATH"] = f"{ROOT}:{script.parent}"
    launched = time.time()
    with (OUT / "log").open("w") as log:
        process = psutil.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _pss(process))
            time.sleep(SAMPLE_S)
    total_s = time.time() - launched
    if process.returncode:
        raise RuntimeError(f"ended with {process.returncode}: {_last_line(OUT / 'log')}")
    scores, first, last, after_first = (
        _scores_of_digitsum(out) if what in DIGITSUM else _scores(out)
    )
    _check(scores, archive, bundle)
    return Measured(after_first / (last - first), first - launched, total_s, peak / 1e6)


def _pss(process: psutil.Process) -> int:
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
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return lines[-1][:300]


def _scores(out: Path) -> tuple[dict[str, int], float, float, int]:
    """Return a peer's sums by id, when its first and last batch ended, images after the first."""
    tables = [pq.read_table(file) for file in sorted(out.rglob("*.parquet"))]
    columns = ["image_id", "predicted_sum", "finished_at"]
    table = pa.concat_tables([t.select(columns) for t in tables], promote_options="permissive")
    finished = table["finished_at"].to_numpy()
    first = float(finished.min())
    return _by_id(table), first, float(finished.max()), int((finished > first).sum())


def _scores_of_digitsum(out: Path) -> tuple[dict[str, int], float, float, int]:
    """Return the same; chunks take long, so the first counts from when it was begun."""
    [manifest] = out.glob("_runs/score-*/manifest.json")
    outcome = json.loads(manifest.read_text())["outcome"]
    chunks = {chunk["shard"]: chunk for chunk in outcome["chunks"]}
    parts = sorted(out.glob("model=*/*/*.parquet"))
    ended = {part: part.stat().st_mtime for part in parts}
    spent = {
        part: sum(chunks[f"{part.parent.name}.parquet"][key] for key in ("read_s", "forward_s"))
        for part in parts
    }
    table = pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])
    first = min(ended[part] - spent[part] for part in parts)
    return _by_id(table), first, max(ended.values()), len(table)


def _by_id(table: pa.Table) -> dict[str, int]:
    by_id = dict(
        zip(table["image_id"].to_pylist(), table["predicted_sum"].to_pylist(), strict=True)
    )
    if len(by_id) != len(table):
        raise RuntimeError(f"{len(table) - len(by_id)} images were scored twice")
    return by_id


_EXPECTED: dict[str, dict[str, int]] = {}


def _check(scores: dict[str, int], archive: Path, bundle: str) -> None:
    """Raise RuntimeError unless every image was scored as by the first run, which is digitsum's."""
    ids = set(pq.read_table(archive, columns=["image_id"])["image_id"].to_pylist())
    if scores.keys() != ids:
        raise RuntimeError(f"{len(ids - scores.keys())} images were not scored")
    expected = _EXPECTED.setdefault(bundle, scores)
    differ = sum(scores[image_id] != digit_sum for image_id, digit_sum in expected.items())
    if differ > max(1, len(ids) // 10_000):
        raise RuntimeError(f"{differ} of {len(ids)} sums are others than digitsum's")


def _publish(measured: dict[tuple[str, str], list[Measured]], images: int, rounds: int) -> None:
    lines = [
        "| network | run by | images/s, steady | digitsum is faster by | start-up | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    bars = []
    for (name, row), runs in measured.items():
        own = measured[name, f"{DIGITSUM['threads']} (own back-end)"]
        rate = statistics.median(run.steady_images_per_s for run in runs)
        pairs = zip(own, runs, strict=False)
        ratio = statistics.median(a.steady_images_per_s / b.steady_images_per_s for a, b in pairs)
        start = statistics.median(run.start_s for run in runs)
        peak = statistics.median(run.peak_mb for run in runs)
        lines.append(
            f"| {name} | {row} | {rate:,.0f} | {ratio:.2f} | {start:.1f} s | {peak:,.0f} MB |"
        )
        bars.append((f"{name}: {row}", rate))
    (OUT / "scoring.md").write_text("\n".join(lines) + "\n")
    figures = {
        "images": images,
        "rounds": rounds,
        "runs": [
            {"network": name, "run_by": row, "runs": [asdict(run) for run in runs]}
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
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--baseline", default="results/tuned-baseline", help="bundle of it")
    parser.add_argument("--counter", default="digitsum/model/packaged", help="bundle of it")
    given = parser.parse_args()
    bench({"baseline": given.baseline, "counter": given.counter}, given.images, given.rounds)
