"""Chunks through Ray Data: a pool of actors that hold the model.

Chunks go through Ray Data as descriptions of a few hundred bytes; each actor reads, scores and
commits its own, and a retry repeats all of that. Images that pass through Ray Data's operators to
the same actors are scored at two thirds of the rate (`make bench`, 2 cores).
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from digitsum.archive.chunks import Chunk
from digitsum.errors import DigitsumError, InputError
from digitsum.ray_runtime import cluster_capacity, node_resources
from digitsum.scoring.config import ComputeOptions
from digitsum.scoring.executors.executor import Executor, LostChunk, MakeWorker, Result, pool_size
from digitsum.storage.retries import MAX_CHUNK_RETRIES

# Fraction of the pool's actors that have a chunk.
_GROW_ABOVE_BUSY = 0.75


class RayDataExecutor(Executor[Result]):
    """Maps chunks by a pool of actors on the connected cluster, which replaces lost ones."""

    def map(self, chunks: Sequence[Chunk]) -> Iterator[Result | LostChunk]:
        """Yield one result for each chunk, in the order in which they are finished."""
        compute = self._compute
        initial, largest = pool_size(compute, *_room(compute), len(chunks))
        rows = ray.data.from_items(
            [{"chunk": pickle.dumps(chunk)} for chunk in chunks], override_num_blocks=len(chunks)
        )
        # A block is one chunk's result, so that no other's is lost with it.
        rows.context.max_errored_blocks = -1 if self._keep_going else 0
        # Busy with one chunk each is as busy as actors get, so the pool must grow before twice
        # that. Set in this dataset's own context: Ray no longer looks at the process's.
        rows.context.autoscaling_config.actor_pool_util_upscaling_threshold = _GROW_ABOVE_BUSY
        pool = ActorPoolStrategy(
            min_size=compute.min_actors,
            max_size=largest,
            initial_size=initial,
            # A chunk takes minutes: one that waited behind another would leave an actor idle.
            max_tasks_in_flight_per_actor=1,
        )
        with warnings.catch_warnings():
            # Ray plans to drop `max_task_retries` here in 2.64, and has no replacement yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            results = rows.map(
                _Actor,
                fn_constructor_kwargs={"make_worker": self._make_worker, "compute": compute},
                compute=pool,
                num_cpus=compute.cpus_per_actor,
                num_gpus=compute.gpus_per_actor or None,
                max_task_retries=MAX_CHUNK_RETRIES,
            )
        lost = {chunk.id: chunk for chunk in chunks}
        for row in results.iter_rows():
            chunk_id, result = pickle.loads(row["result"])
            if isinstance(result, DigitsumError):
                raise result
            lost.pop(chunk_id, None)
            yield result
        yield from map(LostChunk, lost.values())


class _Actor:
    """One worker; rows become chunks, and results rows, here and nowhere else."""

    def __init__(self, make_worker: MakeWorker[Any], compute: ComputeOptions) -> None:
        self._worker = make_worker(compute)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk: Chunk = pickle.loads(row["chunk"])
        try:
            result = self._worker(chunk)
        except DigitsumError as error:
            # Ray Data would drop it with the block if failed blocks are allowed.
            result = error
        # Bytes: Ray Data would try to make Arrow columns of the objects.
        return {"result": pickle.dumps((chunk.id, result))}


def _room(compute: ComputeOptions) -> tuple[int, int]:
    """Return how many actors fit on the nodes that are there, and how many the cluster may hold.

    Raises InputError if not even the smallest number can ever be placed.
    """
    nodes = [(node.get("CPU", 0), node.get("GPU", 0)) for node in node_resources()]
    room = limit = sum(_num_fitting(compute, *node) for node in nodes)
    num_cpus, num_gpus = cluster_capacity("CPU"), cluster_capacity("GPU")
    if num_cpus > sum(cpus for cpus, _ in nodes):  # the cluster can grow
        limit = max(room, _num_fitting(compute, num_cpus, num_gpus))
    if limit < compute.min_actors:
        raise InputError(
            f"{compute.min_actors} actors of {compute.cpus_per_actor} CPUs and "
            f"{compute.gpus_per_actor:g} GPUs do not fit on the cluster's nodes, which have "
            f"{num_cpus:g} CPUs and {num_gpus:g} GPUs in total; lower --min-actors, "
            "--cpus-per-actor or --gpus-per-actor."
        )
    return room, limit


def _num_fitting(compute: ComputeOptions, num_cpus: float, num_gpus: float) -> int:
    by_cpus = int(num_cpus // compute.cpus_per_actor)
    if not compute.gpus_per_actor:
        return by_cpus
    return min(by_cpus, int(num_gpus / compute.gpus_per_actor))
