"""Iterators that work ahead: threads make the next items while the last one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")
_END = object()


def prefetched(
    items: Iterator[Given], initializer: Callable[[], object] | None = None
) -> Iterator[Given]:
    """Yield the items; a thread makes the next item while the last one is in use.

    `initializer` is called once in that thread. An exception is raised after the items that came
    before it.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read", initializer=initializer) as thread:
        ahead = thread.submit(next, items, _END)
        try:
            while (item := ahead.result()) is not _END:
                ahead = thread.submit(next, items, _END)
                yield item  # type: ignore[misc]
        finally:
            # The frame of a raised error refers to this future, and it to the images.
            del ahead


def mapped_ahead(
    function: Callable[[Given], Made], items: Iterable[Given], num_threads: int
) -> Iterator[Made]:
    """Yield `function(item)` of each item, in order; each thread works one item ahead.

    An exception is raised after the results that came before it.
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
            for future in ahead:
                future.cancel()
            ahead.clear()  # as in `prefetched`
