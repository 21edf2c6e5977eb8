"""Reading ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_END = object()


def prefetched(
    items: Iterator[Item], initializer: Callable[[], object] | None = None
) -> Iterator[Item]:
    """Yield the items; a thread makes the next one while the last one is in use.

    `initializer` is called once in that thread. An exception comes where it would have come
    without.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read", initializer=initializer) as thread:
        ahead = thread.submit(next, items, _END)
        try:
            while (item := ahead.result()) is not _END:
                ahead = thread.submit(next, items, _END)
                yield item  # type: ignore[misc]
        finally:
            # An error would hold this frame, and this frame the error, and with it the images.
            del ahead


def mapped_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Iterator[Result]:
    """Yield what the function makes of each item, in order; each thread is an item ahead.

    An exception comes where it would have come without.
    """
    left = iter(items)
    with ThreadPoolExecutor(num_threads, thread_name_prefix="read") as threads:
        ahead = deque(threads.submit(function, item) for item in islice(left, num_threads))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(threads.submit(function, item) for item in islice(left, 1))
                yield result
        finally:
            for waiting in ahead:
                waiting.cancel()
            # As above.
            ahead.clear()
