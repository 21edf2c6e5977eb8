"""Validation of a trained model on a sample of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from digitsum.errors import InputError
from digitsum.model.network import SumNetwork
from digitsum.model.outputs import Predictions
from digitsum.model.registry import to_input
from digitsum.model.saved_model import SavedModel
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import LabelledChunks, PixelsAndSums, read_pieces
from digitsum.training.metrics import EpochTotals
from digitsum.training.sampling import sample_pieces, validation_share
from digitsum.training.synthetic import validation_images

VALIDATION_SAMPLE_IMAGES = 5000
_BATCH_IMAGES = 1000


@dataclass(frozen=True)
class ValidatedModel:
    """A trained model and its predictions for a sample of its validation images."""

    model: SavedModel
    images: PixelsAndSums
    predictions: Predictions


def validation_sample(config: TrainConfig, chunks: LabelledChunks | None) -> PixelsAndSums:
    """Return images that validate a run, and their sums.

    They are composed if `chunks` is None, otherwise some 5,000 from all over the archive. Raises
    InputError if none can be decoded.
    """
    if chunks is None:
        return validation_images(config)
    pieces = sample_pieces(
        validation_share(chunks, config, rank=0, workers=1), VALIDATION_SAMPLE_IMAGES
    )
    blocks = list(read_pieces(chunks, pieces, config, num_threads=1))
    if not any(len(block.sums) for block in blocks):
        raise InputError(
            f"{chunks.root_uri}: no image to validate on can be decoded; replace the shards."
        )
    return np.concatenate([b.pixels for b in blocks]), np.concatenate([b.sums for b in blocks])


@torch.inference_mode()
def validate(network: SumNetwork, images: PixelsAndSums, pixel_scale: float) -> tuple[float, float]:
    """Return the mean loss, in nats, and the accuracy of a network, in evaluation mode."""
    totals = EpochTotals(torch.device("cpu"))
    pixels, sums = torch.from_numpy(np.array(images[0])), torch.from_numpy(images[1])
    for pixels_bhw, sums_b in zip(
        torch.split(pixels, _BATCH_IMAGES), torch.split(sums, _BATCH_IMAGES), strict=True
    ):
        totals.add_predicted(network, network(to_input(pixels_bhw, pixel_scale)), sums_b)
    return totals.mean_loss, totals.accuracy
