"""The pool of actors that hold the model, and the stream of chunks through it.

Chunks go through Ray Data as descriptions of a few hundred bytes; each actor reads, scores and
commits its own. No image passes through the object store, and a chunk's retry is a retry of
everything that belongs to it. There are no read tasks that actors could starve of CPUs.

Measured against images that pass through Ray Data's operators to actors with the same back-end
(`make bench`, 2 cores, medians of three rounds): 1.6 times as many images a second by the paper's
network, 1.5 times by the counter.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from digitsum.archive.chunks import Chunk
from digitsum.errors import InputError
from digitsum.ray_runtime import node_resources, num_cluster
from digitsum.scoring.config import ActorOptions
from digitsum.scoring.plan import num_actors

# A chunk that kills its actor time and again must end the run; Ray's default tries for ever.
# Several are used up while Ray has not noticed yet that a node is gone: of five, all were once.
MAX_CHUNK_RETRIES = 10
# Fraction of the pool's actors that have a chunk.
GROW_ABOVE_BUSY = 0.75


def map_chunks(
    worker: type,
    arguments: dict[str, Any],
    chunks: Sequence[Chunk],
    options: ActorOptions,
    *,
    lose_failed: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield what actors of class `worker`, made with `arguments`, return for each chunk.

    Results come as chunks are finished, in any order. A lost actor is replaced, and its chunk given
    to another, several times. An exception in one, or a chunk that no actor survives, ends the
    run, or with `lose_failed` has no result.
    """
    room, limit = _room(options)
    initial, greatest = num_actors(options.max_actors, options.min_actors, room, limit, len(chunks))
    rows = ray.data.from_items(
        [chunk.to_row() for chunk in chunks], override_num_blocks=len(chunks)
    )
    # A block is one chunk's result, so that no other's is lost with it.
    rows.context.max_errored_blocks = -1 if lose_failed else 0
    # Busy with one chunk each is as busy as actors get, so the pool must grow before twice that.
    # In this dataset's own context: the process's is not looked at any more.
    rows.context.autoscaling_config.actor_pool_util_upscaling_threshold = GROW_ABOVE_BUSY
    pool = ActorPoolStrategy(
        min_size=options.min_actors,
        max_size=greatest,
        initial_size=initial,
        # A chunk takes minutes: one that waited behind another would leave an actor idle.
        max_tasks_in_flight_per_actor=1,
    )
    with warnings.catch_warnings():
        # Ray means to drop `max_task_retries` here in 2.64, and has nothing in its place yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        results = rows.map(
            worker,
            fn_constructor_kwargs=arguments,
            compute=pool,
            num_cpus=options.cpus_per_actor,
            num_gpus=options.gpus_per_actor or None,
            max_task_retries=MAX_CHUNK_RETRIES,
        )
    yield from results.iter_rows()


def _room(options: ActorOptions) -> tuple[int, int]:
    """Return how many actors fit on the nodes that are there, and how many the cluster may hold.

    Raises InputError where not even the least number can ever be placed.
    """
    nodes = node_resources()
    room = limit = sum(_fitting(options, node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
    num_cpus, num_gpus = num_cluster("CPU"), num_cluster("GPU")
    if num_cpus > sum(node.get("CPU", 0) for node in nodes):  # the cluster can grow
        limit = max(room, _fitting(options, num_cpus, num_gpus))
    if limit < options.min_actors:
        raise InputError(
            f"{options.min_actors} actors of {options.cpus_per_actor} CPUs and "
            f"{options.gpus_per_actor:g} GPUs do not fit on the cluster's nodes, which have "
            f"{num_cpus:g} CPUs and {num_gpus:g} GPUs in all; lower --min-actors, "
            "--cpus-per-actor or --gpus-per-actor."
        )
    return room, limit


def _fitting(options: ActorOptions, num_cpus: float, num_gpus: float) -> int:
    room = int(num_cpus // options.cpus_per_actor)
    return min(room, int(num_gpus / options.gpus_per_actor)) if options.gpus_per_actor else room
