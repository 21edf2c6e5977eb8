"""The import of the paper's `model.pth`, a torch state dict, as a model."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import Positional

from digitsum.archive.schema import MAX_DIGIT
from digitsum.errors import InputError, one_line
from digitsum.model.baseline import PIXEL_SCALE, BaselineConfig
from digitsum.model.model_validation import MAX_WEIGHTS_BYTES, check_numbers, shown
from digitsum.model.registry import build_network
from digitsum.model.saved_model import MAX_SCALE, MIN_SCALE, save_model
from digitsum.storage.location import locate


@dataclass(frozen=True, kw_only=True)
class ImportModelConfig:
    """Import the weights of the paper's network, a torch state dict, as a model."""

    weights: Annotated[str, Positional]
    """File, model.pth, with the keys conv1, conv2, conv3, fc1, fc2 (.weight and .bias)."""
    out: str
    """Model to write, a directory or URI."""
    height: int = 40
    """Height in pixels of the images it was trained on."""
    width: int = 168
    """Width in pixels of the images it was trained on."""
    pixel_scale: float = PIXEL_SCALE
    """Factor of pixels 0..255 in training, such as 0.00392157 for 1/255."""

    def __post_init__(self) -> None:
        if not MIN_SCALE <= self.pixel_scale <= MAX_SCALE:
            raise InputError(f"--pixel-scale {self.pixel_scale}: give {MIN_SCALE} to {MAX_SCALE}.")


def import_model(config: ImportModelConfig) -> str:
    """Write the model and return its digest; the file is read as numbers, never as code.

    Raises InputError if it is not a state dict of the baseline network at this image size.
    """
    locate(config.out).check_directory()
    state = _load_state(config.weights)
    try:
        num_classes = len(state["fc2.bias"])
        num_digits, rest = divmod(num_classes - 1, MAX_DIGIT)
        if rest:
            raise InputError(f"{num_classes} classes are not the sums of any number of digits")
        sizes = BaselineConfig(config.height, config.width, num_digits)
        network = build_network("baseline", asdict(sizes))
        for name, tensor in state.items():
            _check_tensor(name, tensor)
        network.load_state_dict(state)
        for name, tensor in network.state_dict().items():
            check_numbers(name, tensor)  # as float32, in which a large float64 is infinite
    except (InputError, AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{config.weights}: not the weights of the baseline network for {config.height}x"
            f"{config.width} pixels: {one_line(error).rstrip('.')}; correct --height and --width, "
            "or the file."
        ) from error
    card = (
        f"# Baseline network, imported\n\nWeights: {Path(config.weights).name}; its training is "
        "not known to digitsum. Measure it with `digitsum evaluate`.\n"
    )
    scale = config.pixel_scale
    return save_model(config.out, "baseline", network, metrics={}, card=card, pixel_scale=scale)


def _load_state(path: str) -> dict[str, Any]:
    file = Path(path).expanduser()
    if not file.is_file():  # a pipe would block
        raise InputError(f"{path}: not a file; give the saved state dict.")
    size = file.stat().st_size
    # Torch writes zip files, which may unpack to a thousand times their size.
    not_a_zip = suppress(OSError, zipfile.BadZipFile, NotImplementedError, ValueError)
    with not_a_zip, zipfile.ZipFile(file) as zipped:
        size = max(size, sum(entry.file_size for entry in zipped.infolist()))
    if size > MAX_WEIGHTS_BYTES:
        raise InputError(
            f"{path}: holds {size:,} bytes, more than the {MAX_WEIGHTS_BYTES:,} of the largest "
            "network; give the saved state dict alone."
        )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's unpickler raises many types (UnpicklingError, KeyError, IndexError, ...), and each
        # means that this is not a state dict.
        raise InputError(
            f"{path}: not a state dict of plain tensors, the only content that is loaded: save it "
            f"with torch.save(model.state_dict(), path). ({one_line(error)[:200]})"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a state dict of tensors.")
    return state


def _check_tensor(name: object, tensor: Any) -> None:
    """Raise InputError unless it is a plain tensor of floats of any precision."""
    is_tensor = type(tensor) is torch.Tensor
    if not (is_tensor and tensor.layout == torch.strided and tensor.is_floating_point()):
        found = tensor.dtype if is_tensor else type(tensor).__name__
        raise InputError(f"{shown(name)} is {found}, not a plain tensor of floats")
