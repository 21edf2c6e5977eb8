"""Asking a file system again where its refusal may pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from digitsum.errors import StorageError

ATTEMPTS = 8
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 20.0

T = TypeVar("T")


def retried(function: Callable[[], T]) -> T:
    """Return what `function` returns, calling it up to eight times while it raises StorageError.

    The waits between double from half a second on, with some chance in them, so that many actors
    do not come back at once; together they are about a minute. The last error is raised.
    """
    attempts = Retrying(
        retry=retry_if_exception_type(StorageError),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential_jitter(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
        reraise=True,
    )
    return attempts(function)
