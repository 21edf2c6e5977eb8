"""The connection to Ray: to the cluster that a job was submitted to, or to a private Ray."""

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

SESSION_LOCK_FILE = "digitsum.lock"
SESSIONS_KEPT = 10
"""Ended sessions whose logs stay on the disk: as many as the runs that `digitsum status` lists."""

# These log the same at every run: that tokens are used, that there are no progress bars, and how
# Ray Data plans. Their other warnings stay.
_LOG_LEVELS = {
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
    "ray.data._internal.progress": logging.ERROR,
    "ray.data._internal.execution.streaming_executor": logging.WARNING,
}


@contextmanager
def connect_ray(*, state_api: bool = False) -> Iterator[None]:
    """Connect to Ray for the block; a DigitsumError raised in a worker is raised here.

    Joins the cluster that RAY_ADDRESS names, as `ray job submit` sets it; else starts Ray on this
    machine, which listens on the loopback address alone, and stops it after the block. A process
    that is already connected stays so.

    `state_api` starts a private Ray with the dashboard, which is ten processes more: Ray Train
    needs its State API to watch its workers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for logger, level in _LOG_LEVELS.items():
        logging.getLogger(logger).setLevel(level)
    with ExitStack() as stack:
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS", "local")
            if address == "local":
                session = _start_on_loopback(with_dashboard=state_api)
                stack.enter_context(lock_session(session))
                remove_ended_sessions(session.parent)
            else:
                ray.init(address=address, logging_level=logging.WARNING)
            stack.callback(ray.shutdown)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        # Ray Data's own wrapping loses the original error when it crosses processes.
        context.raise_original_map_exception = True
        try:
            yield
        except Exception as error:
            original = find_digitsum_error(error)
            if original is None or original is error:
                raise
            raise original from error


def _start_on_loopback(*, with_dashboard: bool) -> Path:
    """Start Ray on this machine so that no other machine can reach its ports; return its session.

    By default everything but the dashboard listens on every interface, because other nodes may
    join. Ray listens on 127.0.0.1 alone only if it assumes that none will, as on macOS and Windows;
    no public option sets this.
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
    # Ray makes the token readable by everyone, and its reader can run code as this user.
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.chmod(token.stat().st_mode & 0o700)
    return Path(started.address_info["session_dir"])


def node_resources() -> list[dict[str, float]]:
    """Return the resources ("CPU", "GPU", ...) of each live node of the connected cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def cluster_capacity(resource: str) -> float:
    """Return how much of a resource ("CPU", "GPU") the connected cluster has, or can grow to."""
    # An idle autoscaling cluster has nothing yet; Ray has no public call for its limits.
    limits = state.get_max_resources_from_cluster_config() or {}
    return float(max(ray.cluster_resources().get(resource, 0), limits.get(resource, 0)))


@contextmanager
def lock_session(session: Path) -> Iterator[None]:
    """Mark a Ray session as digitsum's, and as in use during the block."""
    lock = FileLock(session / SESSION_LOCK_FILE, timeout=0)
    with suppress(OSError):  # without the lock the session is never removed, which is harmless
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_ended_sessions(directory: Path, num_kept: int = SESSIONS_KEPT) -> None:
    """Remove digitsum's ended Ray sessions below a directory, except the last ones."""
    locked = {lock.parent for lock in directory.glob(f"session_*/{SESSION_LOCK_FILE}")}
    sessions = sorted(session for session in locked if not session.is_symlink())
    for session in sessions[: max(0, len(sessions) - num_kept)]:
        with suppress(OSError), FileLock(session / SESSION_LOCK_FILE, timeout=0):
            shutil.rmtree(session)
