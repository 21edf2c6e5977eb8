"""The labelled archives of a training run: opened, split for training and validation, and read.

Not by Ray Data: its tasks take 6 s to start at every epoch, and resumed runs get another order.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from digitsum.archive.chunks import Chunk, check_unchanged, plan_chunks
from digitsum.archive.glyphs import load_glyphs
from digitsum.archive.images import Uint8Array
from digitsum.archive.reader import Rows, check_labels, read_chunk
from digitsum.archive.shards import open_archive
from digitsum.console import printable
from digitsum.errors import InputError
from digitsum.options import ImageShape
from digitsum.storage.location import locate
from digitsum.storage.prefetch import mapped_ahead
from digitsum.storage.retries import retried
from digitsum.training.config import TrainConfig

PixelsAndSums = tuple[Uint8Array, npt.NDArray[np.int64]]
"""Images, uint8 (n, height, width), and their sums, int64 (n,)."""

# Rows of a chunk; a larger row group is a chunk of its own.
READ_CHUNK_IMAGES = 8192
_MOST_ROWS_READ_AHEAD = 4 * READ_CHUNK_IMAGES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledChunks:
    """The labelled images of an archive, or those of its rows that are or are not held out."""

    config: TrainConfig
    root_uri: str
    chunks: tuple[Chunk, ...]
    subset: Literal["all", "train", "validation"]

    def is_in_subset(self, shard: str, first_row: int, num_rows: int) -> npt.NDArray[np.bool_]:
        """Return, bool (num_rows,), which of a shard's rows belong to the subset."""
        if self.subset == "all":
            return np.ones(num_rows, np.bool_)
        rows = first_row + np.arange(num_rows)
        is_held_out = held_out(shard, rows, self.config.validation_fraction, self.config.seed)
        return is_held_out if self.subset == "validation" else ~is_held_out

    def num_images_by_chunk(self) -> list[tuple[Chunk, int]]:
        """Return each chunk with the number of its rows that belong to the subset."""
        return [
            (c, int(self.is_in_subset(c.shard, c.first_row, c.num_rows).sum())) for c in self.chunks
        ]


@dataclass(frozen=True)
class ArchiveImages:
    """Labelled images of one shape, to train on and to validate on."""

    shape: ImageShape
    train: LabelledChunks
    validation: LabelledChunks
    epoch_images: int
    """Images of an epoch; those held out are taken to be exactly their fraction."""


def open_images(config: TrainConfig) -> ArchiveImages | None:
    """Return the archives to train on, checked, or None if images are composed.

    Raises InputError if glyphs, an archive or its labels cannot be used.
    """
    if config.archive is None:
        for split in ("train", "val"):
            load_glyphs(config.glyphs, split)
        return None
    images, shape = open_labelled(config.archive, config)
    num_images = sum(chunk.num_rows for chunk in images.chunks)
    if config.validation is None:
        train, validation = replace(images, subset="train"), replace(images, subset="validation")
        num_held_out = sum(num for _, num in validation.num_images_by_chunk())
        fewest = min(num_held_out, num_images - num_held_out)
        if fewest < config.workers:
            raise InputError(
                f"{config.archive}: {num_held_out} of {num_images} images would be held out, which "
                f"leaves {fewest} to validate or to train on for {config.workers} workers; give "
                "more images, another --validation-fraction, a --validation archive, or fewer "
                "--workers."
            )
        epoch_images = max(1, round(num_images * (1 - config.validation_fraction)))
        return ArchiveImages(shape, train, validation, epoch_images)
    validation, other_shape = open_labelled(config.validation, config)
    if other_shape != shape:
        raise InputError(
            f"{config.validation}: images are {other_shape}, but those of {config.archive} are "
            f"{shape}; give archives of one shape."
        )
    return ArchiveImages(shape, images, validation, num_images)


def open_labelled(uri: str, config: TrainConfig) -> tuple[LabelledChunks, ImageShape]:
    """Return all images of an archive, checked as `open_images` does, and their shape."""
    archive = open_archive(uri, config.read)
    paths: dict[ImageShape, str] = {s.shape: s.file.path for s in reversed(archive.shards)}
    if len(paths) > 1:
        shapes = ", ".join(f"{shape} in {path}" for shape, path in paths.items())
        raise InputError(f"{uri}: images of several shapes: {shapes}; train on one shape.")
    if archive.num_images < config.workers:
        raise InputError(
            f"{uri}: holds {archive.num_images} images for {config.workers} workers; give an "
            "archive with more, or fewer --workers."
        )
    check_labels(archive, config.read, config.digits)
    chunks = (chunk for shard in archive.shards for chunk in plan_chunks(shard, READ_CHUNK_IMAGES))
    return LabelledChunks(config, archive.root.uri, tuple(chunks), "all"), archive.shards[0].shape


def held_out(
    shard: str, rows: npt.NDArray[np.int64], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Return, bool (n,), which rows of a shard are held out: about `fraction` of them.

    Depends on the shard's path, the row and the seed only, so all workers, epochs and resumed runs
    agree. Hand-written because numpy's generators would have to draw for all rows before: the hash
    is the finalizer of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014).
    """
    # The seed is hashed too: otherwise close seeds hold out the same rows, a few rows on.
    seeded = _mix(np.array([seed % 2**64], np.uint64))[0]
    origin = (zlib.crc32(shard.encode()) << 32) + int(seeded)
    numbers = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(origin % 2**64)
    uniform = (_mix(numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    is_held_out: npt.NDArray[np.bool_] = uniform < fraction
    return is_held_out


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the finalizer of splitmix64 of each number, modulo 2**64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Piece:
    """Consecutive images of a chunk, counted among those that belong to the subset."""

    chunk: Chunk
    first: int
    num_images: int


class Block(NamedTuple):
    """Images that were read together, uint8 (n, height, width), and their sums, int64 (n,)."""

    pixels: Uint8Array
    sums: npt.NDArray[np.int64]
    num_undecodable: int
    """Images that belong here and cannot be decoded."""


def read_pieces(
    images: LabelledChunks, pieces: Sequence[Piece], num_threads: int = 1
) -> Iterator[Block]:
    """Yield the images of the pieces, a few thousand at a time; warn of those not decodable.

    Raises InputError if a shard cannot be read, or was changed since the run began.
    """

    def read(piece: Piece) -> list[Block]:
        return retried(lambda: list(_read_piece(images, piece)))

    if all(piece.chunk.num_rows <= _MOST_ROWS_READ_AHEAD for piece in pieces):
        for blocks in mapped_ahead(read, pieces, num_threads):
            yield from blocks
        return
    for piece in pieces:  # a large row group is never in memory as a whole
        yield from _read_piece(images, piece)


def _read_piece(images: LabelledChunks, piece: Piece) -> Iterator[Block]:
    root, shard = locate(images.root_uri), piece.chunk.shard
    check_unchanged(root, piece.chunk)
    num_passed, end = 0, piece.first + piece.num_images
    for rows in read_chunk(root, piece.chunk, images.config.read, labels=True):
        in_subset = np.flatnonzero(images.is_in_subset(shard, rows.first_row, len(rows.pixels)))
        wanted = in_subset[max(0, piece.first - num_passed) : max(0, end - num_passed)]
        num_passed += len(in_subset)
        is_undecodable = np.isin(wanted, list(rows.errors))
        if is_undecodable.any():
            warn_undecodable(shard, rows, wanted[is_undecodable])
        assert rows.digit_sums is not None  # read because labels=True
        if len(wanted):
            kept = wanted[~is_undecodable]
            yield Block(rows.pixels[kept], rows.digit_sums[kept], int(is_undecodable.sum()))
        if num_passed >= end:
            return


def warn_undecodable(shard: str, rows: Rows, undecodable: npt.NDArray[np.int64]) -> None:
    """Log how many of some rows, int64 (n,), are left out, and why the first one is."""
    first = int(undecodable[0])
    logger.warning(
        "%s: %d images are left out; row %d: %s",
        printable(shard),
        len(undecodable),
        rows.first_row + first,
        printable(rows.errors[first]),
    )


def filled_up(blocks: Iterable[Block]) -> Iterator[PixelsAndSums]:
    """Yield the blocks with copies of their images in place of those that cannot be decoded.

    So all workers make as many steps. A block with too few images leaves the rest to the next one.
    Raises InputError if no image can be decoded at all.
    """
    num_missing, last = 0, None
    for pixels, sums, num_undecodable in blocks:
        num_missing += num_undecodable
        if len(sums):
            again = np.arange(min(num_missing, len(sums)))
            num_missing -= len(again)
            last = np.concatenate([pixels, pixels[again]]), np.concatenate([sums, sums[again]])
            yield last
    if num_missing and last is None:
        raise InputError(
            f"none of the {num_missing} images that a worker trains on can be decoded; see the "
            "warnings, and replace the shards."
        )
    if num_missing and last is not None:
        again = np.arange(num_missing) % len(last[1])
        yield last[0][again], last[1][again]
