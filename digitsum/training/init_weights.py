"""The models that a training starts from, learns from or is averaged with, and first weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from digitsum.errors import InputError
from digitsum.model.counter import CounterConfig
from digitsum.model.network import SumNetwork
from digitsum.model.registry import build_network, network_sizes
from digitsum.model.saved_model import SavedModel, load_model
from digitsum.options import ImageShape
from digitsum.training.config import TrainConfig


@dataclass(frozen=True)
class UsedModels:
    """The trained models that a training uses."""

    start: SavedModel | None
    """The model whose weights the training starts with, or None for fresh ones."""
    teachers: tuple[SavedModel, ...]
    averaged_with: tuple[SavedModel, ...]


def load_models(config: TrainConfig, shape: ImageShape) -> UsedModels:
    """Return the models that a training on images of a shape uses.

    Raises InputError if one is not a model, holds another network than is to be trained, or does
    not fit the images or the options.
    """
    start = _load(config.start_from, "--start-from", config) if config.start_from else None
    teachers = tuple(_load(uri, "--teachers", config) for uri in config.advanced.teachers)
    uris = config.advanced.average_with
    averaged_with = tuple(_load(uri, "--average-with", config) for uri in uris)
    scale = config.recipe.pixel_scale
    if start and start.pixel_scale != scale:
        raise InputError(
            f"{start.uri}: multiplies pixels by {start.pixel_scale:.6g}, not by {scale:.6g}; give "
            f"--pixel-scale {start.pixel_scale!r}."
        )
    if start and config.advanced.train_on_validation and start.reference is None:
        raise InputError(
            f"{start.uri}: holds no reference of its validation images; train it again, or leave "
            "--train-on-validation out."
        )
    for teacher in teachers:
        num_digits = teacher.network.config.num_digits
        if config.network == "baseline" and num_digits != config.digits:
            raise InputError(
                f"{teacher.uri}: predicts the sums of {num_digits} digits, and cannot teach those "
                f"of {config.digits}; leave it out of --teachers."
            )
    for reader in (start, *teachers) if start else teachers:
        reader.network.check_shape(shape, config.archive or "--height and --width")
    for model in averaged_with:
        fits = start and _weight_shapes(model) == _weight_shapes(start)
        if not fits or model.pixel_scale != scale:
            raise InputError(
                f"{model.uri}: has other sizes or another --pixel-scale than the training, so its "
                "weights cannot be averaged; leave it out of --average-with."
            )
    return UsedModels(start, teachers, averaged_with)


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


def _load(uri: str, option: str, config: TrainConfig) -> SavedModel:
    model = load_model(uri)
    if model.network_name != config.network:
        raise InputError(
            f"{model.uri}: holds the network {model.network_name!r}, not {config.network!r}; give "
            f"--network {model.network_name}, or leave it out of {option}."
        )
    return model


def _weight_shapes(model: SavedModel) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.network.state_dict().items()}
