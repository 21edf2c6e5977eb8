"""Connecting to Ray: the cluster that a job was submitted to, or one on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray
from ray._private.state import state
from ray.data import DataContext

from digitsum.errors import find_digitsum_error
from digitsum.ray_sessions import held_session, remove_ended_sessions

# What these say at every run is no news: that tokens are used, that there are no progress bars, and
# how Ray Data plans. Of warnings only those go that are said at every run.
_CHATTER = {
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
    "ray.data._internal.progress": logging.ERROR,
    "ray.data._internal.execution.streaming_executor": logging.WARNING,
}


@contextmanager
def connected() -> Iterator[None]:
    """Be connected to Ray within the block; a DigitsumError raised in a worker is raised here.

    Joins the cluster that RAY_ADDRESS names, as it does within `ray job submit`; else starts Ray on
    this machine alone, and ends it again. A process that is connected already stays so.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for chatter, level in _CHATTER.items():
        logging.getLogger(chatter).setLevel(level)
    with ExitStack() as ended:
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS", "local")
            started = ray.init(address=address, logging_level=logging.WARNING)
            if address == "local":
                session = Path(started.address_info["session_dir"])
                ended.enter_context(held_session(session))
                remove_ended_sessions(session.parent)
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


def node_resources() -> list[dict[str, float]]:
    """Return the resources ("CPU", "GPU", ...) of each node that the connected cluster has now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def num_cluster(resource: str) -> float:
    """Return how much of a resource ("CPU", "GPU") the connected cluster has, or can grow to."""
    # An idle autoscaling cluster has nothing yet; Ray has no public call for what it may grow to.
    limits = state.get_max_resources_from_cluster_config() or {}
    return float(max(ray.cluster_resources().get(resource, 0), limits.get(resource, 0)))
