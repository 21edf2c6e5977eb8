"""An archive as it is trained on: labelled images, uint8, to each worker its share.

Each worker reads its own share, by threads, ahead of what it trains on. Which images it gets, and
in what order, follows from seed, epoch and rank alone, so that a run that was resumed is trained as
one that was never disturbed. Ray Data did this before: its tasks took 6 s to start at every epoch,
and began their orders anew where a run was resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from digitsum.archive.images import Uint8Array
from digitsum.archive.location import locate
from digitsum.archive.reading import Rows, read_chunk
from digitsum.archive.shards import Archive, Chunk, check_unchanged, plan_chunks
from digitsum.errors import InputError
from digitsum.prefetch import mapped_ahead
from digitsum.training.archives import TrainingArchives
from digitsum.training.config import TrainConfig
from digitsum.training.holdout import held_out

Part = Literal["all", "train", "validation"]
LabelledImages = tuple[Uint8Array, npt.NDArray[np.int64]]
"""Images, uint8 (n, height, width), and their sums, int64 (n,)."""

# A thread reads so many at a time; what a worker holds is some times as much.
READ_IMAGES = 8192

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledChunks:
    """The labelled images of an archive, or of a part of it."""

    root_uri: str
    chunks: tuple[Chunk, ...]
    part: Part

    @staticmethod
    def of(archive: Archive, part: Part) -> LabelledChunks:
        """Return those of an archive."""
        chunks = (chunk for shard in archive.shards for chunk in plan_chunks(shard, READ_IMAGES))
        return LabelledChunks(archive.root.uri, tuple(chunks), part)


def labelled_parts(archives: TrainingArchives) -> tuple[LabelledChunks, LabelledChunks]:
    """Return what is trained on and what is validated on."""
    if archives.validation is None:
        train = LabelledChunks.of(archives.train, "train")
        return train, LabelledChunks.of(archives.train, "validation")
    return LabelledChunks.of(archives.train, "all"), LabelledChunks.of(archives.validation, "all")


@dataclass(frozen=True)
class Piece:
    """Consecutive ones of a chunk's images that belong to the part that is trained on."""

    chunk: Chunk
    first: int
    """Index of the first, among those of the part."""
    num_images: int


def share_out(
    chunks: Sequence[tuple[Chunk, int]], rank: int, workers: int, *, equal: bool
) -> list[Piece]:
    """Return a worker's share of chunks, each given with how many images it has, in their order.

    No image is in two shares. They differ by at most one image; where they must be `equal`, fewer
    images than there are workers are left out, the last ones.
    """
    total = sum(num_images for _, num_images in chunks)
    if equal:
        total -= total % workers
    start, end = total * rank // workers, total * (rank + 1) // workers
    pieces, before = [], 0
    for chunk, num_images in chunks:
        low, high = max(start, before), min(end, before + num_images)
        if low < high:
            pieces.append(Piece(chunk, low - before, high - low))
        before += num_images
    return pieces


def train_share(images: LabelledChunks, config: TrainConfig, epoch: int, rank: int) -> list[Piece]:
    """Return a worker's share of an epoch, the chunks in an order of that epoch."""
    counted = _counted(images, config)
    order = np.random.default_rng((config.seed, epoch)).permutation(len(counted))
    return share_out([counted[i] for i in order], rank, config.workers, equal=True)


def validation_share(
    images: LabelledChunks, config: TrainConfig, rank: int, workers: int
) -> list[Piece]:
    """Return a worker's share of the images to validate on."""
    return share_out(_counted(images, config), rank, workers, equal=False)


def read_pieces(
    images: LabelledChunks, pieces: Iterable[Piece], config: TrainConfig, num_threads: int
) -> Iterator[LabelledImages]:
    """Yield the images of each piece, without those that cannot be decoded, which are warned of.

    Raises InputError where a shard cannot be read, or was changed since the run began.
    """

    def read(piece: Piece) -> LabelledImages:
        root = locate(images.root_uri)
        check_unchanged(root, piece.chunk)
        pixels, sums, passed = [], [], 0
        for rows in read_chunk(root, piece.chunk, config.read, labels=True):
            wanted = np.flatnonzero(
                _is_of_part(images.part, piece.chunk, rows.first_row, len(rows.pixels), config)
            )
            start = max(0, piece.first - passed)
            end = max(0, piece.first + piece.num_images - passed)
            passed += len(wanted)
            chosen = wanted[start:end]
            if rows.errors:
                chosen = chosen[~np.isin(chosen, list(rows.errors))]
                _warn(piece.chunk, rows)
            assert rows.digit_sums is not None  # asked for
            pixels.append(rows.pixels[chosen])
            sums.append(rows.digit_sums[chosen])
        return np.concatenate(pixels), np.concatenate(sums)

    yield from mapped_ahead(read, pieces, num_threads)


def filled_up(
    blocks: Iterable[LabelledImages], pieces: Sequence[Piece]
) -> Iterator[LabelledImages]:
    """Yield each piece's block, with others of its images in place of those that are missing.

    So all workers make as many steps. What a block has too few for, the next one makes up for.
    Raises InputError where no image can be read at all.
    """
    missing, last = 0, None
    for piece, (pixels, sums) in zip(pieces, blocks, strict=True):
        missing += piece.num_images - len(sums)
        if len(sums):
            again = np.arange(min(missing, len(sums)))
            missing -= len(again)
            last = np.concatenate([pixels, pixels[again]]), np.concatenate([sums, sums[again]])
            yield last
    if missing and last is None:
        shards = f"{pieces[0].chunk.shard} to {pieces[-1].chunk.shard}"
        raise InputError(f"{shards}: none of {missing} images can be decoded; replace the shards.")
    if missing and last is not None:
        again = np.arange(missing) % len(last[1])
        yield last[0][again], last[1][again]


def shuffled(
    blocks: Iterable[LabelledImages], buffer_images: int, rng: np.random.Generator
) -> Iterator[LabelledImages]:
    """Yield the images of the blocks, shuffled: as many as come in are drawn from a buffer.

    The buffer holds `buffer_images`, or all images where they are fewer.
    """
    buffer: LabelledImages | None = None
    num_held = 0
    for pixels, sums in blocks:
        if buffer is None:
            buffer = (
                np.empty((buffer_images, *pixels.shape[1:]), np.uint8),
                np.empty(buffer_images, np.int64),
            )
        room = min(buffer_images - num_held, len(sums))
        filled = slice(num_held, num_held + room)
        buffer[0][filled], buffer[1][filled] = pixels[:room], sums[:room]
        num_held += room
        for start in range(room, len(sums), buffer_images):
            new = slice(start, start + buffer_images)
            places = rng.choice(buffer_images, len(sums[new]), replace=False)
            drawn = buffer[0][places], buffer[1][places]
            buffer[0][places], buffer[1][places] = pixels[new], sums[new]
            yield drawn
    if buffer is not None:
        order = rng.permutation(num_held)
        yield buffer[0][order], buffer[1][order]


def batches_of(blocks: Iterable[LabelledImages], size: int) -> Iterator[LabelledImages]:
    """Yield the images of the blocks, `size` at a time, the last ones perhaps fewer."""
    rest: LabelledImages | None = None
    for pixels, sums in blocks:
        if rest is not None:
            lacking = size - len(rest[1])
            first = np.concatenate([rest[0], pixels[:lacking]])
            rest = first, np.concatenate([rest[1], sums[:lacking]])
            pixels, sums = pixels[lacking:], sums[lacking:]
            if len(rest[1]) < size:
                continue
            yield rest
        whole = len(sums) - len(sums) % size
        for start in range(0, whole, size):
            yield pixels[start : start + size], sums[start : start + size]
        rest = (pixels[whole:], sums[whole:]) if whole < len(sums) else None
    if rest is not None:
        yield rest


def _counted(images: LabelledChunks, config: TrainConfig) -> list[tuple[Chunk, int]]:
    if images.part == "all":
        return [(chunk, chunk.num_rows) for chunk in images.chunks]

    def count(chunk: Chunk) -> int:
        return int(_is_of_part(images.part, chunk, chunk.first_row, chunk.num_rows, config).sum())

    return [(chunk, count(chunk)) for chunk in images.chunks]


def _is_of_part(
    part: Part, chunk: Chunk, first_row: int, num_rows: int, config: TrainConfig
) -> npt.NDArray[np.bool_]:
    if part == "all":
        return np.ones(num_rows, np.bool_)
    numbers = first_row + np.arange(num_rows)
    held = held_out(chunk.shard, numbers, config.validation_fraction, config.seed)
    return held if part == "validation" else ~held


def _warn(chunk: Chunk, rows: Rows) -> None:
    row, reason = min(rows.errors.items())
    logger.warning(
        "%s: %d images are left out; row %d: %s",
        chunk.shard,
        len(rows.errors),
        rows.first_row + row,
        reason,
    )
