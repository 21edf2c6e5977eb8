"""Importing the paper's `model.pth`, a torch state dict, into a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import Positional

from digitsum.archive.location import locate
from digitsum.archive.schema import MAX_DIGIT
from digitsum.errors import InputError, one_line
from digitsum.model.baseline import PIXEL_SCALE, BaselineConfig, BaselineNetwork
from digitsum.model.bundle import save_bundle


@dataclass(frozen=True, kw_only=True)
class ImportModelConfig:
    """Import the weights of the paper's network, a torch state dict, into a bundle."""

    weights: Annotated[str, Positional]
    """The file, model.pth, with the keys conv1, conv2, conv3, fc1, fc2 (.weight and .bias)."""
    bundle: str
    """Bundle to write: a directory or URI."""
    height: int = 40
    """Height in pixels of the images it was trained on."""
    width: int = 168
    """Width in pixels of the images it was trained on."""
    pixel_scale: float = PIXEL_SCALE
    """What pixels 0..255 were multiplied with in training, such as 0.00392157 for 1/255."""

    def __post_init__(self) -> None:
        if not 0 < self.pixel_scale < float("inf"):
            raise InputError(f"--pixel-scale {self.pixel_scale}: give a number above 0.")


def import_model(config: ImportModelConfig) -> str:
    """Write the bundle and return its digest; the file is read as numbers only, never as code.

    Raises InputError where it is not a state dict of the network at this image size.
    """
    locate(config.bundle).check_directory()
    state = _load_state(config.weights)
    try:
        num_classes = len(state["fc2.bias"])
        num_digits, rest = divmod(num_classes - 1, MAX_DIGIT)
        if rest:
            raise InputError(
                f"{config.weights}: predicts {num_classes} classes, which are not the sums of "
                "any number of digits (9 for each, and 1); it is another network's."
            )
        sizes = BaselineConfig(config.height, config.width, num_digits)
        network = BaselineNetwork(sizes)
        network.load_state_dict(state)
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{config.weights}: not the weights of the baseline network for {config.height}x"
            f"{config.width} pixels: {one_line(error)}; correct --height and --width, or the file."
        ) from error
    card = (
        f"# Baseline network, imported\n\nWeights: {Path(config.weights).name}; its training is "
        "not known to digitsum. Measure it with `digitsum evaluate`.\n"
    )
    return save_bundle(
        config.bundle,
        "baseline",
        network,
        metrics={},
        card=card,
        pixel_scale=config.pixel_scale,
    )


def _load_state(path: str) -> dict[str, Any]:
    try:
        state = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give the saved state dict.") from error
    except Exception as error:
        # torch's unpickler raises whatever the bytes lead it into (UnpicklingError, KeyError,
        # IndexError, ...); all of them mean that this is no state dict.
        raise InputError(
            f"{path}: not a state dict of plain tensors, which is all that is loaded: save it with "
            f"torch.save(model.state_dict(), path). ({one_line(error)[:200]})"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a state dict of tensors.")
    return state
