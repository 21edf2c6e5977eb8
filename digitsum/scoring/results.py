"""Results of a scoring run: of each chunk, counted, checked against the plan, and as recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from digitsum.archive.chunks import ChunkId
from digitsum.model.outputs import PredictionStats
from digitsum.scoring.drift import Shift
from digitsum.scoring.plan import PlanSummary, ScorePlan

# 29% of 100 images is a little less than 29 in binary fractions.
_ROUNDING = 1e-6
_REMEDIES = {
    "the network": "more cores or GPUs",
    "writing scores": "a nearer or faster store of the scores",
    "waiting for images": "a nearer or faster store of the archive, or plain bytes for images,",
}


@dataclass(frozen=True)
class ChunkResult:
    """Result of a chunk: scored, or rejected."""

    chunk: ChunkId
    num_rejected: int
    """Rows without a sum; all rows if the chunk was rejected."""
    reason: str = ""
    """Reason that the whole chunk was rejected; empty if it has a part."""
    read_s: float = 0.0
    """Seconds that the network waited for images: they are read ahead."""
    forward_s: float = 0.0
    write_s: float = 0.0
    attempts: int = 0
    """Times that it was read by the worker that finished it: storage may refuse."""
    node: str = ""
    """Name of the machine it was scored on."""
    predicted: PredictionStats = field(default_factory=PredictionStats)
    backend: str = ""
    """Library that ran the network; empty if it was not run."""
    ended: float = 0.0
    """Unix time, in seconds, by its node's clock; 0 if it was lost."""
    worker: str = ""
    """Worker that finished it; empty if it was lost."""

    @property
    def num_scored(self) -> int:
        """Rows with a sum."""
        return self.chunk.num_rows - self.num_rejected

    @property
    def elapsed_s(self) -> float:
        """Seconds that its worker took for it."""
        return self.read_s + self.forward_s + self.write_s

    @staticmethod
    def rejected(chunk: ChunkId, reason: str, **known: Any) -> ChunkResult:
        """Return the result of a chunk that was rejected as a whole."""
        return ChunkResult(chunk, chunk.num_rows, reason, **known)


@dataclass(frozen=True)
class Totals:
    """Numbers of a whole archive, by what became of it in this run or before."""

    images: int
    """Of the shards whose footers can be read; each is either scored or rejected."""
    scored: int
    rejected: int
    shards: int
    rejected_shards: int


@dataclass(frozen=True)
class ScoreCounts:
    """A run's plan and results, counted."""

    plan: ScorePlan
    results: tuple[ChunkResult, ...]
    elapsed_s: float
    """From the first chunk given out to the last committed, the workers' start included."""

    @property
    def num_images(self) -> int:
        """Images that this run scored or rejected, without those that were done before."""
        return sum(result.chunk.num_rows for result in self.results)

    @property
    def num_rejected(self) -> int:
        """Those of them that were rejected."""
        return sum(result.num_rejected for result in self.results)

    @property
    def images_per_s(self) -> float:
        """Images a second; 0 if there was nothing to do."""
        return self.num_images / self.elapsed_s if self.num_images else 0.0

    @property
    def predicted(self) -> PredictionStats:
        """Counts of this run's predictions."""
        return sum((result.predicted for result in self.results), PredictionStats())

    @property
    def totals(self) -> Totals:
        """Numbers of the whole archive after this run."""
        results = {result.chunk: result for result in self.results}
        num_rejected = 0
        for decision in self.plan.decisions:
            result = results.get(decision.chunk.id)
            # A part whose rejected rows were tried again stays if the chunk cannot be read now.
            if result is None or (result.reason and decision.has_scores):
                num_rejected += decision.num_rejected
            else:
                num_rejected += result.num_rejected
        images, shards = self.plan.num_images, self.plan.num_shards
        return Totals(images, images - num_rejected, num_rejected, shards, len(self.plan.rejected))

    @property
    def bottleneck(self) -> str:
        """A sentence: what the workers spent their time on, and what would make it shorter."""
        spent_s = {
            "the network": sum(result.forward_s for result in self.results),
            "waiting for images": sum(result.read_s for result in self.results),
            "writing scores": sum(result.write_s for result in self.results),
        }
        total_s = sum(spent_s.values())
        if not total_s:
            return "nothing was scored, and took no time"
        shares = sorted(((time / total_s, what) for what, time in spent_s.items()), reverse=True)
        listed = ", ".join(f"{share:.0%} {what}" for share, what in shares)
        remedy = f"{_REMEDIES[shares[0][1]]} would make it faster"
        return f"{remedy}: of the workers' {total_s:,.1f} s, {listed}"

    def check_conserved(self) -> None:
        """Raise ValueError unless every planned chunk has one result, and every row is counted."""
        planned = Counter(chunk.id for chunk in self.plan.to_score)
        if Counter(result.chunk for result in self.results) != planned:
            raise ValueError(
                f"{planned.total()} chunks were given out, and not the same {len(self.results)} "
                "came back"
            )
        if self.predicted.num_images + self.num_rejected != self.num_images:
            raise ValueError(
                f"{self.num_images} images were planned, but {self.predicted.num_images} scored "
                f"and {self.num_rejected} rejected"
            )

    def why_incomplete(self, allowed: float) -> str | None:
        """Return a sentence if more than a fraction of images or shards was rejected, else None."""
        totals = self.totals
        for what, num_rejected, number in (
            ("images", totals.rejected, totals.images),
            ("shards", totals.rejected_shards, totals.shards),
        ):
            if num_rejected > allowed * number + _ROUNDING:
                reasons = [*self.plan.rejected.values(), *(r.reason for r in self.results)]
                reason = next((f" ({reason})" for reason in reasons if reason), "")
                return (
                    f"{num_rejected:,} of {number:,} {what} were rejected, more than the "
                    f"{100 * allowed:.4g}% that --max-rejected allows{reason}; see report.html "
                    "below _runs/ for all, and fix or remove them. All else is scored, but CURRENT "
                    "was not changed."
                )
        return None


@dataclass(frozen=True, kw_only=True)
class ScoreOutcome:
    """Outcome of a scoring run, as its manifest records it."""

    scores: str
    archive: str
    model_digest: str
    complete: bool
    why_incomplete: str | None
    images: int
    """Images that this run scored or rejected."""
    rejected: int
    elapsed_s: float
    images_per_s: float
    bottleneck: str
    plan: PlanSummary
    totals: Totals
    predicted: PredictionStats
    reference: PredictionStats | None
    """The predictions on the images that the model was validated on."""
    shifts: tuple[Shift, ...]
    """Distances of the predictions from the reference."""
    rejected_shards: Mapping[str, str]
    """Shards that cannot be scored, and why."""
    chunks: tuple[ChunkResult, ...]
    version: Literal[1] = 1

    @staticmethod
    def of(
        counts: ScoreCounts,
        *,
        scores: str,
        archive: str,
        why_incomplete: str | None,
        reference: PredictionStats | None,
        shifts: Sequence[Shift],
    ) -> ScoreOutcome:
        """Return the record of a run's counts."""
        return ScoreOutcome(
            scores=scores,
            archive=archive,
            model_digest=counts.plan.model_digest,
            complete=why_incomplete is None,
            why_incomplete=why_incomplete,
            images=counts.num_images,
            rejected=counts.num_rejected,
            elapsed_s=counts.elapsed_s,
            images_per_s=counts.images_per_s,
            bottleneck=counts.bottleneck,
            plan=counts.plan.summary(),
            totals=counts.totals,
            predicted=counts.predicted,
            reference=reference,
            shifts=tuple(shifts),
            rejected_shards=counts.plan.rejected,
            # Without what is added up above: it would make the record five times as large.
            chunks=tuple(
                replace(result, predicted=PredictionStats(), worker="")
                for result in sorted(counts.results, key=_place)
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures, without the chunks, as one JSON object."""
        return {name: value for name, value in asdict(self).items() if name != "chunks"}


def _place(result: ChunkResult) -> tuple[str, int]:
    return result.chunk.shard, result.chunk.first_row
