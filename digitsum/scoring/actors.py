"""The pool of actors that hold the model, and the stream of chunks through it.

Chunks go through Ray Data as descriptions of a few hundred bytes; each actor reads, scores and
commits its own. No image passes through the object store, and a chunk's retry is a retry of
everything that belongs to it. There are no read tasks that actors could starve of CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from digitsum.archive.shards import Chunk
from digitsum.cluster import num_cluster
from digitsum.errors import InputError
from digitsum.model.bundle import Bundle
from digitsum.model.predictor import Predictor, TorchPredictor
from digitsum.scoring.config import ActorOptions
from digitsum.scoring.plan import num_actors


def map_chunks(
    worker: type, arguments: dict[str, Any], chunks: Sequence[Chunk], options: ActorOptions
) -> Iterator[dict[str, Any]]:
    """Yield what actors of class `worker`, made with `arguments`, return for each chunk.

    Results come as chunks are finished, in any order. A lost actor is replaced, and its chunk given
    to another; an exception in one ends the run.
    """
    initial, greatest = num_actors(
        options.max_actors, options.min_actors, _room(options), len(chunks)
    )
    dataset = ray.data.from_items(
        [chunk.to_row() for chunk in chunks], override_num_blocks=len(chunks)
    ).map(
        worker,
        fn_constructor_kwargs=arguments,
        compute=ActorPoolStrategy(
            min_size=options.min_actors, max_size=greatest, initial_size=initial
        ),
        num_cpus=options.cpus_per_actor,
        num_gpus=options.gpus_per_actor or None,
    )
    yield from dataset.iter_rows()


def make_predictor(bundle: Bundle, options: ActorOptions) -> Predictor:
    """Return the predictor of an actor, on the GPU or the CPUs that were reserved for it."""
    return TorchPredictor(
        bundle,
        batch_size=options.batch_size,
        device="cuda" if options.gpus_per_actor else "cpu",
        num_threads=options.cpus_per_actor,
    )


def _room(options: ActorOptions) -> int:
    """Return how many actors the cluster has room for; raises InputError where it has for none."""
    room = int(num_cluster("CPU") // options.cpus_per_actor)
    if options.gpus_per_actor:
        room = min(room, int(num_cluster("GPU") / options.gpus_per_actor))
    if room < options.min_actors:
        raise InputError(
            f"{options.min_actors} actors of {options.cpus_per_actor} CPUs and "
            f"{options.gpus_per_actor:g} GPUs do not fit on a cluster of {num_cluster('CPU'):g} "
            f"CPUs and {num_cluster('GPU'):g} GPUs; lower --min-actors, --cpus-per-actor or "
            "--gpus-per-actor."
        )
    return room
