"""Averaging the weights of networks that began alike: `--average-with`.

Networks that were trained on from the same weights, each with other images, misread other images;
the mean of their weights can be right more often than any of them, and costs no more to run than
one (Wortsman et al., "Model soups", ICML 2022). So are normalizations' statistics averaged: where
weights stayed near each other, no others are needed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from digitsum.errors import InputError
from digitsum.model.network import SumNetwork
from digitsum.model.saved_model import SavedModel
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import LabelledImages
from digitsum.training.init_weights import load_trained
from digitsum.training.metrics import Epoch
from digitsum.training.validation import validate

# What some thousands of images may tell by chance is less.
_CLEARLY_WORSE = 0.01

logger = logging.getLogger(__name__)


def load_averaged_with(config: TrainConfig, network: SumNetwork) -> list[SavedModel]:
    """Return the models whose weights are averaged with those of the trained network.

    Raises InputError where one is no model, or has other weights than the network, or takes its
    input otherwise.
    """
    models = [load_trained(uri) for uri in config.average_with or ()]
    shapes = _shapes(network.state_dict())
    for model in models:
        is_alike = (
            model.network_name == config.network
            and model.pixel_scale == config.recipe.pixel_scale
            and _shapes(model.network.state_dict()) == shapes
        )
        if not is_alike:
            raise InputError(
                f"{model.uri}: is another network, of other sizes or with another --pixel-scale "
                "than the one to be trained, and has no mean with it; leave it out of "
                "--average-with."
            )
    return models


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


def epoch_of_mean(
    network: SumNetwork, validation: LabelledImages, pixel_scale: float, epoch: Epoch
) -> Epoch:
    """Return an epoch with the validation figures of an averaged network in place of its own.

    Warns where the mean is clearly worse: what was averaged did not begin alike.
    """
    pixels, sums = validation
    loss, accuracy = validate(network, pixels, sums, pixel_scale)
    if accuracy < epoch.validation_accuracy - _CLEARLY_WORSE:
        logger.warning(
            "the mean gets %.2f%% of the validation images right, epoch %d alone %.2f%%: leave "
            "--average-with out, or out of it what did not begin alike.",
            100 * accuracy,
            epoch.epoch,
            100 * epoch.validation_accuracy,
        )
    return replace(
        epoch, validation_loss=loss, validation_accuracy=accuracy, validation_images=len(sums)
    )


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
