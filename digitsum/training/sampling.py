"""The batches of an epoch, on a worker's device: of its share of the archive, or composed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.typing as npt
import torch
from numpy.random import default_rng
from torch import Tensor

from digitsum.archive.glyphs import load_training_glyphs
from digitsum.storage.prefetch import prefetched
from digitsum.training.augmentation import distort_images
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import (
    LabelledChunks,
    LabelledImages,
    batches_of,
    filled_up,
    read_pieces,
    readable,
    shuffled,
    train_share,
    validation_share,
)
from digitsum.training.progress import EpochProgress
from digitsum.training.synthetic import composed_images, validation_images


@dataclass(frozen=True)
class Batch:
    """b labelled images."""

    pixels: Tensor
    """uint8 (b, height, width)."""
    sums: Tensor
    """int64 (b,)."""


@dataclass(frozen=True)
class Source:
    """Where a worker's batches come from, and go to."""

    config: TrainConfig
    train: LabelledChunks | None
    """None where images are composed."""
    validation: LabelledChunks | None
    rank: int
    device: torch.device
    read_threads: int = 1

    @property
    def batch_size(self) -> int:
        """Images of a batch of one worker."""
        return self.config.recipe.batch_size // self.config.workers


def train_batches(source: Source, progress: EpochProgress, epoch: int) -> Iterator[Batch]:
    """Yield a worker's batches of an epoch, from 1, shuffled and distorted.

    They follow from the run's seed, the epoch and the rank.
    """
    seed = (source.config.seed, epoch, source.rank)
    if source.train is None:
        return _batches(source, progress.waiting(_composed(source, progress, seed)))
    return _archive_batches(source, source.train, progress, seed)


def validation_batches(source: Source) -> Iterator[Batch]:
    """Yield a worker's batches of the validation images; they are the same at every epoch."""
    if source.validation is None:
        pixels, sums = validation_images(source.config)
        share = slice(source.rank, None, source.config.workers)
        return _batches(source, [(pixels[share], sums[share])])
    pieces = validation_share(source.validation, source.config, source.rank, source.config.workers)
    blocks = read_pieces(source.validation, pieces, source.config, source.read_threads)
    return _batches(source, readable(blocks))


def _archive_batches(
    source: Source, images: LabelledChunks, progress: EpochProgress, seed: tuple[int, ...]
) -> Iterator[Batch]:
    config = source.config
    pieces = train_share(images, config, seed[1], source.rank)
    blocks = filled_up(read_pieces(images, pieces, config, source.read_threads))
    buffer_images = min(config.shuffle_buffer_images, sum(piece.num_images for piece in pieces))
    mixed = shuffled(blocks, buffer_images, default_rng(seed))
    generator = torch.Generator(source.device).manual_seed(torch.initial_seed())
    for batch in _batches(source, progress.waiting(prefetched(mixed))):
        strength = config.recipe.distortion_at(progress.fraction)
        yield Batch(distort_images(batch.pixels, strength, generator), batch.sums)


def _composed(
    source: Source, progress: EpochProgress, seed: tuple[int, ...]
) -> Iterator[LabelledImages]:
    config, recipe = source.config, source.config.recipe
    blocks = composed_images(
        load_training_glyphs(config.glyphs, with_validation=config.train_on_validation),
        config.shape,
        config.digit_counts,
        recipe.images_per_epoch // config.workers,
        lambda num_images: recipe.distortion_at(progress.fraction_after(num_images)),
        seed,
    )
    return prefetched(blocks, partial(torch.set_num_threads, 1))


def _batches(source: Source, blocks: Iterable[LabelledImages]) -> Iterator[Batch]:
    for pixels, sums in batches_of(blocks, source.batch_size):
        yield Batch(_moved(pixels, source.device), _moved(sums, source.device))


def _moved(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # then this thread need not wait for the copy
    return tensor.to(device, non_blocking=True)
