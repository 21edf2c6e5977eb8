"""Progress of a scoring run: a live line at a terminal, lines in a log, metrics for Prometheus."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

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


class Progress:
    """A context that writes to stderr how much is done, how fast, rejected, and the time left.

    The rate is the mean since the start. The live line disappears when the context ends.
    """

    def __init__(self, num_images: int, num_chunks: int) -> None:
        self._num_images, self._num_chunks = num_images, num_chunks
        self._num_done = self._num_rejected = self._num_chunks_done = 0
        self._started = self._last_line = time.monotonic()
        self._longest_chunk_s = 0.0
        self._last_seen: dict[str, float] = {}
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
            self._longest_chunk_s = max(self._longest_chunk_s, result.elapsed_s)
            self._last_seen[result.worker] = now
        if self._bar is not None:
            line = self._line(now, is_short=True)
            self._bar.update(self._task, completed=self._num_done, description=line)
        elif now - self._last_line >= self._interval_s:
            self._last_line = now
            self._interval_s = min(MAX_INTERVAL_S, _GROWTH * self._interval_s)
            sys.stderr.write(f"{self._line(now, is_short=False)}\n")

    def _actors(self, now: float) -> str:
        """Return about how many actors are busy, or nothing while it is too early to say.

        Each has one chunk at a time, so a busy one returns a chunk within the time of the longest;
        twice that is allowed, because chunks vary.
        """
        allowed_s = 2 * self._longest_chunk_s
        if not self._last_seen or now - self._started < allowed_s:
            return ""
        num_busy = sum(now - seen <= allowed_s for seen in self._last_seen.values())
        return f"{num_busy:,} actors busy, "

    def _line(self, now: float, *, is_short: bool) -> str:
        """Return how far the run is; if `is_short`, in what fits a narrow terminal."""
        rate = self._num_done / max(now - self._started, 1e-9)
        left = duration((self._num_images - self._num_done) / rate if rate else 0.0)
        if is_short:
            return (
                f"{self._num_done / self._num_images:.0%} of {self._num_images:,} images, "
                f"{rate:,.0f}/s, {self._num_rejected:,} rejected, {self._actors(now)}{left} left"
            )
        return (
            f"{self._num_done:,} of {self._num_images:,} images, {rate:,.0f} images/s, "
            f"{self._num_rejected:,} rejected, {self._num_chunks_done:,} of {self._num_chunks:,} "
            f"chunks, {self._actors(now)}about {left} left"
        )


class RunMetrics:
    """The metrics of one run on Ray, each with its id as the label `run`; docs/monitoring.md."""

    def __init__(self, run: str, batch_size: int) -> None:
        from ray.util.metrics import Counter, Histogram  # importing Ray takes a second

        self._batch_size = batch_size

        def metric(kind: type, name: str, description: str, *bounds: list[float]) -> Any:
            made = kind(f"digitsum_{name}", description, *bounds, tag_keys=("run",))
            return made.set_default_tags({"run": run})

        self._scored = metric(Counter, "images_scored", "Images with a sum.")
        self._rejected = metric(Counter, "images_rejected", "Images without a sum.")
        self._chunks = metric(Counter, "chunks", "Chunks that are done.")
        about_batches = "Network, mean of a chunk's batches."
        self._batch_s = metric(Histogram, "batch_seconds", about_batches, _BATCH_BOUNDS_S)
        self._chunk_s = metric(Histogram, "chunk_seconds", "Whole chunk.", _CHUNK_BOUNDS_S)

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
