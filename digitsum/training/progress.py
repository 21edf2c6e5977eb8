"""Progress of a training, which step size, distortion and pull follow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from digitsum.console import duration

LINE_EVERY_S = 60.0

Item = TypeVar("Item")


class EpochProgress:
    """Counts the images of one epoch, from 1, of all workers together.

    Each worker counts its own images and assumes that the others are as far.
    """

    def __init__(self, epoch: int, num_epochs: int, epoch_images: int, workers: int) -> None:
        self._epoch, self._num_epochs = epoch, num_epochs
        self._num_before = (epoch - 1) * epoch_images
        self._num_total = num_epochs * epoch_images
        self._workers = workers
        self._num_own = 0
        self._started = self._last_line = time.monotonic()
        self.waited_s = 0.0
        """Seconds that this worker waited for batches."""

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and count how long each was waited for."""
        iterator, end = iter(items), object()
        while True:
            started = time.perf_counter()
            item = next(iterator, end)
            self.waited_s += time.perf_counter() - started
            if item is end:
                return
            yield item  # type: ignore[misc]

    def advance(self, num_images: int) -> None:
        """Count images of this worker as seen."""
        self._num_own += num_images

    def line(self) -> str | None:
        """Return, once a minute, the progress and the time left; otherwise None."""
        now = time.monotonic()
        if now - self._last_line < LINE_EVERY_S:
            return None
        self._last_line = now
        num_seen = self._num_own * self._workers
        rate = num_seen / (now - self._started)
        num_left = self._num_total - self._num_before - num_seen
        return (
            f"epoch {self._epoch} of {self._num_epochs}, {self.fraction:.0%} of the training: "
            f"{rate:,.0f} images/s, about {duration(num_left / rate)} left"
        )

    @property
    def num_seen(self) -> int:
        """Images seen since the training began."""
        return self._num_before + self._num_own * self._workers

    def fraction_after(self, num_images: int) -> float:
        """Return the part of the training, 0..1, done once a worker has seen so many images."""
        return min(1.0, (self._num_before + num_images * self._workers) / self._num_total)

    @property
    def fraction(self) -> float:
        """Part of the training that is done, 0..1."""
        return self.fraction_after(self._num_own)
