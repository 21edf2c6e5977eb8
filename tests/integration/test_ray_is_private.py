"""What others can reach, and learn, of the Ray that a command starts on its own machine."""

import http.client
import os
import re
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from digitsum.archive.synth import SynthConfig, synth

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 400
# Where what is left of the dashboard gives its own metrics, without a token.
METRICS_PORT = int(os.environ.get("DASHBOARD_METRIC_PORT", "44227"))
# Holds the Ray that digitsum starts until its stdin ends; a worker says what it was given. Ray's
# agents all want the same port, and one that another Ray on the machine has serves no HTTP.
HOLD = """
import os, sys
import ray
from ray._private.parameter import RayParams
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT as WANTED_BY_ALL
from digitsum.ray_runtime import connect_ray
defaults = RayParams.__init__.__defaults__
own = int(sys.argv[1])
RayParams.__init__.__defaults__ = tuple(own if d == WANTED_BY_ALL else d for d in defaults)
with connect_ray(state_api=sys.argv[2] == "True"):
    @ray.remote
    def environment(name):
        return os.environ.get(name)
    names = ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE")
    print(*ray.get([environment.remote(name) for name in names]), flush=True)
    print(ray._private.worker._global_node.get_session_dir_path(), flush=True)
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
STRANGER = """
import sys
import ray
from ray._private import ray_constants
ray_constants.ENABLE_RAY_CLUSTER = False  # it is on the machine itself, and speaks to loopback
ray.init(address=sys.argv[1], logging_level="ERROR")
print("let in", ray.nodes())
"""


class Listening(NamedTuple):
    process: str
    ip: str
    port: int


def as_of_a_user(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user who has set nothing for Ray, with a home of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return environment | {"HOME": str(home), "PYTHONPATH": str(ROOT)} | more


def listening(process: psutil.Process) -> set[Listening]:
    names = {}
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):  # it has ended meanwhile
            names[member.pid] = " ".join(member.cmdline())
    return {
        Listening(names[connection.pid], connection.laddr.ip, connection.laddr.port)
        for connection in psutil.net_connections(kind="inet")
        if connection.pid in names and connection.status == psutil.CONN_LISTEN
    }


def is_loopback(address: str) -> bool:
    ip = ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def listened_to_while_it_ran(command: str, home: Path) -> set[Listening]:
    """Run a command to its end; return every address that it or a process of its listened on."""
    line = [sys.executable, "-m", "digitsum", *command.split()]
    log = (home / "log").open("w+")
    process = subprocess.Popen(line, env=as_of_a_user(home), stdout=log, stderr=log)
    seen: set[Listening] = set()
    try:
        tree = psutil.Process(process.pid)
        ended = time.monotonic() + TIMEOUT_S
        while process.poll() is None and time.monotonic() < ended:
            seen |= listening(tree)
            time.sleep(0.3)
    finally:
        process.kill()
        process.wait(30)
    log.seek(0)
    assert process.returncode == 0, log.read()
    log.close()
    return seen


def test_nothing_of_a_scoring_run_listens_for_other_machines(tmp_path):
    synth(SynthConfig(out=f"{tmp_path}/archive", images=200, shards=2))
    command = f"score --archive {tmp_path}/archive --executor ray"
    seen = listened_to_while_it_ran(f"{command} --scores {tmp_path}/scores", tmp_path)
    for part in ("gcs_server", "raylet", "DashboardAgent", "ray::MapWorker"):
        assert any(part in one.process for one in seen), part
    assert [one for one in seen if not is_loopback(one.ip)] == []


def test_of_a_training_only_torchs_rendezvous_does(labelled, tmp_path):
    """torch's store, where workers find each other, takes no address to listen on."""
    command = f"train --archive {labelled} --digits 1 --out {tmp_path}/model --epochs 1"
    seen = listened_to_while_it_ran(f"{command} --workers 2 --batch-size 32", tmp_path)
    open_to_others = {one for one in seen if not is_loopback(one.ip)}
    assert len({one.port for one in open_to_others}) <= 1
    assert [
        one for one in open_to_others if not re.search("ray::.*(Worker|torch)", one.process)
    ] == []
    # By which Ray Train looks after its workers, and without which it complains every second.
    assert "State API" not in (tmp_path / "log").read_text()


class Held(NamedTuple):
    home: Path
    said: list[str]
    session: Path
    gcs: str
    process: psutil.Process
    has_dashboard: bool


@pytest.fixture(scope="module", params=[False, True], ids=["score", "train"])
def held(request, tmp_path_factory) -> Iterator[Held]:
    """Hold the Ray that a command starts for a user who never used Ray before."""
    home = tmp_path_factory.mktemp("home")
    log = (home / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(free_port()), str(request.param)],
        env=as_of_a_user(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said, session, gcs = (process.stdout.readline().strip() for _ in range(3))
        assert gcs, (home / "log").read_text()
        yield Held(
            home, said.split(), Path(session), gcs, psutil.Process(process.pid), request.param
        )
    finally:
        process.stdin.close()
        process.wait(60)
        log.close()


def test_usage_is_reported_to_nobody(held):
    assert held.said[0] == "0"
    # Not of workers, whose titles lie over their environment; one of them was asked.
    of_ray = {member.name(): member for member in held.process.children(recursive=True)}
    for name in ("gcs_server", "raylet"):
        assert of_ray[name].environ()["RAY_USAGE_STATS_ENABLED"] == "0"
    assert (held.session / "logs").is_dir()
    # Ray leaves here what it sent, or would have sent.
    assert list(held.session.glob("usage_stats*")) == []


def test_a_token_is_asked_for_and_no_other_user_can_read_it(held):
    assert held.said[1] == "token"
    token = held.home / ".ray" / "auth_token"
    assert len(token.read_text()) >= 32
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_only_a_training_has_a_dashboard_and_that_refuses_whoever_has_no_token(held):
    ports = {one.port for one in listening(held.process) if "dashboard.py" in one.process}
    ports -= {METRICS_PORT}
    assert len(ports) == held.has_dashboard
    for port in ports:
        for path in ("/api/jobs/", "/api/version", "/api/v0/tasks", "/nodes?view=summary"):
            assert answer(port, path)[0] == 401, path
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((own_address(), port), timeout=10)


def test_a_job_without_the_token_is_refused(held):
    """A node's agent takes jobs too, and has other ports, of metrics and of gRPC."""
    ports = {one.port for one in listening(held.process) if "DashboardAgent" in one.process}
    answers = {port: answer(port, "/api/job_agent/jobs/") for port in ports}
    refused = {port for port, (status, _) in answers.items() if status == 401}
    assert len(refused) == 1
    for status, said in answers.values():
        assert status != 200 or said.startswith(b"# HELP")
    [port] = refused
    for path in ("/api/job_agent/jobs/", "/api/version", "/logs", "/worker/traceback"):
        assert answer(port, path)[0] == 401, path
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((own_address(), port), timeout=10)


def answer(port: int, path: str) -> tuple[int, bytes]:
    """Return what a port of this machine says to a GET without a token; 0 where it is no HTTP."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as refused:
        return refused.code, b""
    except (http.client.HTTPException, OSError):
        return 0, b""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_address() -> str:
    """Return an address of this machine that others would use."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))  # of a net for documentation; nothing is sent
        return str(probe.getsockname()[0])


def test_a_driver_without_the_token_is_refused(held, tmp_path):
    line = [sys.executable, "-c", STRANGER, held.gcs]
    environment = as_of_a_user(tmp_path, RAY_AUTH_MODE="disabled")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert "let in" not in done.stdout
    assert "nauthenticated" in done.stderr + done.stdout
