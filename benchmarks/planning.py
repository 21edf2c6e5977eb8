"""Time of planning a shard, with and without the footer cache: `python benchmarks/planning.py`.

An archive of 2,000 small shards on the local disk, all of them scored; medians of rounds that take
turns. No network runs: the parts are written with made-up scores.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from digitsum.api import plan
from digitsum.archive.score_parts import SCORES_SCHEMA
from digitsum.archive.synth import SynthConfig, synth
from digitsum.scoring.commit import commit_part
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.footer_cache import write_footer_cache
from digitsum.scoring.score_run import open_score_run, plan_run

SHARDS = 2000
ROUNDS = 7


def planning() -> None:
    """Print the milliseconds a shard, with and without the cache."""
    with tempfile.TemporaryDirectory() as directory:
        archive, scores = f"{directory}/archive", f"{directory}/scores"
        config = ScoreConfig(archive=archive, scores=scores)
        _make(config)
        time.sleep(3)  # the footer cache leaves out files that are younger than two seconds
        _write_footer_cache(config)
        footer_cache, aside = Path(scores) / "_runs/footer_cache", Path(directory) / "aside"
        times: dict[str, list[float]] = {"with the cache": [], "without": []}
        for _ in range(ROUNDS):
            times["with the cache"].append(_timed(config))
            shutil.move(footer_cache, aside)
            times["without"].append(_timed(config))
            shutil.move(aside, footer_cache)
        for how, seconds in times.items():
            print(f"{how:16} {1e3 * statistics.median(seconds) / SHARDS:6.3f} ms a shard")


def _make(config: ScoreConfig) -> None:
    synth(SynthConfig(out=config.archive, images=SHARDS, shards=SHARDS, unlabelled=True))
    run = open_score_run(config)
    row = {"image_id": "x", "predicted_sum": 1, "confidence": 1.0}
    table = pa.Table.from_pylist([row], SCORES_SCHEMA)
    for chunk in plan_run(run).plan.to_score:
        commit_part(run.scores, table, run.model_digest, chunk.id)


def _write_footer_cache(config: ScoreConfig) -> None:
    run = open_score_run(config)
    planned, now = plan_run(run), time.time_ns()
    parts = {file: part for file, part in planned.parts.items() if part is not None}
    shards = planned.survey.archive.shards
    write_footer_cache(run.cache_files, shards, parts, {}, listed_ns=now, written_ns=now)


def _timed(config: ScoreConfig) -> float:
    started = time.perf_counter()
    planned = plan(config)
    seconds = time.perf_counter() - started
    assert len(planned.chunks("done")) == SHARDS, planned.summary()
    return seconds


if __name__ == "__main__":
    planning()
