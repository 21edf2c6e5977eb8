"""The batches of an epoch: each worker's share, shuffled, distorted, on its device.

They follow from seed, epoch and rank alone, so a resumed run is trained as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from digitsum.archive.chunks import Chunk
from digitsum.archive.glyphs import load_training_glyphs
from digitsum.errors import InputError
from digitsum.storage.prefetch import prefetched
from digitsum.training.augmentation import distort
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import (
    ArchiveImages,
    LabelledChunks,
    Piece,
    PixelsAndSums,
    filled_up,
    read_pieces,
)
from digitsum.training.metrics import EpochProgress
from digitsum.training.synthetic import composed_images, validation_images

Batch = tuple[Tensor, Tensor]
"""Images, uint8 (b, height, width), and their sums, int64 (b,)."""

_DRAWN_IMAGES = 8192
_MOST_SAMPLED_PIECES = 500
_VALIDATION_SAMPLE_IMAGES = 5000


@dataclass(frozen=True)
class BatchSource:
    """The images that a worker takes its batches from, and the device that it puts them on."""

    config: TrainConfig
    images: ArchiveImages | None
    """None if images are composed."""
    rank: int
    device: torch.device
    read_threads: int = 1

    def train_batches(self, progress: EpochProgress, epoch: int) -> Iterator[Batch]:
        """Yield the worker's batches of an epoch, from 1, shuffled and distorted."""
        if self.images is None:
            return self._batches(progress.waiting(self._composed(progress, epoch)))
        return self._archive_batches(self.images.train, progress, epoch)

    def validation_batches(self) -> Iterator[Batch]:
        """Yield the worker's batches of the validation images, the same at every epoch."""
        config = self.config
        if self.images is None:
            pixels, sums = validation_images(config)
            share = slice(self.rank, None, config.workers)
            return self._batches([(pixels[share], sums[share])])
        chunks = self.images.validation
        pieces = validation_share(chunks, self.rank, config.workers)
        blocks = read_pieces(chunks, pieces, self.read_threads)
        return self._batches((block.pixels, block.sums) for block in blocks)

    def _archive_batches(
        self, images: LabelledChunks, progress: EpochProgress, epoch: int
    ) -> Iterator[Batch]:
        config = self.config
        pieces = train_share(images, epoch, self.rank)
        rng = np.random.default_rng((config.seed, epoch, self.rank))
        blocks = filled_up(read_pieces(images, pieces, self.read_threads))
        buffer_images = min(config.shuffle_buffer_images, sum(p.num_images for p in pieces))
        mixed = shuffled(blocks, buffer_images, rng)
        generator = torch.Generator(self.device).manual_seed(torch.initial_seed())
        for pixels, sums in self._batches(progress.waiting(prefetched(mixed))):
            strength = config.recipe.distortion_at(progress.fraction)
            yield distort(pixels, strength, generator, keeps_places=True), sums

    def _composed(self, progress: EpochProgress, epoch: int) -> Iterator[PixelsAndSums]:
        config, recipe = self.config, self.config.recipe
        with_validation = config.advanced.train_on_validation
        blocks = composed_images(
            config,
            load_training_glyphs(config.glyphs, with_validation=with_validation),
            recipe.images_per_epoch // config.workers,
            lambda num_images: recipe.distortion_at(progress.fraction_after(num_images)),
            (config.seed, epoch, self.rank),
        )
        return prefetched(blocks, partial(torch.set_num_threads, 1))

    def _batches(self, blocks: Iterable[PixelsAndSums]) -> Iterator[Batch]:
        for pixels, sums in batched(blocks, self.config.recipe.batch_size // self.config.workers):
            yield _to_device(pixels, self.device), _to_device(sums, self.device)


def _to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # so this thread need not wait for the copy
    return tensor.to(device, non_blocking=True)


def train_share(images: LabelledChunks, epoch: int, rank: int) -> list[Piece]:
    """Return a worker's share of an epoch, the chunks in an order of that epoch."""
    counted = images.num_images_by_chunk()
    order = np.random.default_rng((images.config.seed, epoch)).permutation(len(counted))
    return split_evenly([counted[i] for i in order], rank, images.config.workers, equal=True)


def validation_share(images: LabelledChunks, rank: int, workers: int) -> list[Piece]:
    """Return a worker's share of the images to validate on."""
    return split_evenly(images.num_images_by_chunk(), rank, workers, equal=False)


def split_evenly(
    chunks: Sequence[tuple[Chunk, int]], rank: int, workers: int, *, equal: bool
) -> list[Piece]:
    """Return a worker's share of chunks, each given with its number of images, in their order.

    Shares differ by at most one image, unless they must be `equal`: then the last images, fewer
    than there are workers, are in none.
    """
    total = sum(num_images for _, num_images in chunks)
    if equal:
        total -= total % workers
    start, end = total * rank // workers, total * (rank + 1) // workers
    pieces, num_before = [], 0
    for chunk, num_images in chunks:
        low, high = max(start, num_before), min(end, num_before + num_images)
        if low < high:
            pieces.append(Piece(chunk, low - num_before, high - low))
        num_before += num_images
    return pieces


def validation_sample(config: TrainConfig, chunks: LabelledChunks | None) -> PixelsAndSums:
    """Return images that validate a run, about 5,000 from all over the archive, and their sums.

    They are composed if `chunks` is None. Raises InputError if none can be decoded.
    """
    if chunks is None:
        return validation_images(config)
    pieces = sample_pieces(validation_share(chunks, 0, 1), _VALIDATION_SAMPLE_IMAGES)
    blocks = list(read_pieces(chunks, pieces))
    if not any(len(block.sums) for block in blocks):
        raise InputError(
            f"{chunks.root_uri}: no image to validate on can be decoded; replace the shards."
        )
    return np.concatenate([b.pixels for b in blocks]), np.concatenate([b.sums for b in blocks])


def sample_pieces(pieces: Sequence[Piece], num_images: int) -> list[Piece]:
    """Return about `num_images` of the images of the pieces, from all over them."""
    chosen = pieces[:: max(1, len(pieces) // _MOST_SAMPLED_PIECES)]
    num_each = max(1, -(-num_images // max(1, len(chosen))))
    return [replace(piece, num_images=min(piece.num_images, num_each)) for piece in chosen]


def shuffled(
    blocks: Iterable[PixelsAndSums], buffer_images: int, rng: np.random.Generator
) -> Iterator[PixelsAndSums]:
    """Yield the images of the blocks in random order, drawn from a buffer allocated at once."""
    buffer: PixelsAndSums | None = None
    num_buffered = 0
    for pixels, sums in blocks:
        if buffer is None:
            shape = (buffer_images, *pixels.shape[1:])
            buffer = np.empty(shape, np.uint8), np.empty(buffer_images, np.int64)
        room = min(buffer_images - num_buffered, len(sums))
        filled = slice(num_buffered, num_buffered + room)
        buffer[0][filled], buffer[1][filled] = pixels[:room], sums[:room]
        num_buffered += room
        for start in range(room, len(sums), buffer_images):
            new = slice(start, start + buffer_images)
            places = rng.choice(buffer_images, len(sums[new]), replace=False)
            drawn = buffer[0][places], buffer[1][places]
            buffer[0][places], buffer[1][places] = pixels[new], sums[new]
            yield drawn
    if buffer is not None:
        order = rng.permutation(num_buffered)
        for start in range(0, num_buffered, _DRAWN_IMAGES):
            places = order[start : start + _DRAWN_IMAGES]
            yield buffer[0][places], buffer[1][places]


def batched(blocks: Iterable[PixelsAndSums], size: int) -> Iterator[PixelsAndSums]:
    """Yield the images of the blocks, `size` at a time; the last batch may be smaller."""
    rest: PixelsAndSums | None = None
    for pixels, sums in blocks:
        if rest is not None:
            num_lacking = size - len(rest[1])
            first = np.concatenate([rest[0], pixels[:num_lacking]])
            rest = first, np.concatenate([rest[1], sums[:num_lacking]])
            pixels, sums = pixels[num_lacking:], sums[num_lacking:]
            if len(rest[1]) < size:
                continue
            yield rest
        whole = len(sums) - len(sums) % size
        for start in range(0, whole, size):
            yield pixels[start : start + size], sums[start : start + size]
        rest = (pixels[whole:], sums[whole:]) if whole < len(sums) else None
    if rest is not None:
        yield rest
