"""The labelled archives that are trained on, opened and checked before anything is started."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from digitsum.archive.glyphs import load_glyphs
from digitsum.archive.reading import check_labels
from digitsum.archive.schema import ImageShape
from digitsum.archive.shards import Archive, open_archive
from digitsum.errors import InputError
from digitsum.training.config import TrainConfig
from digitsum.training.holdout import held_out


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
