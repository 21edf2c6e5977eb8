"""The batches of an epoch, on a worker's device: of its share of the archive, or composed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import ray.train
import torch
from torch import Tensor

from digitsum.archive.glyphs import load_glyphs
from digitsum.archive.images import Uint8Array
from digitsum.prefetch import prefetched
from digitsum.training.composing import composed_images, validation_images
from digitsum.training.config import TrainConfig
from digitsum.training.distortion import distort_images
from digitsum.training.progress import EpochProgress


@dataclass(frozen=True)
class Batch:
    """b labelled images."""

    pixels: Tensor
    """uint8 (b, height, width)."""
    sums: Tensor
    """int64 (b,)."""


def train_batches(
    config: TrainConfig, progress: EpochProgress, seed: tuple[int, ...], device: torch.device
) -> Iterator[Batch]:
    """Yield this worker's batches of one epoch, shuffled and distorted."""
    if config.archive is None:
        return _composed_batches(config, progress, seed, device)
    return _archive_batches(config, progress, seed, device)


def validation_batches(config: TrainConfig, device: torch.device) -> Iterator[Batch]:
    """Yield this worker's batches of the validation images; they are the same at every epoch."""
    size = config.recipe.batch_size // config.workers
    if config.archive is None:
        pixels, sums = validation_images(config)
        context = ray.train.get_context()
        share = slice(context.get_world_rank(), None, context.get_world_size())
        yield from _batches_of(pixels[share], sums[share], size, device)
        return
    for batch in ray.train.get_dataset_shard("validation").iter_torch_batches(batch_size=size):
        yield Batch(batch["image"], batch["digit_sum"])


def _archive_batches(
    config: TrainConfig, progress: EpochProgress, seed: tuple[int, ...], device: torch.device
) -> Iterator[Batch]:
    generator = torch.Generator(device).manual_seed(torch.initial_seed())
    batches = ray.train.get_dataset_shard("train").iter_torch_batches(
        batch_size=config.recipe.batch_size // config.workers,
        local_shuffle_buffer_size=config.shuffle_buffer_images,
        local_shuffle_seed=config.seed + seed[1],
    )
    for batch in progress.waiting(batches):
        strength = config.recipe.distortion_at(progress.fraction)
        yield Batch(distort_images(batch["image"], strength, generator), batch["digit_sum"])


def _composed_batches(
    config: TrainConfig, progress: EpochProgress, seed: tuple[int, ...], device: torch.device
) -> Iterator[Batch]:
    recipe = config.recipe
    blocks = composed_images(
        load_glyphs(config.glyphs, "train"),
        config.shape,
        config.digit_counts,
        recipe.images_per_epoch // config.workers,
        lambda num_images: recipe.distortion_at(progress.fraction_after(num_images)),
        seed,
    )
    ahead = prefetched(blocks, partial(torch.set_num_threads, 1))
    for pixels, sums in progress.waiting(ahead):
        yield from _batches_of(pixels, sums, recipe.batch_size // config.workers, device)


def _batches_of(
    pixels: Uint8Array, sums: npt.NDArray[np.int64], size: int, device: torch.device
) -> Iterator[Batch]:
    for start in range(0, len(sums), size):
        batch = slice(start, start + size)
        yield Batch(
            torch.from_numpy(pixels[batch]).to(device), torch.from_numpy(sums[batch]).to(device)
        )
