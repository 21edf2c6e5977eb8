"""What a training run was validated on, once more: for what it came to, and for its report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from digitsum.archive.images import Uint8Array
from digitsum.errors import InputError
from digitsum.model.network import SumNetwork
from digitsum.model.registry import to_input
from digitsum.training.archives import open_training_archives
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import (
    LabelledChunks,
    LabelledImages,
    batches_of,
    labelled_parts,
    read_pieces,
    readable,
    spread,
    validation_share,
)
from digitsum.training.metrics import Totals
from digitsum.training.synthetic import validation_images

SAMPLE_IMAGES = 5000
_MOST_IMAGES = 20_000
_AT_ONCE = 1000


def validation_sample(config: TrainConfig, chunks: LabelledChunks | None) -> LabelledImages:
    """Return images, uint8 (n, height, width), and sums, int64 (n,), that validate a run.

    Composed where `chunks` are None; else some 5,000 from all over the archive. Raises InputError
    where none can be decoded.
    """
    if chunks is None:
        return validation_images(config)
    pieces = spread(validation_share(chunks, config, rank=0, workers=1), SAMPLE_IMAGES)
    blocks = list(readable(read_pieces(chunks, pieces, config, num_threads=1)))
    if not sum(len(sums) for _, sums in blocks):
        raise InputError(
            f"{chunks.root_uri}: no image to validate on can be decoded; replace the shards."
        )
    pixels, sums = zip(*blocks, strict=True)
    return np.concatenate(pixels), np.concatenate(sums)


@torch.inference_mode()
def validate(
    network: SumNetwork, pixels: Uint8Array, sums: npt.NDArray[np.int64], pixel_scale: float
) -> tuple[float, float]:
    """Return the mean loss, in nats, and the accuracy of a network in evaluation mode.

    Of images uint8 (n, height, width) with sums int64 (n,), without knowing the count.
    """
    totals = Totals(torch.device("cpu"))
    images, labels = torch.from_numpy(np.array(pixels)), torch.from_numpy(sums)
    for part, sums_b in zip(
        torch.split(images, _AT_ONCE), torch.split(labels, _AT_ONCE), strict=True
    ):
        totals.add_predicted(network, network(to_input(part, pixel_scale)), sums_b)
    return totals.mean_loss, totals.accuracy


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
