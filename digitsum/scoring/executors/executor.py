"""The executor, which carries chunks to workers, each of which holds the model.

A worker is a function from a chunk to a result, made by a picklable `MakeWorker`: one for each
actor, or one that all threads call at the same time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from digitsum.archive.chunks import Chunk
from digitsum.scoring.config import ComputeOptions

Result = TypeVar("Result")
Worker = Callable[[Chunk], Result]
MakeWorker = Callable[[ComputeOptions], Worker[Result]]


@dataclass(frozen=True)
class LostChunk:
    """A chunk without a result: its worker failed or was lost, as often as it was tried."""

    chunk: Chunk


class Executor(ABC, Generic[Result]):
    """Carries chunks to workers on the cores or GPUs that `compute` asks for.

    A DigitsumError in a worker ends the run. Any other failure does too, unless `keep_going`: then
    its chunk comes back as a LostChunk.
    """

    def __init__(
        self, make_worker: MakeWorker[Result], compute: ComputeOptions, *, keep_going: bool
    ) -> None:
        self._make_worker = make_worker
        self._compute = compute
        self._keep_going = keep_going

    @abstractmethod
    def map(self, chunks: Sequence[Chunk]) -> Iterator[Result | LostChunk]:
        """Yield one result for each chunk, in the order in which they are finished."""


def pool_size(compute: ComputeOptions, room: int, limit: int, num_chunks: int) -> tuple[int, int]:
    """Return how many actors a pool begins with, and how many it may grow to.

    `room` is how many the cluster's nodes have space for now, `limit` how many once the cluster has
    grown; the pool begins with what fits. No actor is started that could not have a chunk.
    """
    wanted = compute.max_actors if compute.max_actors is not None else limit
    largest = max(min(wanted, num_chunks), compute.min_actors)
    return max(compute.min_actors, min(room, largest)), largest
