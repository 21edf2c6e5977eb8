"""What planning costs a shard, with and without the footer cache: `python benchmarks/planning.py`.

An archive of 2,000 small shards on the local disk, all of them scored; medians of rounds that take
turns. Scoring itself is left out: the parts are written with scores that nobody computed.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from digitsum.archive.score_parts import SCORES_SCHEMA, part_path, part_source, write_part
from digitsum.archive.synth import SynthConfig, synth
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.options import ReadOptions
from digitsum.scoring.commit import committed_parts
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.footer_cache import footer_cache_files, write_footer_cache
from digitsum.scoring.plan import plan_scores
from digitsum.scoring.score import plan
from digitsum.scoring.score_run import survey_archive
from digitsum.storage.location import locate

SHARDS = 2000
ROUNDS = 7


def planning() -> None:
    """Print the milliseconds a shard of both."""
    with tempfile.TemporaryDirectory() as directory:
        archive, scores = f"{directory}/archive", f"{directory}/scores"
        config = ScoreConfig(archive=archive, scores=scores)
        _make(archive, scores)
        time.sleep(3)  # the footer cache passes over what was written within two seconds
        _write_footer_cache(config)
        footer_cache, aside = Path(scores) / "_runs/footer_cache", Path(directory) / "aside"
        times: dict[str, list[float]] = {"with the footer_cache": [], "without": []}
        for _ in range(ROUNDS):
            times["with the footer_cache"].append(_timed(config))
            shutil.move(footer_cache, aside)
            times["without"].append(_timed(config))
            shutil.move(aside, footer_cache)
        for how, seconds in times.items():
            print(f"{how:16} {1e3 * statistics.median(seconds) / SHARDS:6.3f} ms a shard")


def _make(archive: str, scores: str) -> None:
    synth(SynthConfig(out=archive, images=SHARDS, shards=SHARDS, unlabelled=True))
    model = load_model(packaged_model())
    survey = survey_archive(archive, ReadOptions(), model, None, {})
    row = {"image_id": "x", "predicted_sum": 1, "confidence": 1.0}
    table = pa.Table.from_pylist([row], SCORES_SCHEMA)
    for chunk in plan_scores(survey, model.digest, 50_000, {}).to_score:
        source = part_source(chunk, model.digest)
        write_part(locate(scores).join(part_path(source)), table, source)


def _write_footer_cache(config: ScoreConfig) -> None:
    model, scores = load_model(packaged_model()), locate(config.scores)
    files = footer_cache_files(
        scores, locate(config.archive), model.digest, config.read, str(model.shape)
    )
    survey = survey_archive(config.archive, config.read, model, None, {})
    parts = committed_parts(scores, model.digest, {})
    now = time.time_ns()
    write_footer_cache(files, survey.archive.shards, parts.whole, now, now)


def _timed(config: ScoreConfig) -> float:
    started = time.perf_counter()
    planned = plan(config)
    seconds = time.perf_counter() - started
    assert len(planned.chunks("done")) == SHARDS, planned.summary()
    return seconds


if __name__ == "__main__":
    planning()
