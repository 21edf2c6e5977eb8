"""Deciding what is to be scored: the archive's chunks against the parts that are committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.score_parts import Part, PartSource, part_directory, part_path, part_source
from digitsum.archive.shards import Archive, Shard
from digitsum.errors import InputError
from digitsum.model.network import SumNetwork
from digitsum.storage.listing import is_hidden
from digitsum.storage.location import Location


@dataclass(frozen=True)
class RejectedShard:
    """A shard of which no image can be scored."""

    path: str
    """Relative to the archive."""
    reason: str


@dataclass(frozen=True)
class Survey:
    """What of an archive can be scored."""

    archive: Archive
    """Of the shards that can be read."""
    rejected: tuple[RejectedShard, ...] = ()
    """The others, by path."""
    whole: bool = True
    """Whether all of the archive was looked at, and not one shard of it."""


Decided = Literal["new", "changed", "done"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of a chunk, and why."""

    chunk: Chunk
    decided: Decided
    """new: it has no part. changed: it has one, which is replaced. done: it has its part."""
    reason: str
    num_rejected: int = 0
    """Rows of the part, where it is done, that were rejected."""


@dataclass(frozen=True)
class ScorePlan:
    """What a run will do; a pure function of archive, model and committed parts."""

    model_digest: str
    decisions: tuple[Decision, ...]
    """One for each chunk, in the archive's order."""
    gone: Mapping[str, str]
    """Parts, below the scores, of rows that the archive has no more, to the reason; they are
    removed when the run is complete."""
    num_shards: int
    """Shards of the archive, those without images and those that are rejected among them."""
    rejected: tuple[RejectedShard, ...] = ()
    """Shards that cannot be scored. Parts of what they were before are left where they are."""

    def chunks(self, *decided: Decided) -> tuple[Chunk, ...]:
        """Return the chunks on which it was so decided."""
        return tuple(d.chunk for d in self.decisions if d.decided in decided)

    @property
    def to_score(self) -> tuple[Chunk, ...]:
        """Chunks to score: first those that have no part."""
        return self.chunks("new") + self.chunks("changed")

    @property
    def num_images(self) -> int:
        """Images of all chunks."""
        return sum(decision.chunk.num_rows for decision in self.decisions)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return how many chunks and images there are by decision, and of these by reason."""
        found: dict[str, dict[str, Any]] = {
            decided: {"chunks": 0, "images": 0, "reasons": {}} for decided in get_args(Decided)
        }
        for decision in self.decisions:
            total = found[decision.decided]
            reason = total["reasons"].setdefault(decision.reason, {"chunks": 0, "images": 0})
            for counts in (total, reason):
                counts["chunks"] += 1
                counts["images"] += decision.chunk.num_rows
        found["gone"] = {"chunks": len(self.gone), "reasons": _counted(self.gone.values())}
        reasons = [shard.reason for shard in self.rejected]
        found["rejected"] = {"shards": len(reasons), "reasons": _counted(reasons, "shards")}
        return found


def plan_scores(
    survey: Survey,
    model_digest: str,
    chunk_images: int,
    committed: Mapping[str, Part | None],
    *,
    by_other_models: Container[str] = frozenset(),
    retry_rejected: bool = False,
) -> ScorePlan:
    """Compare an archive's chunks with what is committed for a model.

    `committed` maps the path of every part below the scores, of this model, to what it says of
    itself, or None where it cannot be read. Only a part that names the chunk's very source is
    counted as done, and with `retry_rejected` only if none of its rows was rejected.
    `by_other_models` holds the paths, below a model's directory, of other models' parts; they
    bear on reasons only.
    """
    decisions = []
    num_known = 0
    for shard in survey.archive.shards:
        for chunk in plan_chunks(shard, chunk_images):
            source = part_source(chunk, model_digest)
            path = part_path(source)
            if path in committed:
                num_known += 1
                decisions.append(_compared(chunk, source, committed[path], retry_rejected))
            else:
                scored = path.partition("/")[2] in by_other_models
                decisions.append(Decision(chunk, "new", ONLY_BY_OTHERS if scored else NOT_SCORED))
    gone = {}
    if num_known < len(committed):
        of_chunks = {part_path(part_source(d.chunk, model_digest)) for d in decisions}
        gone = _gone(survey, model_digest, sorted(set(committed) - of_chunks))
    num_shards = len(survey.archive.shards) + len(survey.rejected)
    return ScorePlan(model_digest, tuple(decisions), gone, num_shards, survey.rejected)


def _gone(survey: Survey, model_digest: str, paths: Sequence[str]) -> dict[str, str]:
    """Return those of the parts, which no chunk has, whose rows are gone for certain, and why."""
    present = {part_directory(model_digest, s.file.path) for s in survey.archive.shards}
    unknown = {part_directory(model_digest, shard.path) for shard in survey.rejected}
    gone = {}
    for path in paths:
        directory = path.rpartition("/")[0]
        if directory in present or (survey.whole and directory not in unknown):
            gone[path] = OTHER_ROWS if directory in present else SHARD_GONE
    return gone


NOT_SCORED = "not scored yet"
ONLY_BY_OTHERS = "scored by another model only"
BYTES_CHANGED = "the shard's bytes changed, or how they are read"
BROKEN = "the part is broken, or of another format"
REJECTED_BEFORE = "rows were rejected"
CURRENT = "current"
OTHER_ROWS = "the shard has other rows now, or is cut otherwise"
SHARD_GONE = "the shard is gone"


def _compared(
    chunk: Chunk, source: PartSource, part: Part | None, retry_rejected: bool
) -> Decision:
    if part is None:
        return Decision(chunk, "changed", BROKEN)
    if part.source != source:
        return Decision(chunk, "changed", BYTES_CHANGED)
    if retry_rejected and part.num_rejected:
        return Decision(chunk, "changed", REJECTED_BEFORE)
    # One string for both: of a million shards, those of chunks are 170 MB.
    chunk = replace(chunk, fingerprint=part.source.fingerprint)
    return Decision(chunk, "done", CURRENT, part.num_rejected)


def _counted(reasons: Iterable[str], what: str = "chunks") -> dict[str, dict[str, int]]:
    return {reason: {what: number} for reason, number in Counter(reasons).items()}


def check_shape(root: Location, shard: Shard, network: SumNetwork, num_digits: int | None) -> None:
    """Raise InputError, naming the shard, where its images are not of a shape the model reads.

    Or where they cannot hold `num_digits` digits, if that is how many the model is told they hold.
    """
    network.check_shape(shard.shape, root.join(shard.file.path).uri)
    if num_digits is not None:
        network.check_num_digits(num_digits, shard.shape)


def check_apart(archive: Location, scores: Location) -> None:
    """Raise InputError where scores would be written among the shards, and later read as such."""
    relative = f"{scores.path}/".removeprefix(f"{archive.path.rstrip('/')}/").rstrip("/")
    below = type(scores.filesystem) is type(archive.filesystem) and relative != scores.path
    if below and not is_hidden(relative):
        raise InputError(
            f"{scores.uri}: lies within the archive {archive.uri}, where the scores would be taken "
            "for shards; give --scores a place beside it, or a name that begins with '_'."
        )


def num_actors(
    wanted: int | None, min_actors: int, room: int, limit: int, num_chunks: int
) -> tuple[int, int]:
    """Return how many actors a pool begins with and how many it may grow to.

    `room` is how many the cluster's nodes have space for now, `limit` how many once the cluster
    has grown; the pool begins with what fits. No actor is started that could have no chunk.
    """
    greatest = max(min(wanted if wanted is not None else limit, num_chunks), min_actors)
    return max(min_actors, min(room, greatest)), greatest
