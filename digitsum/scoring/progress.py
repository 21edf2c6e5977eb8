"""How far a run is, a line now and then."""

from __future__ import annotations

import sys
import time

INTERVAL_S = 10.0


class Progress:
    """Writes to stderr, at most every INTERVAL_S seconds, how much is done and how long it takes.

    The rate is that since the start, so that the first chunks' start-up fades as the run goes on.
    """

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._num_done = 0
        self._started = self._written = time.monotonic()

    def advance(self, num_images: int) -> None:
        """Count images as done."""
        self._num_done += num_images
        now = time.monotonic()
        if now - self._written < INTERVAL_S:
            return
        self._written = now
        rate = self._num_done / (now - self._started)
        left_s = (self._num_images - self._num_done) / rate
        sys.stderr.write(
            f"{self._num_done:,} of {self._num_images:,} images, {rate:,.0f} images/s, "
            f"about {left_s:,.0f} s left\n"
        )
