"""Beginning a training with the weights of a model: `--start-from`."""

from __future__ import annotations

from digitsum.errors import InputError
from digitsum.model.network import SumNetwork
from digitsum.model.registry import build_network, network_sizes
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.options import ImageShape
from digitsum.training.config import TrainConfig

PACKAGED = "packaged"


def load_trained(uri: str) -> SavedModel:
    """Return the model of a place, or the one that comes with digitsum where it is `packaged`."""
    return load_model(packaged_model() if uri == PACKAGED else uri)


def load_start(config: TrainConfig, shape: ImageShape) -> SavedModel | None:
    """Return the model that a training begins with; None where it begins with fresh weights.

    Raises InputError where it is no model, or of another network than is to be trained, or where
    its input is made otherwise.
    """
    if config.start_from is None:
        return None
    start = load_trained(config.start_from)
    if start.network_name != config.network:
        raise InputError(
            f"{start.uri}: holds the network {start.network_name!r}, not {config.network!r}; give "
            f"--network {start.network_name}."
        )
    if start.pixel_scale != config.recipe.pixel_scale:
        raise InputError(
            f"{start.uri}: takes pixels times {start.pixel_scale:.6g}, not times "
            f"{config.recipe.pixel_scale:.6g}; give --pixel-scale {start.pixel_scale!r}."
        )
    if config.train_on_validation and start.reference is None:
        raise InputError(
            f"{start.uri}: holds no reference of its validation images; train it anew, or leave "
            "--train-on-validation out."
        )
    start.network.check_shape(shape, config.archive or "--height and --width")
    return start


def started_network(config: TrainConfig, shape: ImageShape, start: SavedModel) -> SumNetwork:
    """Return a network with a model's weights, for images of a shape.

    Raises InputError where the weights are those of another number of digits.
    """
    sizes = network_sizes(start.network)
    sizes |= {"height": shape.height, "width": shape.width, "num_digits": config.digits}
    if "max_digits" in sizes:
        sizes["max_digits"] = max(config.digits, sizes["max_digits"])
    network = build_network(start.network_name, sizes)
    try:
        network.load_state_dict(start.network.state_dict())
    except RuntimeError as error:
        raise InputError(
            f"{start.uri}: was trained on {start.network.config.num_digits} digits in each image, "
            f"and cannot go on with {config.digits}; give its number by --digits."
        ) from error
    return network
