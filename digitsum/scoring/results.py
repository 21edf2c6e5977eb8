"""What a scoring run came to: counted, and checked against what was there to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.shards import ListedFile, read_shard
from digitsum.errors import InputError, TooManyRejectedError
from digitsum.model.prediction_stats import Distributions
from digitsum.options import DEFAULT_SHAPE, ImageShape, ReadOptions
from digitsum.scoring.plan import ScorePlan
from digitsum.storage.location import Location

# 29% of 100 images is a little less than 29 of them in binary fractions.
_ROUNDING = 1e-6
_REMEDIES = {
    "the network": "more cores or GPUs would make it faster",
    "waiting for images": (
        "a nearer or faster store of the archive, or plain bytes for images, would make it faster"
    ),
    "writing scores": "a nearer or faster store of the scores would make it faster",
}


@dataclass(frozen=True)
class ScoredChunk:
    """What became of a chunk."""

    shard: str
    fingerprint: str
    """The shard's: which bytes were scored."""
    first_row: int
    num_rows: int
    num_rejected: int
    """Rows of the part without a sum; all rows where the chunk was rejected."""
    reason: str
    """Why the whole chunk was rejected, and has no part; empty where it has."""
    read_s: float
    forward_s: float
    write_s: float
    attempts: int
    """Times it was tried by the actor that finished it, where storage refused."""
    node: str
    """Name of the machine it was scored on."""
    predicted: Distributions
    """How what was predicted of its images is distributed."""
    backend: str = ""
    """What ran the network; empty where it was not run."""
    ended: float = 0.0
    """When, in seconds of Unix time by its node's clock; 0 where it was lost."""
    worker: str = ""
    """Which actor finished it; empty where it was lost."""
    cannot_write: bool = False
    """Whether it was not the chunk's fault: its part could not be written."""

    @property
    def key(self) -> tuple[str, int]:
        """Shard and first row, which name it among the chunks of one plan."""
        return self.shard, self.first_row

    @property
    def seconds(self) -> float:
        """How long its actor took for it."""
        return self.read_s + self.forward_s + self.write_s

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> ScoredChunk:
        """Return what `to_row` gave, from what Ray made of it."""
        given = {name: tuple(map(int, counts)) for name, counts in row["predicted"].items()}
        return ScoredChunk(**{**row, "predicted": Distributions(**given)})

    def to_row(self) -> dict[str, Any]:
        """Return it as a row of a Ray dataset."""
        return asdict(self) | {"predicted": self.predicted.to_json()}


@dataclass(frozen=True)
class Outcome:
    """A run's plan, what its actors said, and the plan that was made of what lay there after it."""

    plan: ScorePlan
    after: ScorePlan
    chunks: tuple[ScoredChunk, ...]
    seconds: float
    """From the first chunk given out to the last committed, the actors' start included."""

    @property
    def num_images(self) -> int:
        """Images that this run scored or rejected; not those that were done before."""
        return sum(chunk.num_rows for chunk in self.chunks)

    @property
    def num_rejected(self) -> int:
        """Those of them that were rejected."""
        return sum(chunk.num_rejected for chunk in self.chunks)

    @property
    def images_per_s(self) -> float:
        """Images a second; 0 where there was nothing to do."""
        return self.num_images / self.seconds if self.num_images else 0.0

    @property
    def bottleneck(self) -> str:
        """A sentence: what its workers spent their time on, and what would make it shorter.

        Images are read ahead, so that time for reading is what the network waited for them.
        """
        spent = {
            "the network": sum(chunk.forward_s for chunk in self.chunks),
            "waiting for images": sum(chunk.read_s for chunk in self.chunks),
            "writing scores": sum(chunk.write_s for chunk in self.chunks),
        }
        total = sum(spent.values())
        if not total:
            return "nothing was scored, and took no time"
        shares = sorted(((time / total, what) for what, time in spent.items()), reverse=True)
        said = ", ".join(f"{share:.0%} {what}" for share, what in shares)
        return f"{_REMEDIES[shares[0][1]]}: of the workers' {total:,.1f} s, {said}"

    @property
    def totals(self) -> dict[str, int]:
        """Images of the whole archive, by what has become of them in this run or before.

        `images` are those of the shards whose footers can be read; they are all either scored or
        rejected.
        """
        done = [decision for decision in self.after.decisions if decision.decided == "done"]
        rows_of_done = sum(decision.chunk.num_rows for decision in done)
        in_parts = sum(decision.num_rejected for decision in done)
        kept = {decision.chunk.key for decision in done}

        def lost(chunk: ScoredChunk) -> bool:
            # One that was tried again for its rejected rows keeps its part where it cannot be read.
            return bool(chunk.reason) and chunk.key not in kept

        return {
            "images": self.after.num_images,
            "scored": rows_of_done - in_parts,
            "rejected": in_parts + sum(chunk.num_rows for chunk in self.chunks if lost(chunk)),
            "rejected_shards": len(self.after.rejected),
            "shards": self.after.num_shards,
        }

    @property
    def predicted(self) -> Distributions:
        """How what this run predicted is distributed."""
        return sum((chunk.predicted for chunk in self.chunks), Distributions())

    def check_conserved(self) -> None:
        """Raise ValueError unless rows in = rows scored + rows rejected, in the run and in all."""
        planned = sum(chunk.num_rows for chunk in self.plan.to_score)
        came_back = [(chunk.shard, chunk.first_row, chunk.num_rows) for chunk in self.chunks]
        given_out = [(c.shard, c.first_row, c.num_rows) for c in self.plan.to_score]
        if sorted(came_back) != sorted(given_out):
            raise ValueError(
                f"{len(given_out)} chunks of {planned} images were given out, and not the same "
                f"{len(came_back)} came back"
            )
        totals = self.totals
        if self.num_images != planned or self.predicted.num_images + self.num_rejected != planned:
            raise ValueError(
                f"{planned} images were planned, but {self.predicted.num_images} scored and "
                f"{self.num_rejected} rejected"
            )
        if totals["scored"] + totals["rejected"] != totals["images"]:
            raise ValueError(f"images were lost or made: {totals}")

    def check_rejected(self, allowed: float) -> None:
        """Raise TooManyRejectedError where more than a fraction of images or shards was."""
        totals = self.totals
        for what, rejected, of in (
            ("images", totals["rejected"], totals["images"]),
            ("shards", totals["rejected_shards"], totals["shards"]),
        ):
            if rejected > allowed * of + _ROUNDING:
                raise TooManyRejectedError(
                    f"{rejected:,} of {of:,} {what} were rejected, more than the "
                    f"{100 * allowed:.4g}% that --max-rejected allows{self._first_reason()}; see "
                    "report.html below _runs/ for all, and mend or remove them. All else is "
                    "scored, but CURRENT was left as it was."
                )

    def _first_reason(self) -> str:
        """Return why the first shard or chunk was rejected as a whole, where one was."""
        reasons = [shard.reason for shard in self.after.rejected]
        reasons += [chunk.reason for chunk in self.chunks if chunk.reason]
        return f" ({reasons[0]})" if reasons else ""

    def to_json(self) -> dict[str, Any]:
        """Return the run's figures, as its manifest holds them."""
        return {
            "model_digest": self.plan.model_digest,
            "images": self.num_images,
            "rejected": self.num_rejected,
            "seconds": self.seconds,
            "images_per_s": self.images_per_s,
            "plan": self.plan.summary(),
            "totals": self.totals,
            "predicted": self.predicted.to_json(),
            "bottleneck": self.bottleneck,
        }

    def chunks_to_json(self) -> list[dict[str, Any]]:
        """Return what became of each chunk, in the archive's order."""
        chunks = [
            _without(asdict(chunk), "predicted", "worker", "cannot_write") for chunk in self.chunks
        ]
        return sorted(chunks, key=lambda chunk: (chunk["shard"], chunk["first_row"]))


def rejected_of(chunks: Sequence[ScoredChunk]) -> set[tuple[str, int]]:
    """Return the shard and first row of the chunks that were rejected as a whole."""
    return {chunk.key for chunk in chunks if chunk.reason}


def failed_chunk(chunk: Chunk, reason: str) -> ScoredChunk:
    """Return what became of a chunk of which no actor said anything."""
    rows, source = chunk.num_rows, chunk.fingerprint
    none = Distributions()
    return ScoredChunk(
        chunk.shard, source, chunk.first_row, rows, rows, reason, 0.0, 0.0, 0.0, 0, "", none
    )


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


def find_scored_chunk(
    archive: Location,
    shard: str,
    first_row: int,
    fingerprint: str,
    read: ReadOptions,
    chunk_images: int,
) -> Chunk:
    """Return a chunk that was scored, to be read again; reads its shard's footer.

    Raises InputError where the shard is gone, has changed, or was cut otherwise.
    """
    info = archive.join(shard).info()
    file = ListedFile(shard, info.size or 0, info.mtime_ns or 0)
    found = read_shard(archive, file, read, _shape_of(fingerprint))
    for chunk in plan_chunks(found, chunk_images):
        if (chunk.first_row, chunk.fingerprint) == (first_row, fingerprint):
            return chunk
    raise InputError(
        f"{archive.join(shard).uri}: was changed since it was scored, or is cut otherwise; give "
        "--chunk-images as when it was scored, or score it again."
    )


def _shape_of(fingerprint: str) -> ImageShape:
    """Return the shape of images that a fingerprint names, for shards that do not say theirs."""
    height, _, width = fingerprint.rpartition("shape=")[2].partition("x")
    if height.isdigit() and width.isdigit():
        return ImageShape(int(height), int(width))
    return DEFAULT_SHAPE
