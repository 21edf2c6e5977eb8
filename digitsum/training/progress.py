"""How far a training run has come: what step size, distortion and pull follow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from digitsum.console import duration

SAY_EVERY_S = 60.0

Item = TypeVar("Item")


class EpochProgress:
    """Counts the images of one epoch, of all workers together.

    `epoch` is from 1, `epoch_images` what an epoch has; each worker counts its own images, and
    takes the others to be as far.
    """

    def __init__(self, epoch: int, epochs: int, epoch_images: int, workers: int) -> None:
        self._epoch, self._epochs = epoch, epochs
        self._before = (epoch - 1) * epoch_images
        self._all = epochs * epoch_images
        self._workers = workers
        self._seen = 0
        self._started = self._said = time.monotonic()
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
        """Count a worker's images as seen."""
        self._seen += num_images

    def due(self) -> str | None:
        """Return, once a minute, how far the training is and how long it takes; None else."""
        now = time.monotonic()
        if now - self._said < SAY_EVERY_S:
            return None
        self._said = now
        seen = self._seen * self._workers
        rate = seen / (now - self._started)
        left = self._all - self._before - seen
        return (
            f"epoch {self._epoch} of {self._epochs}, {self.fraction:.0%} of the training: "
            f"{rate:,.0f} images/s, about {duration(left / rate)} left"
        )

    @property
    def num_seen(self) -> int:
        """Images seen since training began."""
        return self._before + self._seen * self._workers

    def fraction_after(self, num_images: int) -> float:
        """Part of the whole training, 0..1, that is done when a worker has seen so many images."""
        return min(1.0, (self._before + num_images * self._workers) / self._all)

    @property
    def fraction(self) -> float:
        """Part of the whole training that is done, 0..1."""
        return self.fraction_after(self._seen)
