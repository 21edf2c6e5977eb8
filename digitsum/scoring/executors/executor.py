"""What carries chunks to the workers that score them: Ray's actors, or threads of this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from digitsum.scoring.config import ActorOptions
from digitsum.scoring.executors.threads import map_chunks_in_threads
from digitsum.scoring.results import ScoredChunk

FEW_IMAGES = 100_000
"""On one core of 2,000 images/s some 50 s: a cluster that takes 10 s to start saves little."""

MapChunks = Callable[..., Iterator[dict[str, Any]]]


@contextmanager
def chunk_engine(
    options: ActorOptions, num_images: int, *, after_death: bool = False
) -> Iterator[MapChunks]:
    """Give, for the block, what maps chunks: `actors.map_chunks`, or `map_chunks_in_threads`.

    `after_death` says whether the run before this one died.
    """
    if not uses_ray(options, num_images, after_death=after_death):
        yield map_chunks_in_threads
        return
    # Imported where it is used, for that takes a second.
    from digitsum.ray_runtime import connected
    from digitsum.scoring.executors.ray_data import map_chunks

    with connected():
        yield map_chunks


def chunk_recorder(run: str, options: ActorOptions) -> Callable[[ScoredChunk], None]:
    """Return what is to be told of each chunk: Ray's metrics, where Ray is connected."""
    if not _is_connected():
        return lambda chunk: None
    from digitsum.scoring.metrics import RunMetrics

    return RunMetrics(run, options.images_per_batch).record


def uses_ray(options: ActorOptions, num_images: int, *, after_death: bool = False) -> bool:
    """Return whether so many images are scored on Ray.

    After a death they are: had a chunk killed the process, it would do so every night.
    """
    if options.executor != "auto":
        return options.executor == "ray"
    is_connected = _is_connected()
    is_named = "RAY_ADDRESS" in os.environ
    is_small = num_images <= FEW_IMAGES and not options.gpus_per_actor and not after_death
    return not is_small or is_connected or is_named


def _is_connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
