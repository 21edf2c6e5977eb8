"""Retries: which failure is tried again how often, by whom.

| failure                      | tried                      | by                                  |
|------------------------------|----------------------------|-------------------------------------|
| a file system fails for now  | STORAGE_ATTEMPTS times     | `retried`, around reads, listings,  |
| (StorageError)               | within a minute            | commits and publications            |
| an actor or its node dies    | MAX_CHUNK_RETRIES times    | Ray, for each task of               |
| while it scores a chunk      | more                       | `scoring.executors.ray_data`        |
| a chunk cannot be read or    | in CHUNK_PASSES passes; in | `scoring.score`; then the chunk is  |
| scored in spite of that      | 1 if an actor was lost     | rejected                            |
| a training worker dies       | MAX_TRAINING_FAILURES      | Ray Train, from the last checkpoint |
|                              | times more                 | (`train --max-failures`)            |
| anything else, such as a     | once                       | nobody: it is raised, or the row,   |
| damaged file or a bug        |                            | shard or chunk is rejected          |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from digitsum.errors import StorageError

STORAGE_ATTEMPTS = 8
MAX_CHUNK_RETRIES = 10
"""Enough for a dead node: Ray uses up several before it notices, once all of five. Ray's default,
for ever, would never end with a chunk that kills its actor each time."""
CHUNK_PASSES = 2
"""The second pass may find another node, or the fault gone."""
MAX_TRAINING_FAILURES = 3

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 20.0

Returned = TypeVar("Returned")


def retried(function: Callable[[], Returned]) -> Returned:
    """Return what `function` returns, calling it up to eight times while it raises StorageError.

    The waits double from half a second on, with random jitter so that many actors do not return
    at once; together they last about a minute. The last error is raised.
    """
    attempts = Retrying(
        retry=retry_if_exception_type(StorageError),
        stop=stop_after_attempt(STORAGE_ATTEMPTS),
        wait=wait_exponential_jitter(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
        reraise=True,
    )
    return attempts(function)
