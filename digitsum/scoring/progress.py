"""Progress of a scoring run: a live line at a terminal, lines in a log, metrics for Prometheus."""

from __future__ import annotations

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn
from rich.progress import Progress as Bar

from digitsum.console import duration
from digitsum.scoring.results import ChunkResult

FIRST_LINE_S = 10.0
MAX_INTERVAL_S = 300.0
_MIN_COLUMNS_OF_BAR = 110
# A night's log has some tens of lines, and those of the first minutes are close together.
_GROWTH = 1.2
_BATCH_BOUNDS_S = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
_CHUNK_BOUNDS_S = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]


class BusyActors:
    """An estimate of the number of actors at work, from the chunks that come back.

    Each has one chunk at a time, so a busy one returns a chunk within the time of the longest;
    twice that is allowed, because chunks vary.
    """

    def __init__(self, now: float) -> None:
        self._started = now
        self._longest_s = 0.0
        self._last_seen: dict[str, float] = {}

    def record(self, actor: str, seconds: float, now: float) -> None:
        """Record that an actor has finished a chunk, which took it so long."""
        self._longest_s = max(self._longest_s, seconds)
        self._last_seen[actor] = now

    def number(self, now: float) -> int | None:
        """Return how many are at work; None while it is too early to say."""
        allowed_s = 2 * self._longest_s
        if not self._last_seen or now - self._started < allowed_s:
            return None
        return sum(now - seen <= allowed_s for seen in self._last_seen.values())


class Progress:
    """A context that writes to stderr how much is done, how fast, rejected, and the time left.

    The rate is the mean since the start, so the start-up of the first chunks fades as the run goes
    on. The live line disappears when the context ends.
    """

    def __init__(self, num_images: int, num_chunks: int) -> None:
        self._num_images, self._num_chunks = num_images, num_chunks
        self._num_done = self._num_rejected = self._num_chunks_done = 0
        self._started = self._last_line = time.monotonic()
        self._busy = BusyActors(self._started)
        self._interval_s = FIRST_LINE_S
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal:
            columns: list[ProgressColumn] = [TextColumn("{task.description}")]
            if console.width >= _MIN_COLUMNS_OF_BAR:
                columns = [BarColumn(), *columns]
            self._bar = Bar(*columns, console=console, transient=True)
            self._task = self._bar.add_task("starting", total=num_images)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, result: ChunkResult) -> None:
        """Count a chunk as done."""
        self._num_done += result.chunk.num_rows
        self._num_rejected += result.num_rejected
        self._num_chunks_done += 1
        now = time.monotonic()
        if result.worker:
            self._busy.record(result.worker, result.elapsed_s, now)
        if self._bar is not None:
            line = self._short_line(now)
            self._bar.update(self._task, completed=self._num_done, description=line)
        elif now - self._last_line >= self._interval_s:
            self._last_line = now
            self._interval_s = min(MAX_INTERVAL_S, _GROWTH * self._interval_s)
            sys.stderr.write(f"{self._line(now)}\n")

    def _pace(self, now: float) -> tuple[float, str]:
        """Return images/s, and how long the rest takes."""
        rate = self._num_done / max(now - self._started, 1e-9)
        return rate, duration((self._num_images - self._num_done) / rate if rate else 0.0)

    def _actors(self, now: float) -> str:
        number = self._busy.number(now)
        return "" if number is None else f"{number:,} actors busy, "

    def _line(self, now: float) -> str:
        rate, left = self._pace(now)
        return (
            f"{self._num_done:,} of {self._num_images:,} images, {rate:,.0f} images/s, "
            f"{self._num_rejected:,} rejected, {self._num_chunks_done:,} of {self._num_chunks:,} "
            f"chunks, {self._actors(now)}about {left} left"
        )

    def _short_line(self, now: float) -> str:
        """Return what fits a narrow terminal."""
        rate, left = self._pace(now)
        return (
            f"{self._num_done / self._num_images:.0%} of {self._num_images:,} images, "
            f"{rate:,.0f}/s, {self._num_rejected:,} rejected, {self._actors(now)}{left} left"
        )


class RunMetrics:
    """The metrics of one run on Ray, each with its id as the label `run`; docs/monitoring.md."""

    def __init__(self, run: str, batch_size: int) -> None:
        from ray.util.metrics import Counter, Histogram  # importing Ray takes a second

        self._batch_size = batch_size
        tags = {"tag_keys": ("run",)}
        self._scored = Counter("digitsum_images_scored", "Images with a sum.", **tags)
        self._rejected = Counter("digitsum_images_rejected", "Images without a sum.", **tags)
        self._chunks = Counter("digitsum_chunks", "Chunks that are done.", **tags)
        self._batch_s = Histogram(
            "digitsum_batch_seconds", "Network, mean of a chunk's batches.", _BATCH_BOUNDS_S, **tags
        )
        self._chunk_s = Histogram("digitsum_chunk_seconds", "Whole chunk.", _CHUNK_BOUNDS_S, **tags)
        metrics = (self._scored, self._rejected, self._chunks, self._batch_s, self._chunk_s)
        for metric in metrics:
            metric.set_default_tags({"run": run})

    def record(self, result: ChunkResult) -> None:
        """Count a chunk that came back."""
        if result.num_scored:  # counters take no zero
            self._scored.inc(result.num_scored)
            num_batches = -(-result.chunk.num_rows // self._batch_size)
            self._batch_s.observe(result.forward_s / num_batches)
        if result.num_rejected:
            self._rejected.inc(result.num_rejected)
        self._chunks.inc()
        self._chunk_s.observe(result.elapsed_s)
