"""The weights that a training starts with: fresh ones, or those of the model of `--start-from`."""

from __future__ import annotations

import torch

from digitsum.errors import InputError
from digitsum.model.counter import CounterConfig
from digitsum.model.network import SumNetwork
from digitsum.model.registry import build_network, network_sizes
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.options import ImageShape
from digitsum.training.config import TrainConfig


def load_trained(uri: str, option: str, config: TrainConfig) -> SavedModel:
    """Return the model at a path or URI, or the one that comes with digitsum for `packaged`.

    Raises InputError, naming the option, if it is not a model of the network to train.
    """
    model = load_model(packaged_model() if uri == "packaged" else uri)
    if model.network_name != config.network:
        raise InputError(
            f"{model.uri}: holds the network {model.network_name!r}, not {config.network!r}; give "
            f"--network {model.network_name}, or leave it out of {option}."
        )
    return model


def load_start(config: TrainConfig, shape: ImageShape) -> SavedModel | None:
    """Return the model that a training starts from, or None if it starts with fresh weights.

    Raises InputError if it is not a model of the network to train, or scales pixels otherwise.
    """
    if config.start_from is None:
        return None
    start = load_trained(config.start_from, "--start-from", config)
    if start.pixel_scale != config.recipe.pixel_scale:
        raise InputError(
            f"{start.uri}: multiplies pixels by {start.pixel_scale:.6g}, not by "
            f"{config.recipe.pixel_scale:.6g}; give --pixel-scale {start.pixel_scale!r}."
        )
    if config.advanced.train_on_validation and start.reference is None:
        raise InputError(
            f"{start.uri}: holds no reference of its validation images; train it again, or leave "
            "--train-on-validation out."
        )
    start.network.check_shape(shape, config.archive or "--height and --width")
    return start


def initial_network(config: TrainConfig, shape: ImageShape, start: SavedModel | None) -> SumNetwork:
    """Return the network to train on images of a shape, with a model's weights or fresh ones.

    Raises InputError if the model's weights are for another number of digits.
    """
    sizes = network_sizes(start.network) if start else dict(config.recipe.sizes)
    sizes |= {"height": shape.height, "width": shape.width, "num_digits": config.digits}
    if config.network == "counter":
        max_digits = sizes.get("max_digits", CounterConfig.max_digits)
        sizes["max_digits"] = max(config.digits, max_digits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_network(config.network, sizes)
    if start is None:
        return network
    try:
        network.load_state_dict(start.network.state_dict())
    except RuntimeError as error:
        raise InputError(
            f"{start.uri}: was trained on {start.network.config.num_digits} digits in each image, "
            f"not {config.digits}; give its number as --digits."
        ) from error
    return network
