"""Averaged weights of networks that have a common start: `--average-with`.

They can be right more often than any of the networks (Wortsman et al., "Model soups", ICML 2022).
The statistics of normalizations are averaged too: weights that are near each other need no others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from digitsum.model.network import SumNetwork
from digitsum.model.registry import to_input
from digitsum.training.dataset import PixelsAndSums
from digitsum.training.metrics import Epoch, EpochTotals

# More than chance does to the accuracy on some thousands of images.
_CLEARLY_WORSE = 0.01
_BATCH_IMAGES = 1000

logger = logging.getLogger(__name__)


def averaged_weights(
    weights: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the mean of state dicts of the same names and shapes; counters are the first's."""
    return {
        name: torch.stack([tensor, *(other[name] for other in others)]).mean(dim=0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }


@torch.inference_mode()
def epoch_of_average(
    network: SumNetwork, images: PixelsAndSums, pixel_scale: float, epoch: Epoch
) -> Epoch:
    """Return an epoch with the validation figures of an averaged network.

    Logs a warning if the average is clearly worse: the networks had no common start.
    """
    totals = EpochTotals(torch.device("cpu"))
    pixels, sums = (torch.split(torch.tensor(values), _BATCH_IMAGES) for values in images)
    for pixels_bhw, sums_b in zip(pixels, sums, strict=True):
        totals.add_predicted(network, network(to_input(pixels_bhw, pixel_scale)), sums_b)
    if totals.accuracy < epoch.validation_accuracy - _CLEARLY_WORSE:
        logger.warning(
            "the averaged weights get %.2f%% of the validation images right, epoch %d alone "
            "%.2f%%: give --average-with only models that have a common start, or leave it out.",
            100 * totals.accuracy,
            epoch.epoch,
            100 * epoch.validation_accuracy,
        )
    return replace(
        epoch,
        validation_loss=totals.mean_loss,
        validation_accuracy=totals.accuracy,
        validation_images=totals.num_images,
    )
