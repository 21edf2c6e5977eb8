"""The labelled archives that are trained on, opened and checked before anything is started."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from digitsum.archive.glyphs import load_glyphs
from digitsum.archive.reader import check_labels
from digitsum.archive.shards import Archive, open_archive
from digitsum.errors import InputError
from digitsum.options import ImageShape
from digitsum.training.config import TrainConfig


@dataclass(frozen=True)
class TrainingArchives:
    """Labelled archives of one shape."""

    train: Archive
    validation: Archive | None
    """None where part of `train` is held out."""

    @property
    def shape(self) -> ImageShape:
        """Shape of all images."""
        return self.train.shards[0].shape


def open_training_archives(config: TrainConfig) -> TrainingArchives | None:
    """Return the archives to train on, checked, or None where images are composed.

    Raises InputError where glyphs, an archive or its labels cannot be used.
    """
    if config.archive is None:
        for split in ("train", "val"):
            load_glyphs(config.glyphs, split)
        return None
    archive = _open_labelled(config.archive, config)
    if config.validation is None:
        _check_both_parts(archive, config)
        return TrainingArchives(archive, None)
    validation = _open_labelled(config.validation, config)
    if validation.shards[0].shape != archive.shards[0].shape:
        raise InputError(
            f"{config.validation}: images are {validation.shards[0].shape}, but those of "
            f"{config.archive} are {archive.shards[0].shape}; give archives of one shape."
        )
    return TrainingArchives(archive, validation)


def _check_both_parts(archive: Archive, config: TrainConfig) -> None:
    num_held = sum(
        int(
            held_out(
                shard.file.path,
                np.arange(shard.num_rows),
                config.validation_fraction,
                config.seed,
            ).sum()
        )
        for shard in archive.shards
    )
    least = min(num_held, archive.num_images - num_held)
    if least < config.workers:
        raise InputError(
            f"{config.archive}: {num_held} of {archive.num_images} images would be held out, which "
            f"leaves {least} to validate or to train on for {config.workers} workers; give more "
            "images, another --validation-fraction, a --validation archive, or fewer --workers."
        )


def _open_labelled(uri: str, config: TrainConfig) -> Archive:
    archive = open_archive(uri, config.read)
    shapes: dict[ImageShape, str] = {s.shape: s.file.path for s in reversed(archive.shards)}
    if len(shapes) > 1:
        found = ", ".join(f"{shape} in {path}" for shape, path in shapes.items())
        raise InputError(f"{uri}: images of several shapes: {found}; train on one shape.")
    if archive.num_images < config.workers:
        raise InputError(
            f"{uri}: holds {archive.num_images} images for {config.workers} workers; give an "
            "archive with more, or fewer --workers."
        )
    check_labels(archive, config.read, config.digits)
    return archive


def held_out(
    shard: str, rows: npt.NDArray[np.int64], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Return, bool (n,), which rows of a shard are held out: about `fraction` of them.

    Depends on the shard's path, the row and the seed only, so that every worker, every epoch and
    every resumed run agree. The hash is the finalizer of splitmix64 (Steele, Lea and Flood, "Fast
    splittable pseudorandom number generators", OOPSLA 2014).
    """
    # The seed is hashed too: close seeds would else hold out the same rows, moved by a few.
    seeded = _mix(np.array([seed % 2**64], np.uint64))[0]
    origin = (zlib.crc32(shard.encode()) << 32) + int(seeded)
    numbers = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(origin % 2**64)
    uniform = (_mix(numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    selected: npt.NDArray[np.bool_] = uniform < fraction
    return selected


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the finalizer of splitmix64 of each number; arithmetic modulo 2**64 is its nature."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
