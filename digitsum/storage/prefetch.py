"""Iterators that work ahead: threads make the next items while the last one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice, repeat, takewhile
from typing import Any, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")
_END: Any = object()


def prefetched(
    items: Iterator[Given], initializer: Callable[[], object] | None = None
) -> Iterator[Given]:
    """Yield the items; a thread makes the next item while the last one is in use.

    `initializer` is called once in that thread. An exception is raised after the items that came
    before it.
    """
    ahead = mapped_ahead(lambda items: next(items, _END), repeat(items), 1, initializer)
    with closing(ahead):
        yield from takewhile(lambda item: item is not _END, ahead)


def mapped_ahead(
    function: Callable[[Given], Made],
    items: Iterable[Given],
    num_threads: int,
    initializer: Callable[[], object] | None = None,
) -> Generator[Made, None, None]:
    """Yield `function(item)` of each item, in order; each thread works one item ahead.

    An exception is raised after the results that came before it.
    """
    left = iter(items)
    with ThreadPoolExecutor(num_threads, "read", initializer) as threads:
        ahead = deque(threads.submit(function, item) for item in islice(left, num_threads))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(threads.submit(function, item) for item in islice(left, 1))
                yield result
        finally:
            for future in ahead:
                future.cancel()
            ahead.clear()  # the frame of a raised error refers to it, and it to the images
