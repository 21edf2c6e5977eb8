"""Speed and memory as archives grow: `python benchmarks/scale.py`.

Archives of 10,000 to 1,000,000 images (copies of one shard), scored with the packaged model, by
threads and on Ray. Images/s are those between the first part and the last; memory is the peak of
the proportional set size of the whole tree of processes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from scoring import SAMPLE_S, pss

from digitsum.archive.synth import SynthConfig, synth
from digitsum.model.saved_model import packaged_model

OUT = Path("build/bench-scale")
SHARD_IMAGES = 2_500


def scale(sizes: list[int], executors: list[str]) -> None:
    """Score every archive with every executor, and print speed and memory."""
    OUT.mkdir(parents=True, exist_ok=True)
    model = packaged_model()
    for executor in executors:
        for num_images in sizes:
            archive = _archive(num_images)
            rate, seconds, peak_mb = _score(archive, model, executor)
            print(
                f"{executor}: {num_images:,} images: {rate:,.0f} images/s between the first part "
                f"and the last, {seconds:.1f} s in total, peak {peak_mb:,.0f} MB",
                flush=True,
            )


def _archive(num_images: int) -> Path:
    archive = OUT / f"archive-{num_images}"
    if archive.exists():
        return archive
    one = OUT / "one"
    if not one.exists():
        synth(SynthConfig(out=str(one), images=SHARD_IMAGES, shards=1, unlabelled=True))
    archive.mkdir()
    for number in range(num_images // SHARD_IMAGES):
        shutil.copy(one / "shard-00000.parquet", archive / f"{number:05}.parquet")
    return archive


def _score(archive: Path, model: str, executor: str) -> tuple[float, float, float]:
    scores = OUT / "scores"
    shutil.rmtree(scores, ignore_errors=True)
    command = [sys.executable, "-m", "digitsum", "score", "--archive", archive]
    command += ["--scores", scores, "--model", model, "--executor", executor]
    started, peak = time.perf_counter(), 0
    with (OUT / "log").open("w") as log:
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        process = psutil.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            peak = max(peak, pss(process))
            time.sleep(SAMPLE_S)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError((OUT / "log").read_text()[-2000:])
    parts = sorted(scores.glob("model=*/*/*.parquet"), key=lambda part: part.stat().st_mtime)
    num_rows = sum(pq.read_metadata(part).num_rows for part in parts)
    assert num_rows == SHARD_IMAGES * len(list(archive.glob("*.parquet")))
    between = parts[-1].stat().st_mtime - parts[0].stat().st_mtime
    return (num_rows - SHARD_IMAGES) / between, seconds, peak / 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--executors", nargs="+", default=["threads", "ray"])
    options = parser.parse_args()
    scale(options.images, options.executors)
