"""The whole way on an object store: a real S3 server on loopback holds archive, runs and scores."""

import json
import subprocess
import sys

import pyarrow.dataset as ds
from pyarrow import fs as pafs


def run(environment: dict[str, str], command: str) -> str:
    line = [sys.executable, "-m", "digitsum", *command.split()]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_archive_training_bundle_and_scores_all_lie_on_s3(s3, s3_files):
    run(s3, "synth --out s3://images/labelled --images 300 --shards 2 --digits 1 --width 48")
    run(
        s3,
        "synth --out s3://images/new --images 200 --shards 2 --digits 1 --width 48 --unlabelled",
    )
    train = "train --archive s3://images/labelled --digits 1 --epochs 1 --name remote"
    run(s3, f"{train} --out s3://images/models/first")
    score = "score --archive s3://images/new --scores s3://images/scores"
    said = run(s3, f"{score} --model s3://images/models/first --json")
    assert json.loads(said.splitlines()[-1])["images"] == 200
    said = run(s3, f"{score} --model s3://images/models/first --json")
    assert json.loads(said.splitlines()[-1])["images"] == 0

    files = s3_files
    selector = pafs.FileSelector("images/models/_runs/remote", recursive=True)
    names = {info.base_name for info in files.get_file_info(selector)}
    assert {"curves.json", "report.html", "manifest.json", "optimized.safetensors"} <= names
    with files.open_input_file("images/scores/CURRENT") as pointer:
        current = pointer.read().decode().strip()
    scores = ds.dataset(f"images/scores/{current}", filesystem=files).to_table()
    new = ds.dataset("images/new", filesystem=files).to_table(columns=["image_id"])
    assert scores["image_id"].to_pylist() == new["image_id"].to_pylist()
    assert scores["predicted_sum"].null_count == 0
