"""Chunks through threads of this process: for few images, if starting Ray is not worth its time.

The network and the reading of Parquet release Python's lock while they work, so threads share the
cores as well as processes do. One network computes for all, a batch on each core.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

import joblib

from digitsum.archive.chunks import Chunk
from digitsum.console import printable, printable_lines
from digitsum.errors import DigitsumError, InputError
from digitsum.scoring.config import ComputeOptions
from digitsum.scoring.executors.executor import Executor, LostChunk, Result

_log = logging.getLogger(__name__)


class ThreadsExecutor(Executor[Result]):
    """Maps chunks in threads, which share one worker."""

    def map(self, chunks: Sequence[Chunk]) -> Iterator[Result | LostChunk]:
        """Yield one result for each chunk, in the order in which they are finished."""
        # As many cores as the process may use, by its affinity and its container's quota.
        num_threads, num_cores = thread_counts(self._compute, joblib.cpu_count(), len(chunks))
        worker = self._make_worker(replace(self._compute, cpus_per_actor=num_cores))

        def work(chunk: Chunk) -> Result | LostChunk:
            try:
                return worker(chunk)
            except DigitsumError:
                raise
            except Exception:
                if not self._keep_going:
                    raise
                trace = printable_lines(traceback.format_exc())
                _log.error("%s: a chunk failed:\n%s", printable(str(chunk.id)), trace)
                return LostChunk(chunk)

        with ThreadPoolExecutor(num_threads, thread_name_prefix="score") as threads:
            futures = [threads.submit(work, chunk) for chunk in chunks]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()


def thread_counts(compute: ComputeOptions, num_cores: int, num_chunks: int) -> tuple[int, int]:
    """Return how many threads have a chunk each, and on how many cores they compute together.

    There is one thread more than there would be actors: while one opens or commits a chunk, the
    cores have the others. Raises InputError if there are fewer cores than one actor needs.
    """
    per_actor = compute.cpus_per_actor
    if per_actor > num_cores:
        message = f"this process may use {num_cores} cores; lower it."
        raise InputError(f"--cpus-per-actor {per_actor}: {message}")
    if compute.max_actors is not None:
        num_cores = min(num_cores, compute.max_actors * per_actor)
    return max(1, min(num_cores // per_actor + 1, num_chunks)), num_cores
