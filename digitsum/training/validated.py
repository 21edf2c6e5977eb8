"""What a training run was validated on, once more: for its report."""

from __future__ import annotations

from collections.abc import Iterator

from digitsum.training.archives import open_training_archives
from digitsum.training.composing import validation_images
from digitsum.training.config import TrainConfig
from digitsum.training.data import (
    LabelledImages,
    batches_of,
    labelled_parts,
    read_pieces,
    readable,
    validation_share,
)

_MOST_IMAGES = 20_000
_AT_ONCE = 1000


def validated_images(config: TrainConfig) -> Iterator[LabelledImages]:
    """Yield the first images, at most 20,000, that a run of `config` was validated on.

    Raises InputError where the archive or the glyphs are not to be had any more.
    """
    archives = open_training_archives(config)
    if archives is None:
        yield from batches_of([validation_images(config)], _AT_ONCE)
        return
    _, chunks = labelled_parts(archives)
    pieces = validation_share(chunks, config, rank=0, workers=1)
    blocks = readable(read_pieces(chunks, pieces, config, num_threads=1))
    for number, block in enumerate(batches_of(blocks, _AT_ONCE)):
        if number * _AT_ONCE >= _MOST_IMAGES:
            return
        yield block
