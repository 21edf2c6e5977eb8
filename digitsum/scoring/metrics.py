"""What a scoring run on Ray tells Prometheus, by way of the metrics endpoint of its driver's node.

| metric | kind | what it is |
|---|---|---|
| ray_digitsum_images_scored_total | counter | images with a sum |
| ray_digitsum_images_rejected_total | counter | images without one |
| ray_digitsum_chunks_total | counter | chunks that are done with |
| ray_digitsum_batch_seconds | histogram | mean seconds of the network for a batch of each chunk |
| ray_digitsum_chunk_seconds | histogram | seconds that a chunk took its actor |

All carry `run`, the run's id.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

from digitsum.scoring.results import ChunkResult

_BATCH_BOUNDS_S = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
_CHUNK_BOUNDS_S = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]


class RunMetrics:
    """The metrics of one run."""

    def __init__(self, run: str, batch_size: int) -> None:
        self._batch_size = batch_size
        tags = {"tag_keys": ("run",)}
        self._scored = Counter("digitsum_images_scored", "Images with a sum.", **tags)
        self._rejected = Counter("digitsum_images_rejected", "Images without a sum.", **tags)
        self._chunks = Counter("digitsum_chunks", "Chunks that are done with.", **tags)
        self._batch_s = Histogram(
            "digitsum_batch_seconds", "Network, mean of a chunk's batches.", _BATCH_BOUNDS_S, **tags
        )
        self._chunk_s = Histogram("digitsum_chunk_seconds", "Whole chunk.", _CHUNK_BOUNDS_S, **tags)
        metrics = (self._scored, self._rejected, self._chunks, self._batch_s, self._chunk_s)
        for metric in metrics:
            metric.set_default_tags({"run": run})

    def record(self, result: ChunkResult) -> None:
        """Count a chunk that came back."""
        # Counters take no zero.
        if result.num_scored:
            self._scored.inc(result.num_scored)
            num_batches = -(-result.chunk.num_rows // self._batch_size)
            self._batch_s.observe(result.forward_s / num_batches)
        if result.num_rejected:
            self._rejected.inc(result.num_rejected)
        self._chunks.inc()
        self._chunk_s.observe(result.elapsed_s)
