"""An archive as it is trained on: labelled images, uint8, to each worker its share.

Each worker reads its own share, by threads, ahead of what it trains on. Which images it gets, and
in what order, follows from seed, epoch and rank alone, so that a run that was resumed is trained as
one that was never disturbed. Ray Data did this before: its tasks took 6 s to start at every epoch,
and began their orders anew where a run was resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from digitsum.archive.chunks import Chunk, check_unchanged, plan_chunks
from digitsum.archive.images import Uint8Array
from digitsum.archive.reader import Rows, read_chunk
from digitsum.archive.shards import Archive
from digitsum.console import printable
from digitsum.errors import InputError
from digitsum.storage.location import locate
from digitsum.storage.prefetch import mapped_ahead
from digitsum.storage.retries import retried
from digitsum.training.archives import TrainingArchives, held_out
from digitsum.training.config import TrainConfig

Part = Literal["all", "train", "validation"]
LabelledImages = tuple[Uint8Array, npt.NDArray[np.int64]]
"""Images, uint8 (n, height, width), and their sums, int64 (n,)."""

# Chunks are of so many, or of one row group where it has more.
READ_IMAGES = 8192
_MOST_ROWS_AT_ONCE = 4 * READ_IMAGES
_MOST_PIECES = 500

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


class Block(NamedTuple):
    """Images that were read together."""

    pixels: Uint8Array
    """uint8 (n, height, width)."""
    sums: npt.NDArray[np.int64]
    """int64 (n,)."""
    num_lost: int
    """Images that belong here and cannot be decoded."""


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
    images: LabelledChunks, pieces: Sequence[Piece], config: TrainConfig, num_threads: int
) -> Iterator[Block]:
    """Yield the images of the pieces, a few thousand at a time, without those that are damaged.

    These are warned of. Raises InputError where a shard cannot be read, or was changed since the
    run began.
    """

    def read(piece: Piece) -> list[Block]:
        return retried(lambda: list(_blocks(images, piece, config)))

    if all(piece.chunk.num_rows <= _MOST_ROWS_AT_ONCE for piece in pieces):
        for blocks in mapped_ahead(read, pieces, num_threads):
            yield from blocks
        return
    for piece in pieces:  # of great row groups no two are held at once, nor one as a whole
        yield from _blocks(images, piece, config)


def _blocks(images: LabelledChunks, piece: Piece, config: TrainConfig) -> Iterator[Block]:
    root = locate(images.root_uri)
    check_unchanged(root, piece.chunk)
    passed, end = 0, piece.first + piece.num_images
    for rows in read_chunk(root, piece.chunk, config.read, labels=True):
        of_part = np.flatnonzero(
            _is_of_part(images.part, piece.chunk, rows.first_row, len(rows.pixels), config)
        )
        wanted = of_part[max(0, piece.first - passed) : max(0, end - passed)]
        passed += len(of_part)
        lost = np.isin(wanted, list(rows.errors))
        if lost.any():
            _warn(piece.chunk, rows, wanted[lost])
        assert rows.digit_sums is not None  # asked for
        if len(wanted):
            kept = wanted[~lost]
            yield Block(rows.pixels[kept], rows.digit_sums[kept], int(lost.sum()))
        if passed >= end:
            return


def filled_up(blocks: Iterable[Block]) -> Iterator[LabelledImages]:
    """Yield the blocks with others of their images in place of those that were lost.

    So all workers make as many steps. What a block has too few for, the next one makes up for.
    Raises InputError where no image can be read at all.
    """
    missing, last = 0, None
    for pixels, sums, num_lost in blocks:
        missing += num_lost
        if len(sums):
            again = np.arange(min(missing, len(sums)))
            missing -= len(again)
            last = np.concatenate([pixels, pixels[again]]), np.concatenate([sums, sums[again]])
            yield last
    if missing and last is None:
        raise InputError(
            f"none of the {missing} images that a worker trains on can be decoded; see the "
            "warnings, and replace the shards."
        )
    if missing and last is not None:
        again = np.arange(missing) % len(last[1])
        yield last[0][again], last[1][again]


def readable(blocks: Iterable[Block]) -> Iterator[LabelledImages]:
    """Yield what can be read of the blocks."""
    for pixels, sums, _ in blocks:
        yield pixels, sums


def spread(pieces: Sequence[Piece], num_images: int) -> list[Piece]:
    """Return about so many of the images of the pieces, from all over them."""
    step = max(1, len(pieces) // _MOST_PIECES)
    some = pieces[::step]
    each = max(1, -(-num_images // max(1, len(some))))
    return [replace(piece, num_images=min(piece.num_images, each)) for piece in some]


def shuffled(
    blocks: Iterable[LabelledImages], buffer_images: int, rng: np.random.Generator
) -> Iterator[LabelledImages]:
    """Yield the images of the blocks, shuffled: as many as come in are drawn from a buffer.

    The buffer holds `buffer_images`, for which memory is taken at once.
    """
    buffer: LabelledImages | None = None
    num_held = 0
    for pixels, sums in blocks:
        if buffer is None:
            shape = (buffer_images, *pixels.shape[1:])
            buffer = np.empty(shape, np.uint8), np.empty(buffer_images, np.int64)
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
        for start in range(0, num_held, READ_IMAGES):
            places = order[start : start + READ_IMAGES]
            yield buffer[0][places], buffer[1][places]


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


def _warn(chunk: Chunk, rows: Rows, lost: npt.NDArray[np.int64]) -> None:
    logger.warning(
        "%s: %d images are left out; row %d: %s",
        printable(chunk.shard),
        len(lost),
        rows.first_row + int(lost[0]),
        printable(rows.errors[int(lost[0])]),
    )
