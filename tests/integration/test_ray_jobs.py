"""Training and scoring as a cluster's users start them: `ray job submit` to a running head."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_TIMEOUT_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """Start a head of its own, with token authentication; give the environment that reaches it."""
    # A short path, for Ray's sockets lie below it and may have 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="ray-"))
    token = directory / "token"
    token.write_text("a" * 64)
    token.chmod(0o600)
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}"]
    command += [f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    command += [f"--temp-dir={directory}/ray", "--ray-client-server-port", str(free_port())]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    log = (directory / "log").open("w+")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=directory)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_up(f"{address}/api/version", process, directory / "log")
        yield environment | {"RAY_API_SERVER_ADDRESS": address}
    finally:
        for member in [*psutil.Process(process.pid).children(recursive=True), process]:
            member.kill()
        process.wait(60)
        log.close()
        shutil.rmtree(directory, ignore_errors=True)


def wait_until_up(url: str, process: subprocess.Popen, log: Path) -> None:
    ended = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < ended and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
        except urllib.error.HTTPError:
            return  # it answers, if only to ask for the token
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"the head did not come up:\n{log.read_text()}")


def submit(head: dict[str, str], *command: str) -> str:
    line = ["ray", "job", "submit", "--working-dir", ".", "--", *command]
    done = subprocess.run(line, env=head, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_training_and_scoring_are_submitted_and_the_sums_read_back(
    head, labelled, unlabelled, tmp_path, read_scores, read_archive
):
    model, scores = tmp_path / "model", tmp_path / "scores"
    train = f"--archive {labelled} --digits 1 --out {model} --epochs 1 --name submitted"
    said = submit(head, "python", "jobs/train.py", *train.split())
    assert "validation accuracy" in said
    score = f"--archive {unlabelled} --scores {scores} --model {model} --known-count 1"
    submit(head, "python", "jobs/score.py", *score.split())
    rows = read_scores(scores)
    assert [row["image_id"] for row in rows] == list(read_archive(unlabelled))
    assert all(row["digits"] == [row["predicted_sum"]] for row in rows)
    evaluate = f"--archive {labelled} --model {model} --report {tmp_path}/report"
    said = submit(head, "python", "jobs/evaluate.py", *evaluate.split())
    figures = json.loads((tmp_path / "report/evaluation.json").read_text())
    assert json.dumps(figures) in said.splitlines()


def test_bad_input_fails_the_job_with_its_sentence(head, tmp_path):
    line = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/score.py"]
    line += ["--archive", f"{tmp_path}/none", "--scores", f"{tmp_path}/s", "--model", "none"]
    done = subprocess.run(line, env=head, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert "not a model" in done.stdout
    assert not (tmp_path / "s").exists()
