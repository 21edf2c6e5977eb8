"""What planning costs a shard, with and without the ledger: `python benchmarks/planning.py`.

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

from digitsum.archive.location import locate
from digitsum.archive.schema import ReadOptions
from digitsum.archive.scores import SCORES_SCHEMA, part_path, part_source, write_part
from digitsum.archive.synth import SynthConfig, synth
from digitsum.model.bundle import load_bundle, packaged_bundle
from digitsum.scoring.commit import committed_parts
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.ledger import ledger_files, write_ledger
from digitsum.scoring.plan import plan_scores
from digitsum.scoring.score import plan
from digitsum.scoring.survey import survey_archive

SHARDS = 2000
ROUNDS = 7


def planning() -> None:
    """Print the milliseconds a shard of both."""
    with tempfile.TemporaryDirectory() as directory:
        archive, scores = f"{directory}/archive", f"{directory}/scores"
        config = ScoreConfig(archive=archive, scores=scores)
        _make(archive, scores)
        time.sleep(3)  # the ledger passes over what was written within two seconds
        _write_ledger(config)
        ledger, aside = Path(scores) / "_runs/ledger", Path(directory) / "aside"
        times: dict[str, list[float]] = {"with the ledger": [], "without": []}
        for _ in range(ROUNDS):
            times["with the ledger"].append(_timed(config))
            shutil.move(ledger, aside)
            times["without"].append(_timed(config))
            shutil.move(aside, ledger)
        for how, seconds in times.items():
            print(f"{how:16} {1e3 * statistics.median(seconds) / SHARDS:6.3f} ms a shard")


def _make(archive: str, scores: str) -> None:
    synth(SynthConfig(out=archive, images=SHARDS, shards=SHARDS, unlabelled=True))
    bundle = load_bundle(packaged_bundle())
    survey = survey_archive(archive, ReadOptions(), bundle, None, {})
    row = {"image_id": "x", "predicted_sum": 1, "confidence": 1.0}
    table = pa.Table.from_pylist([row], SCORES_SCHEMA)
    for chunk in plan_scores(survey, bundle.digest, 50_000, {}).to_score:
        source = part_source(chunk, bundle.digest)
        write_part(locate(scores).join(part_path(source)), table, source)


def _write_ledger(config: ScoreConfig) -> None:
    bundle, scores = load_bundle(packaged_bundle()), locate(config.scores)
    files = ledger_files(
        scores, locate(config.archive), bundle.digest, config.read, str(bundle.shape)
    )
    survey = survey_archive(config.archive, config.read, bundle, None, {})
    parts = committed_parts(scores, bundle.digest, {})
    now = time.time_ns()
    write_ledger(files, survey.archive.shards, parts.whole, now, now)


def _timed(config: ScoreConfig) -> float:
    started = time.perf_counter()
    planned = plan(config)
    seconds = time.perf_counter() - started
    assert len(planned.chunks("done")) == SHARDS, planned.summary()
    return seconds


if __name__ == "__main__":
    planning()
