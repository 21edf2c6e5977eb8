"""Chunks through threads of this process: for few images, where Ray's start is not worth its time.

The network and the reading of Parquet leave Python's lock alone while they work, so threads share
out the cores as well as processes do. One network computes for all, a batch on each core, and there
is a chunk more in hand than there would be actors, if there are so many: while one is opened or
committed, the cores have the others.
What threads lack is Ray's care: where the process dies, the run does, and is to be run again.
"""

from __future__ import annotations

import copy
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

import joblib

from digitsum.archive.chunks import Chunk
from digitsum.console import printable, printable_lines
from digitsum.errors import DigitsumError, InputError
from digitsum.scoring.config import ActorOptions


def map_chunks_in_threads(
    worker: type,
    arguments: dict[str, Any],
    chunks: Sequence[Chunk],
    options: ActorOptions,
    *,
    lose_failed: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield what workers, made with `arguments`, return for each chunk, as they are finished.

    Each thread has a copy of one worker, and all of them its predictor. A DigitsumError ends the
    run; so does any other exception, or, with `lose_failed`, its chunk has no result.
    """
    # As the process may use, by its affinity and its container's quota.
    num_threads, num_cores = share_out(joblib.cpu_count(), options, len(chunks))
    made = worker(**{**arguments, "actors": replace(options, cpus_per_actor=num_cores)})
    own = threading.local()

    def work(chunk: Chunk) -> dict[str, Any] | None:
        if not hasattr(own, "worker"):
            own.worker = copy.copy(made)
        try:
            result: dict[str, Any] = own.worker(chunk.to_row())
            return result
        except DigitsumError:
            raise
        except Exception:
            if not lose_failed:
                raise
            said = printable_lines(traceback.format_exc())
            sys.stderr.write(f"{printable(chunk.shard)}: a chunk failed:\n{said}")
            return None

    with ThreadPoolExecutor(num_threads, thread_name_prefix="score") as threads:
        futures = [threads.submit(work, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                result = future.result()
                if result is not None:
                    yield result
        finally:
            for future in futures:
                future.cancel()


def share_out(num_cores: int, options: ActorOptions, num_chunks: int) -> tuple[int, int]:
    """Return how many threads have a chunk each, and on how many cores all compute together.

    Raises InputError where there are fewer cores than one actor would have.
    """
    if options.cpus_per_actor > num_cores:
        raise InputError(
            f"--cpus-per-actor {options.cpus_per_actor}: this process may use {num_cores} cores; "
            "lower it."
        )
    if options.max_actors is not None:
        num_cores = min(num_cores, options.max_actors * options.cpus_per_actor)
    return max(1, min(num_cores // options.cpus_per_actor + 1, num_chunks)), num_cores
