"""Proof that a change of the code changed no score: `python benchmarks/before_after.py CLONE`.

CLONE is a git clone at commit 78ac972, whose options have other names. Both versions score the same
archives, and every column must be the same bit for bit; only what an error says may differ. With
`--speed`, what takes time is measured instead: seven pairs that take turns, on a quiet machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.numpy import load_file

from digitsum.model.registry import build_network

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build/before-after"
OLD_OPTIONS = {"--model": "--bundle", "--known-count": "--digits", "--executor": "--engine"}
PAIRS = 7
SCORED_IMAGES, SHARD_IMAGES, NUM_SMALL = 40_000, 10_000, 3_000
# Runs a command once to warm up (it may score an archive of its own), then again with a clock.
TIMED = """
import json, sys, time
from digitsum.cli import main
warm, timed = map(json.loads, sys.argv[1:])
assert main(warm) == 0
started = time.perf_counter()
assert main(timed) == 0
print("seconds", time.perf_counter() - started)
"""


def digitsum(clone: Path, words: str, *, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a command, written with the new options, by the code of a clone."""
    _run(clone, ["-m", "digitsum", *_options(clone, words)], allowed)


def timed(clone: Path, warm: str, words: str) -> float:
    """Return the seconds of a command, without those of starting Python and importing."""
    arguments = [json.dumps(_options(clone, command)) for command in (warm, words)]
    return float(_run(clone, ["-c", TIMED, *arguments], (0,)).rsplit("seconds ", 1)[1])


def _options(clone: Path, words: str) -> list[str]:
    old = OLD_OPTIONS if words.startswith(("score", "evaluate")) else {"--out": "--bundle"}
    is_old = clone != ROOT and not words.startswith("synth")
    return [old.get(word, word) if is_old else word for word in words.split()]


def _run(clone: Path, arguments: list[str], allowed: tuple[int, ...]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(clone), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, cwd=OUT, capture_output=True, text=True)
    if done.returncode not in allowed:
        raise SystemExit(f"{clone}: {arguments}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def make_archives() -> None:
    """Write an archive of each kind, and the weights of another model, below OUT."""
    digitsum(ROOT, "synth --out plain --images 400 --shards 3 --unlabelled --seed 1")
    digitsum(ROOT, "synth --out wide --images 200 --shards 2 --digits 6 --width 252 --seed 2")
    digitsum(ROOT, "synth --out labelled --images 300 --shards 2 --true-digits --seed 3")
    rows = pq.read_table(OUT / "plain").to_pylist()
    lists, pngs = [], []
    for row in rows[:200]:
        lists.append({**row, "image": list(row["image"])})
        png = io.BytesIO()
        Image.frombytes("L", (168, 40), row["image"]).save(png, "PNG")
        pngs.append({**row, "image": png.getvalue()})
    damaged = [{**row, "image": row["image"][: 7 * (i % 3 > 0)]} for i, row in enumerate(pngs[:60])]
    _write("lists", lists, pa.list_(pa.uint8()))
    _write("png", pngs, pa.binary())
    _write("rejects", [*pngs[60:], *damaged], pa.binary())
    _write("no-ids", [{"image": row["image"]} for row in pngs], pa.binary())
    sizes = {"height": 40, "width": 168, "num_digits": 4}
    torch.manual_seed(0)
    torch.save(build_network("baseline", sizes).state_dict(), OUT / "baseline.pth")


def _write(name: str, rows: list[dict[str, Any]], image_type: pa.DataType) -> None:
    fields = [("image_id", pa.string())] * ("image_id" in rows[0]) + [("image", image_type)]
    (OUT / name).mkdir()
    table = pa.Table.from_pylist(rows, pa.schema(fields))
    pq.write_table(table, OUT / name / "shard.parquet", row_group_size=50)


SIZE = "--height 40 --width 168"
CASES = {
    "plain shards": "--archive plain",
    "small chunks": "--archive plain --chunk-images 50 --batch-size 32",
    "back-end torch": "--archive plain --backend torch",
    "lists": f"--archive lists {SIZE}",
    "PNG": f"--archive png {SIZE}",
    "no ids": f"--archive no-ids {SIZE}",
    "rejected images": f"--archive rejects {SIZE}",
    "labelled": "--archive labelled",
    "six digits": "--archive wide",
    "known count": "--archive wide --known-count 6",
    "another model": "--archive plain --model another-{}",
}


def compare(clone: Path) -> int:
    """Print, case by case, whether both versions give the same; return 1 if any does not."""
    make_archives()
    results: dict[str, dict[str, Any]] = {}
    for name, version in {"before": clone, "after": ROOT}.items():
        found = results[name] = {"packaged weights": _weights(version)}
        digitsum(version, f"import model baseline.pth --out another-{name}")
        for case, options in CASES.items():
            scores = f"scores-{name}/{case.replace(' ', '-')}"
            command = f"score {options.format(name)} --scores {scores} --executor threads"
            digitsum(version, command, allowed=(0, 3))
            found[case] = _scores(OUT / scores)
        command = f"evaluate --archive labelled --report evaluation-{name} --executor threads"
        digitsum(version, command)
        figures = json.loads((OUT / f"evaluation-{name}/evaluation.json").read_text())
        # Scipy's Wilson interval differs from the former one by less than 1e-11.
        floats = {k: v for k, v in figures.items() if isinstance(v, float)}
        found["evaluation"] = {k: round(v, 9) for k, v in floats.items()}
    differences = {
        case: _differences(r, results["after"][case]) for case, r in results["before"].items()
    }
    for case, lines in differences.items():
        print(f"{case:18} {len(results['before'][case]):4} {'; '.join(lines) or 'the same'}")
    return int(any(differences.values()))


def _weights(clone: Path) -> dict[str, str]:
    [file] = (clone / "digitsum/model/packaged").glob("*.safetensors")
    return {name: repr(tensor.tobytes()) for name, tensor in load_file(file).items()}


def _scores(scores: Path) -> dict[str, Any]:
    """Return the rows of all parts by id; of an error, only whether there is one."""
    parts = sorted(file for file in scores.rglob("*.parquet") if "_runs" not in file.parts)
    rows = [row for file in parts for row in pq.read_table(file, partitioning=None).to_pylist()]
    by_id = {row["image_id"]: row | {"error": row["error"] is not None} for row in rows}
    assert len(by_id) == len(rows) > 0, "an image was scored twice, or none was"
    return by_id


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    # repr() of a float gives all its bits, but NaN is equal to NaN.
    keys = [key for key in (before | after) if repr(before.get(key)) != repr(after.get(key))]
    return [f"{key}: {before.get(key)} -> {after.get(key)}"[:300] for key in keys[:5]]


def measure(clone: Path) -> int:
    """Print medians of scoring, and of a night that finds all done, and their ratios; return 0."""
    digitsum(ROOT, f"synth --out one --images {SHARD_IMAGES} --unlabelled --seed 4")
    (OUT / "many").mkdir()
    for number in range(SCORED_IMAGES // SHARD_IMAGES):
        shutil.copy(OUT / "one/shard-00000.parquet", OUT / f"many/{number}.parquet")
    digitsum(ROOT, f"synth --out small --images {NUM_SMALL} --shards {NUM_SMALL} --unlabelled")
    digitsum(ROOT, "synth --out warm --images 2000 --unlabelled --seed 6")
    seconds: dict[str, dict[str, list[float]]] = {"score": {}, "plan": {}}
    versions = [("before", clone), ("after", ROOT)]
    for pair in range(PAIRS):
        for name, version in versions if pair % 2 == 0 else reversed(versions):
            night = f"score --archive small --scores small-{name} --executor threads"
            if pair == 0:
                digitsum(version, night)
            score = "score --executor threads --archive {0} --scores {0}-{1}-{2}"
            warm, many = (score.format(archive, name, pair) for archive in ("warm", "many"))
            for what, first, words in (("score", warm, many), ("plan", night, night)):
                seconds[what].setdefault(name, []).append(timed(version, first, words))
        print(f"pair {pair + 1} of {PAIRS}", flush=True)
    for what, by_name in seconds.items():
        before, after = statistics.median(by_name["before"]), statistics.median(by_name["after"])
        ratios = [b / a for b, a in zip(by_name["before"], by_name["after"], strict=True)]
        print(
            f"{what}: {before:.2f} s before, {after:.2f} s after; before/after "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f} in the pairs)"
        )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clone", type=Path, help="a git clone at commit 78ac972")
    parser.add_argument("--speed", action="store_true", help="measure instead of comparing")
    given = parser.parse_args()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    sys.exit((measure if given.speed else compare)(given.clone.resolve()))
