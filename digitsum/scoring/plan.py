"""Deciding what is to be scored: the archive's chunks against the parts that are committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from digitsum.archive.location import Location
from digitsum.archive.scores import PartSource, part_path, part_source
from digitsum.archive.shards import Archive, Chunk, is_hidden, plan_chunks
from digitsum.errors import InputError
from digitsum.model.sum_network import SumNetwork


@dataclass(frozen=True)
class ScorePlan:
    """What a run will do; a pure function of archive, model and committed parts."""

    model_digest: str
    new: tuple[Chunk, ...]
    """Chunks without a part."""
    changed: tuple[Chunk, ...]
    """Chunks whose part is of other bytes, or broken; it is replaced."""
    done: tuple[Chunk, ...]
    """Chunks whose part is current; they are not scored again."""
    gone: tuple[str, ...]
    """Parts, below the scores, of rows that the archive has no more; they are removed."""

    @property
    def to_score(self) -> tuple[Chunk, ...]:
        """Chunks to score."""
        return self.new + self.changed

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the number of chunks and images by decision."""
        return {
            name: {"chunks": len(chunks), "images": sum(chunk.num_rows for chunk in chunks)}
            for name, chunks in (("new", self.new), ("changed", self.changed), ("done", self.done))
        } | {"gone": {"chunks": len(self.gone)}}


def plan_scores(
    archive: Archive,
    model_digest: str,
    chunk_images: int,
    committed: Mapping[str, PartSource | None],
) -> ScorePlan:
    """Compare an archive's chunks with what is committed for a model.

    `committed` maps the path of every part below the scores, of this model, to what it says it was
    scored from, or None where it cannot be read. Only a part that names the chunk's very source is
    counted as done.
    """
    new, changed, done = [], [], []
    planned: set[str] = set()
    for shard in archive.shards:
        for chunk in plan_chunks(shard, chunk_images):
            source = part_source(chunk, model_digest)
            path = part_path(source)
            planned.add(path)
            if path not in committed:
                new.append(chunk)
            elif committed[path] == source:
                done.append(chunk)
            else:
                changed.append(chunk)
    gone = tuple(sorted(set(committed) - planned))
    return ScorePlan(model_digest, tuple(new), tuple(changed), tuple(done), gone)


def check_shapes(archive: Archive, network: SumNetwork, num_digits: int | None) -> None:
    """Raise InputError, naming the shard, where images are not of a shape the model reads.

    Or where they cannot hold `num_digits` digits, if that is how many the model is told they hold.
    """
    for shard in archive.shards:
        network.check_shape(shard.shape, f"{archive.root.uri}: {shard.file.path}")
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
