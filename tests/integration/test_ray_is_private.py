"""Privacy of the Ray that a command starts: what others can reach of it, and learn from it."""

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
from commands import COMMAND_S, ROOT, free_port

from digitsum.archive.synth import SynthConfig, synth

# The port of the dashboard's own metrics, which need no token.
METRICS_PORT = int(os.environ.get("DASHBOARD_METRIC_PORT", "44227"))
# Keeps the Ray that digitsum starts until its stdin ends; a worker prints its environment. All of
# Ray's agents want the same port, and an agent that does not get it serves no HTTP.
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


class Listener(NamedTuple):
    process: str
    ip: str
    port: int


def user_environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user who has set nothing for Ray, with a home of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | {"HOME": str(home), "PYTHONPATH": str(ROOT)} | more


def listeners_of(process: psutil.Process) -> set[Listener]:
    """Return the addresses that a process and those below it listen on."""
    # Before the names: a worker gets its title when it gets its work, and listens only then.
    connections = psutil.net_connections(kind="inet")
    names = {}
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):  # it has ended meanwhile
            names[member.pid] = " ".join(member.cmdline())
    return {
        Listener(names[connection.pid], connection.laddr.ip, connection.laddr.port)
        for connection in connections
        if connection.pid in names and connection.status == psutil.CONN_LISTEN
    }


def is_loopback(listener: Listener) -> bool:
    ip = ip_address(listener.ip)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def run_and_watch(command: str, home: Path) -> set[Listener]:
    """Run a command to its end; return every address that it or its processes listened on."""
    line = [sys.executable, "-m", "digitsum", *command.split()]
    log = home / "log"
    with log.open("w") as output:
        process = subprocess.Popen(line, env=user_environment(home), stdout=output, stderr=output)
    tree = psutil.Process(process.pid)
    seen: set[Listener] = set()
    try:
        deadline = time.monotonic() + COMMAND_S
        while process.poll() is None and time.monotonic() < deadline:
            seen |= listeners_of(tree)
            time.sleep(0.3)
    finally:
        process.kill()
        process.wait(30)
    assert process.returncode == 0, log.read_text()
    return seen


def test_score_listens_on_loopback(tmp_path):
    synth(SynthConfig(out=f"{tmp_path}/archive", images=200, shards=2))
    command = f"score --archive {tmp_path}/archive --executor ray"
    seen = run_and_watch(f"{command} --scores {tmp_path}/scores", tmp_path)
    for part in ("gcs_server", "raylet", "DashboardAgent", "ray::MapWorker"):
        assert any(part in listener.process for listener in seen), part
    assert [listener for listener in seen if not is_loopback(listener)] == []


def test_train_opens_rendezvous_only(labelled, tmp_path):
    """Workers find each other by torch's store, which takes no address to listen on."""
    command = f"train --archive {labelled} --digits 1 --out {tmp_path}/model --epochs 1"
    seen = run_and_watch(f"{command} --workers 2 --batch-size 32", tmp_path)
    open_to_others = [listener for listener in seen if not is_loopback(listener)]
    assert len({listener.port for listener in open_to_others}) <= 1
    assert all(re.search("ray::.*(Worker|torch)", one.process) for one in open_to_others)
    # Ray Train watches its workers by the State API, and logs every second if it is missing.
    assert "State API" not in (tmp_path / "log").read_text()


class PrivateRay(NamedTuple):
    home: Path
    worker_environment: list[str]
    session: Path
    gcs: str
    process: psutil.Process
    has_dashboard: bool


@pytest.fixture(scope="module", params=[False, True], ids=["score", "train"])
def private_ray(request, tmp_path_factory) -> Iterator[PrivateRay]:
    """Keep the Ray that a command starts for a user who never used Ray before."""
    home = tmp_path_factory.mktemp("home")
    with (home / "log").open("w") as log:
        process = psutil.Popen(
            [sys.executable, "-c", HOLD, str(free_port()), str(request.param)],
            env=user_environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        worker, session, gcs = (process.stdout.readline().strip() for _ in range(3))
        assert gcs, (home / "log").read_text()
        yield PrivateRay(home, worker.split(), Path(session), gcs, process, request.param)
    finally:
        process.stdin.close()
        process.wait(120)


def ports_of(private_ray: PrivateRay, process_name: str) -> set[int]:
    seen = listeners_of(private_ray.process)
    return {listener.port for listener in seen if process_name in listener.process}


def check_refuses(port: int, *paths: str) -> None:
    """Check that a port needs the token on loopback, and is closed on the machine's address."""
    for path in paths:
        assert get(port, path)[0] == 401, path
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((own_address(), port), timeout=10)


def test_usage_is_not_reported(private_ray):
    assert private_ray.worker_environment[0] == "0"
    # A worker's title hides its environment, so one of them printed it.
    of_ray = {member.name(): member for member in private_ray.process.children(recursive=True)}
    for name in ("gcs_server", "raylet"):
        assert of_ray[name].environ()["RAY_USAGE_STATS_ENABLED"] == "0"
    assert (private_ray.session / "logs").is_dir()
    # Ray leaves here what it sent, or would have sent.
    assert list(private_ray.session.glob("usage_stats*")) == []


def test_token_is_needed_and_private(private_ray):
    assert private_ray.worker_environment[1] == "token"
    token = private_ray.home / ".ray" / "auth_token"
    assert len(token.read_text()) >= 32
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_dashboard_refuses_without_token(private_ray):
    """Only a training has one."""
    ports = ports_of(private_ray, "dashboard.py") - {METRICS_PORT}
    assert len(ports) == private_ray.has_dashboard
    for port in ports:
        paths = ("/api/jobs/", "/api/version", "/api/v0/tasks", "/nodes?view=summary")
        check_refuses(port, *paths)


def test_agent_refuses_jobs_without_token(private_ray):
    """A node's agent takes jobs too; its other ports are of metrics and of gRPC."""
    ports = ports_of(private_ray, "DashboardAgent")
    answers = {port: get(port, "/api/job_agent/jobs/") for port in ports}
    for status, body in answers.values():
        assert status != 200 or body.startswith(b"# HELP")
    [port] = [port for port, (status, _) in answers.items() if status == 401]
    paths = ("/api/job_agent/jobs/", "/api/version", "/logs", "/worker/traceback")
    check_refuses(port, *paths)


def test_driver_without_token_is_refused(private_ray, tmp_path):
    line = [sys.executable, "-c", STRANGER, private_ray.gcs]
    environment = user_environment(tmp_path, RAY_AUTH_MODE="disabled")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=COMMAND_S)
    assert done.returncode != 0
    assert "let in" not in done.stdout
    assert "nauthenticated" in done.stderr + done.stdout


def get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of a GET without a token; status 0 if the port does not speak HTTP."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as refused:
        return refused.code, b""
    except (http.client.HTTPException, OSError):
        return 0, b""


def own_address() -> str:
    """Return the address by which other machines reach this one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))  # a network for documentation; nothing is sent
        return str(probe.getsockname()[0])
