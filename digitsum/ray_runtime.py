"""Connecting to Ray: the cluster that a job was submitted to, or one on this machine."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import ray
from filelock import FileLock
from ray._private import ray_constants
from ray._private.state import state
from ray.data import DataContext

from digitsum.errors import find_digitsum_error

# What these say at every run is no news: that tokens are used, that there are no progress bars, and
# how Ray Data plans. Of warnings only those go that are said at every run.
_CHATTER = {
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
    "ray.data._internal.progress": logging.ERROR,
    "ray.data._internal.execution.streaming_executor": logging.WARNING,
}


@contextmanager
def connected(*, state_api: bool = False) -> Iterator[None]:
    """Be connected to Ray within the block; a DigitsumError raised in a worker is raised here.

    Joins the cluster that RAY_ADDRESS names, as it does within `ray job submit`; else starts Ray on
    this machine alone, where it listens on the loopback address alone, and ends it again. A process
    that is connected already stays so.

    Ray's State API, by which Ray Train looks after its workers, comes with the dashboard, and that
    with ten processes: a Ray that is started here has it where `state_api` asks for it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for chatter, level in _CHATTER.items():
        logging.getLogger(chatter).setLevel(level)
    with ExitStack() as ended:
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS", "local")
            if address == "local":
                session = _start_on_loopback(with_dashboard=state_api)
                ended.enter_context(held_session(session))
                remove_ended_sessions(session.parent)
            else:
                ray.init(address=address, logging_level=logging.WARNING)
            ended.callback(ray.shutdown)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        # Ray Data's own wrapping loses the error that a function raised when it crosses processes.
        context.raise_original_map_exception = True
        try:
            yield
        except Exception as error:
            said = find_digitsum_error(error)
            if said is None or said is error:
                raise
            raise said from error


def _start_on_loopback(*, with_dashboard: bool) -> Path:
    """Start Ray on this machine so that no other machine can open a port of it; return its session.

    Left to itself, all of Ray but its dashboard listens on every interface, where only its token
    keeps others out. It does so because a cluster may come of it, and listens on 127.0.0.1 alone
    where it believes that none will, as on macOS and Windows; no public option says so.
    """
    may_be_cluster = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        started = ray.init(
            address="local",
            include_dashboard=with_dashboard,
            dashboard_host="127.0.0.1",
            logging_level=logging.WARNING,
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = may_be_cluster
    # Whoever reads the token can run code as this user; Ray writes it for all to read.
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.chmod(token.stat().st_mode & 0o700)
    return Path(started.address_info["session_dir"])


def node_resources() -> list[dict[str, float]]:
    """Return the resources ("CPU", "GPU", ...) of each node that the connected cluster has now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def num_cluster(resource: str) -> float:
    """Return how much of a resource ("CPU", "GPU") the connected cluster has, or can grow to."""
    # An idle autoscaling cluster has nothing yet; Ray has no public call for what it may grow to.
    limits = state.get_max_resources_from_cluster_config() or {}
    return float(max(ray.cluster_resources().get(resource, 0), limits.get(resource, 0)))


LOCK_FILE = "digitsum.lock"
SESSIONS_KEPT = 10
"""As many as the runs that `digitsum status` lists."""


@contextmanager
def held_session(session: Path) -> Iterator[None]:
    """Mark a session as digitsum's, and as that of a driver that lives, within the block."""
    lock = FileLock(session / LOCK_FILE, timeout=0)
    with suppress(OSError):  # without it the session stays for ever, and does no other harm
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_ended_sessions(directory: Path, kept: int = SESSIONS_KEPT) -> None:
    """Remove the sessions below a directory that digitsum started and that have ended.

    The last `kept` of digitsum's stay, and all that cannot be removed.
    """
    found = {lock.parent for lock in directory.glob(f"session_*/{LOCK_FILE}")}
    sessions = sorted(session for session in found if not session.is_symlink())
    for session in sessions[: max(0, len(sessions) - kept)]:
        with suppress(OSError), FileLock(session / LOCK_FILE, timeout=0):
            shutil.rmtree(session)
