"""Training and scoring as a cluster's users start them: `ray job submit` to a running head."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import COMMAND_S, ROOT, free_port, printed_json, short_directory, wait_until_up
from factories import read_scores

from digitsum.ray_runtime import SESSION_LOCK_FILE, SESSIONS_KEPT, remove_ended_sessions

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """Start a head with token authentication; give the environment that reaches it."""
    with short_directory("ray-") as directory:
        token = directory / "token"
        token.write_text("a" * 64)
        token.chmod(0o600)
        address = f"http://127.0.0.1:{free_port()}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment = inherited | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_API_SERVER_ADDRESS": address,
        }
        command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}"]
        command += [f"--dashboard-port={address.rpartition(':')[2]}", "--dashboard-host=127.0.0.1"]
        command += [f"--temp-dir={directory}/ray", "--ray-client-server-port", str(free_port())]
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        with (directory / "log").open("w") as log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=directory
            )
        try:
            wait_until_up(f"{address}/api/version", process, directory / "log")
            yield environment
        finally:
            for member in [*psutil.Process(process.pid).children(recursive=True), process]:
                member.kill()
            process.wait(60)


def submit(head: dict[str, str], job: str, *options: str) -> subprocess.CompletedProcess:
    line = ["ray", "job", "submit", "--working-dir", ".", "--", "python", f"jobs/{job}.py"]
    return subprocess.run(
        [*line, *options], env=head, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_S
    )


def test_jobs_train_score_evaluate(head, labelled, unlabelled, tmp_path, read_archive):
    def run(job: str, options: str) -> str:
        done = submit(head, job, *options.split())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    model, scores = tmp_path / "model", tmp_path / "scores"
    train = f"--archive {labelled} --digits 1 --out {model} --epochs 1 --name submitted"
    assert "validation accuracy" in run("train", train)
    run("score", f"--archive {unlabelled} --scores {scores} --model {model} --known-count 1")
    rows = read_scores(scores).to_pylist()
    assert [row["image_id"] for row in rows] == list(read_archive(unlabelled))
    assert all(row["digits"] == [row["predicted_sum"]] for row in rows)
    report = f"{tmp_path}/report"
    printed = run("evaluate", f"--archive {labelled} --model {model} --report {report}")
    evaluation = json.loads((tmp_path / "report/evaluation.json").read_text())
    assert evaluation.items() >= printed_json(printed).items()


def test_job_with_bad_input_fails(head, tmp_path):
    options = ["--archive", f"{tmp_path}/none", "--scores", f"{tmp_path}/s", "--model", "none"]
    done = submit(head, "score", *options)
    assert done.returncode != 0
    assert "not a model" in done.stdout
    assert not (tmp_path / "s").exists()


def test_private_ray_removes_old_sessions():
    connect = "from digitsum.ray_runtime import connect_ray\nwith connect_ray(): pass"
    with short_directory("ray-") as temporary:
        directory = temporary / "ray"
        sessions = [directory / f"session_2000-01-01_00-00-{n:02}_0_1" for n in range(12)]
        for session in sessions:
            session.mkdir(parents=True)
            (session / SESSION_LOCK_FILE).touch()
        others = directory / "session_1999-01-01_00-00-00_0_1"
        others.mkdir()
        environment = os.environ | {"RAY_TMPDIR": str(temporary)}
        subprocess.run([sys.executable, "-c", connect], env=environment, check=True)
        *old, own = sorted(directory.glob("session_[12]*"))
        assert old == [others, *sessions[-(SESSIONS_KEPT - 1) :]]
        assert (own / "logs").is_dir()
        assert (own / SESSION_LOCK_FILE).exists()
        remove_ended_sessions(directory, 0)
        assert list(directory.glob("session_[12]*")) == [others]
