"""The whole way on an object store: a real S3 server on loopback holds archive, runs and scores."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pyarrow.dataset as ds
import pytest
from pyarrow import fs as pafs

SERVER_START_S = 60


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Start the server with a bucket `images`; give the environment in which it is S3."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        ended = time.monotonic() + SERVER_START_S
        while time.monotonic() < ended:
            try:
                urllib.request.urlopen(address, timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        file_system(address).create_dir("images")
        yield os.environ | {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def file_system(address: str) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        access_key="testing",
        secret_key="testing",
        endpoint_override=address,
        region="us-east-1",
        allow_bucket_creation=True,
    )


def run(environment: dict[str, str], command: str) -> str:
    line = [sys.executable, "-m", "digitsum", *command.split()]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_archive_training_bundle_and_scores_all_lie_on_s3(s3):
    run(s3, "synth --out s3://images/labelled --images 300 --shards 2 --digits 1 --width 48")
    run(
        s3,
        "synth --out s3://images/new --images 200 --shards 2 --digits 1 --width 48 --unlabelled",
    )
    train = "train --archive s3://images/labelled --digits 1 --epochs 1 --name remote"
    run(s3, f"{train} --bundle s3://images/models/first")
    score = "score --archive s3://images/new --scores s3://images/scores"
    said = run(s3, f"{score} --bundle s3://images/models/first --json")
    assert json.loads(said.splitlines()[-1])["images"] == 200
    said = run(s3, f"{score} --bundle s3://images/models/first --json")
    assert json.loads(said.splitlines()[-1])["images"] == 0

    files = file_system(s3["AWS_ENDPOINT_URL"])
    selector = pafs.FileSelector("images/models/_runs/remote", recursive=True)
    names = {info.base_name for info in files.get_file_info(selector)}
    assert {"curves.json", "curves.png", "manifest.json", "optimized.safetensors"} <= names
    with files.open_input_file("images/scores/CURRENT") as pointer:
        current = pointer.read().decode().strip()
    scores = ds.dataset(f"images/scores/{current}", filesystem=files).to_table()
    new = ds.dataset("images/new", filesystem=files).to_table(columns=["image_id"])
    assert scores["image_id"].to_pylist() == new["image_id"].to_pylist()
    assert scores["predicted_sum"].null_count == 0
