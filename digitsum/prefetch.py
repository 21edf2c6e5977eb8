"""Reading ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
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
