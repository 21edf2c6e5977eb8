"""Averaging the weights of networks that began alike: `--average-with`.

Networks that were trained on from the same weights, each with other images, misread other images;
the mean of their weights is right more often than any of them, and costs no more to run than one
(Wortsman et al., "Model soups", ICML 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from digitsum.errors import InputError
from digitsum.model.bundle import Bundle
from digitsum.model.sum_network import SumNetwork
from digitsum.training.config import TrainConfig
from digitsum.training.start import load_trained


def load_averaged_with(config: TrainConfig, network: SumNetwork) -> list[Bundle]:
    """Return the bundles whose weights are averaged with those of the trained network.

    Raises InputError where one is no bundle, or has other weights than the network, or takes its
    input otherwise.
    """
    bundles = [load_trained(uri) for uri in config.average_with or ()]
    shapes = _shapes(network.state_dict())
    for bundle in bundles:
        is_alike = (
            bundle.network_name == config.model
            and bundle.pixel_scale == config.recipe.pixel_scale
            and _shapes(bundle.network.state_dict()) == shapes
        )
        if not is_alike:
            raise InputError(
                f"{bundle.uri}: is another network, of other sizes or with another --pixel-scale "
                "than the one to be trained; only bundles that began alike can be averaged."
            )
    return bundles


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


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
