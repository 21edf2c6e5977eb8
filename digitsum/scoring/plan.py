"""The plan: which chunks of an archive are to be scored, compared with the parts that there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.score_parts import Part, part_directory, part_path
from digitsum.archive.shards import Archive

Decided = Literal["new", "changed", "done"]

NOT_SCORED = "not scored yet"
ONLY_BY_OTHERS = "scored by another model only"
BYTES_CHANGED = "the shard's bytes changed, or how they are read"
BROKEN = "the part is broken, or of another format"
REJECTED_BEFORE = "rows were rejected"
UNCHANGED = "unchanged"
OTHER_ROWS = "the shard has other rows now, or is cut into other chunks"
SHARD_GONE = "the shard is gone"


@dataclass(frozen=True)
class Survey:
    """The shards of an archive, by whether a model can score them."""

    archive: Archive
    """The shards that can be read."""
    rejected: Mapping[str, str]
    """The others, by path below the archive, and why no image of them can be scored."""
    is_whole: bool = True
    """True if all of the archive was listed, and not one shard of it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision on a chunk, with its reason."""

    chunk: Chunk
    decided: Decided
    """new: it has no part. changed: it has one, which is replaced. done: it has its part."""
    reason: str
    num_rejected: int = 0
    """Rejected rows of the part that holds the chunk's scores, if there is one."""

    @property
    def has_scores(self) -> bool:
        """True if a part holds scores of these very bytes, also if it is to be replaced."""
        return self.decided == "done" or self.reason == REJECTED_BEFORE


@dataclass(frozen=True)
class ScorePlan:
    """Plan of a run: a pure function of archive, model and committed parts."""

    model_digest: str
    decisions: tuple[Decision, ...]
    """One for each chunk, in the archive's order."""
    gone: Mapping[str, str]
    """Parts, by path below the scores, of rows that the archive no longer has, and the reason; a
    run removes them at its end."""
    num_shards: int
    """Shards of the archive, those without images and the rejected ones included."""
    rejected: Mapping[str, str]
    """Shards that cannot be scored, and why. Their earlier parts stay."""

    def chunks(self, *decided: Decided) -> tuple[Chunk, ...]:
        """Return the chunks with one of these decisions."""
        return tuple(d.chunk for d in self.decisions if d.decided in decided)

    @property
    def to_score(self) -> tuple[Chunk, ...]:
        """Chunks to score: first those that have no part."""
        return self.chunks("new") + self.chunks("changed")

    @property
    def num_images(self) -> int:
        """Images of all chunks."""
        return sum(decision.chunk.num_rows for decision in self.decisions)

    @property
    def num_to_score(self) -> int:
        """Images of the chunks to score."""
        return sum(chunk.num_rows for chunk in self.to_score)

    def summary(self) -> PlanSummary:
        """Return how many chunks and images there are by decision and by reason."""
        planned = {decided: PlannedChunks() for decided in get_args(Decided)}
        for decision in self.decisions:
            total = planned[decision.decided]
            of_reason = total.reasons.setdefault(decision.reason, ChunkCount())
            for count in (total, of_reason):
                count.chunks += 1
                count.images += decision.chunk.num_rows
        return PlanSummary(
            model_digest=self.model_digest,
            new=planned["new"],
            changed=planned["changed"],
            done=planned["done"],
            gone=PlannedParts(len(self.gone), dict(Counter(self.gone.values()))),
            rejected=PlannedShards(len(self.rejected), dict(Counter(self.rejected.values()))),
        )


@dataclass
class ChunkCount:
    """Numbers of chunks, and of images in them."""

    chunks: int = 0
    images: int = 0


@dataclass
class PlannedChunks(ChunkCount):
    """The chunks of one decision, and of these by reason."""

    reasons: dict[str, ChunkCount] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedParts:
    """Parts to remove, and of these by reason."""

    parts: int
    reasons: dict[str, int]


@dataclass(frozen=True)
class PlannedShards:
    """Shards that cannot be scored, and of these by reason."""

    shards: int
    reasons: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """A plan in numbers, as `plan.json` and the manifest hold it."""

    model_digest: str
    new: PlannedChunks
    changed: PlannedChunks
    done: PlannedChunks
    gone: PlannedParts
    rejected: PlannedShards
    version: Literal[1] = 1

    def lines(self) -> list[str]:
        """Return a line for each decision, and one for each of its reasons."""
        lines = []
        for name in ("new", "changed", "done", "gone", "rejected"):
            counts: dict[str, Any] = asdict(getattr(self, name))
            reasons = counts.pop("reasons")
            lines.append(f"{name:10}{_columns(counts)}")
            for reason, count in reasons.items():
                of_reason = count if isinstance(count, dict) else {next(iter(counts)): count}
                lines.append(f"{'':10}{_columns(of_reason)}  {reason}")
        return lines


def _columns(counts: Mapping[str, int]) -> str:
    return "".join(f"{number:12,} {unit}" for unit, number in counts.items())


def plan_scores(
    survey: Survey,
    model_digest: str,
    chunk_images: int,
    committed: Mapping[str, Part | None],
    *,
    list_others: Callable[[], Container[str]] = frozenset,
    retry_rejected: bool = False,
) -> ScorePlan:
    """Compare an archive's chunks with what is committed for a model.

    `committed` maps the path of every part of this model to its description, or to None if it
    cannot be read. A chunk is done only if its part names this very chunk and model, and with
    `retry_rejected` only if none of its rows was rejected. `list_others` returns the paths, below a
    model's directory, of other models' parts; it is called once, if a chunk is new, and affects
    reasons only.
    """
    decisions = []
    num_known = 0
    others: Container[str] | None = None
    for shard in survey.archive.shards:
        for chunk in plan_chunks(shard, chunk_images):
            path = part_path(model_digest, chunk.id)
            if path in committed:
                num_known += 1
                decisions.append(_decide(chunk, model_digest, committed[path], retry_rejected))
            else:
                others = list_others() if others is None else others
                is_scored = path.partition("/")[2] in others
                reason = ONLY_BY_OTHERS if is_scored else NOT_SCORED
                decisions.append(Decision(chunk, "new", reason))
    gone = {}
    if num_known < len(committed):
        of_chunks = {part_path(model_digest, decision.chunk.id) for decision in decisions}
        gone = _find_gone(survey, model_digest, sorted(set(committed) - of_chunks))
    num_shards = len(survey.archive.shards) + len(survey.rejected)
    return ScorePlan(model_digest, tuple(decisions), gone, num_shards, survey.rejected)


def _decide(chunk: Chunk, model_digest: str, part: Part | None, retry_rejected: bool) -> Decision:
    if part is None:
        return Decision(chunk, "changed", BROKEN)
    if (part.model_digest, part.chunk) != (model_digest, chunk.id):
        return Decision(chunk, "changed", BYTES_CHANGED)
    if retry_rejected and part.num_rejected:
        return Decision(chunk, "changed", REJECTED_BEFORE, part.num_rejected)
    # One object for both: a million fingerprints take 100 MB.
    return Decision(replace(chunk, id=part.chunk), "done", UNCHANGED, part.num_rejected)


def _find_gone(survey: Survey, model_digest: str, paths: Sequence[str]) -> dict[str, str]:
    """Return those parts without a chunk whose rows are certainly gone, and why."""
    present = {part_directory(model_digest, shard.file.path) for shard in survey.archive.shards}
    unknown = {part_directory(model_digest, path) for path in survey.rejected}
    gone = {}
    for path in paths:
        directory = path.rpartition("/")[0]
        if directory in present:
            gone[path] = OTHER_ROWS
        elif survey.is_whole and directory not in unknown:
            gone[path] = SHARD_GONE
    return gone
