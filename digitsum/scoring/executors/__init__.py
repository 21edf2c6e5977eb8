"""Executors, which carry chunks to workers: Ray's actors, or threads of this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from digitsum.scoring.config import ComputeOptions
from digitsum.scoring.executors.executor import Executor, MakeWorker, Result
from digitsum.scoring.executors.threads import ThreadsExecutor
from digitsum.scoring.results import ChunkResult

FEW_IMAGES = 100_000
"""At 2,000 images/s on one core about 50 s: a cluster that takes 10 s to start saves little."""


@contextmanager
def open_executor(
    make_worker: MakeWorker[Result],
    compute: ComputeOptions,
    num_images: int,
    *,
    keep_going: bool = False,
    after_death: bool = False,
) -> Iterator[Executor[Result]]:
    """Yield the executor for n images; Ray is connected, or started, within the block."""
    if not uses_ray(compute, num_images, after_death=after_death):
        yield ThreadsExecutor(make_worker, compute, keep_going=keep_going)
        return
    # Importing Ray takes a second.
    from digitsum.ray_runtime import connect_ray
    from digitsum.scoring.executors.ray_data import RayDataExecutor

    with connect_ray():
        yield RayDataExecutor(make_worker, compute, keep_going=keep_going)


def chunk_recorder(run: str, compute: ComputeOptions) -> Callable[[ChunkResult], None]:
    """Return what counts each result in Ray's metrics; it does nothing without Ray."""
    if not _is_connected():
        return lambda result: None
    from digitsum.scoring.progress import RunMetrics

    return RunMetrics(run, compute.images_per_batch).record


def uses_ray(compute: ComputeOptions, num_images: int, *, after_death: bool = False) -> bool:
    """Return whether n images are scored on Ray: few are not, unless the last run died."""
    if compute.executor != "auto":
        return compute.executor == "ray"
    is_small = num_images <= FEW_IMAGES and not compute.gpus_per_actor and not after_death
    return not is_small or _is_connected() or "RAY_ADDRESS" in os.environ


def _is_connected() -> bool:
    """Return whether this process is connected to Ray; does not import it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
