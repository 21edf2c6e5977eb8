"""How far a run is: one live line for a person at a terminal, a line now and then for a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn
from rich.progress import Progress as Bar

from digitsum.console import duration
from digitsum.scoring.results import ChunkResult

FIRST_LINE_S = 10.0
MOST_S_BETWEEN = 300.0
# Characters of a line that has room for a bar too.
_WIDE = 110
# So a night's log has some tens of lines, and those of the first minutes are close together.
_GROWTH = 1.2


class BusyActors:
    """Counts the actors at work, as far as can be told from the chunks that come back.

    Each has one chunk at a time, so that whoever is at work gives one back within the time of the
    longest; twice that is waited, for chunks vary.
    """

    def __init__(self, now: float) -> None:
        self._began = now
        self._longest_s = 0.0
        self._last_seen: dict[str, float] = {}

    def saw(self, actor: str, seconds: float, now: float) -> None:
        """Note that an actor has finished a chunk, which took it so long."""
        self._longest_s = max(self._longest_s, seconds)
        self._last_seen[actor] = now

    def number(self, now: float) -> int | None:
        """Return how many are at work; None while that cannot be told yet."""
        waited_s = 2 * self._longest_s
        if not self._last_seen or now - self._began < waited_s:
            return None
        return sum(now - seen <= waited_s for seen in self._last_seen.values())


class Progress:
    """Writes to stderr how much is done, how fast, how much was rejected, and how long it takes.

    The rate is that since the start, so that the first chunks' start-up fades as the run goes on.
    A context: the live line is gone when it ends.
    """

    def __init__(self, num_images: int, num_chunks: int) -> None:
        self._num_images, self._num_chunks = num_images, num_chunks
        self._num_done = self._num_rejected = self._chunks_done = 0
        self._started = self._written = time.monotonic()
        self._busy = BusyActors(self._started)
        self._interval_s = FIRST_LINE_S
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal:
            columns: list[ProgressColumn] = [TextColumn("{task.description}")]
            if console.width >= _WIDE:
                columns = [BarColumn(), *columns]
            self._bar = Bar(*columns, console=console, transient=True)
            self._task = self._bar.add_task("starting", total=num_images)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, result: ChunkResult) -> None:
        """Count a chunk as done."""
        self._num_done += result.chunk.num_rows
        self._num_rejected += result.num_rejected
        self._chunks_done += 1
        now = time.monotonic()
        if result.worker:
            self._busy.saw(result.worker, result.elapsed_s, now)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._num_done, description=self._briefly(now))
        elif now - self._written >= self._interval_s:
            self._written = now
            self._interval_s = min(MOST_S_BETWEEN, _GROWTH * self._interval_s)
            sys.stderr.write(f"{self._said(now)}\n")

    def _pace(self, now: float) -> tuple[float, str]:
        """Return images/s, and how long the rest takes."""
        rate = self._num_done / max(now - self._started, 1e-9)
        left_s = (self._num_images - self._num_done) / rate if rate else 0.0
        return rate, duration(left_s)

    def _actors(self, now: float) -> str:
        number = self._busy.number(now)
        return "" if number is None else f"{number:,} actors busy, "

    def _said(self, now: float) -> str:
        rate, left = self._pace(now)
        return (
            f"{self._num_done:,} of {self._num_images:,} images, {rate:,.0f} images/s, "
            f"{self._num_rejected:,} rejected, {self._chunks_done:,} of {self._num_chunks:,} "
            f"chunks, {self._actors(now)}about {left} left"
        )

    def _briefly(self, now: float) -> str:
        """Return what fits a narrow terminal."""
        rate, left = self._pace(now)
        return (
            f"{self._num_done / self._num_images:.0%} of {self._num_images:,} images, "
            f"{rate:,.0f}/s, {self._num_rejected:,} rejected, {self._actors(now)}{left} left"
        )
