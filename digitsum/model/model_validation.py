"""Checks of a model from outside, before it is built: its configuration and its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from digitsum.errors import InputError, one_line

MODEL_FORMAT = 1
MAX_CONFIG_BYTES = 64 * 1024
"""More than a hundred times what the fields take."""
MAX_PARAMETERS = 2**28
"""Most numbers in a network: 1 GiB, 600 times the packaged one."""
# safetensors describes a tensor in about 150 bytes.
_MAX_HEADER_BYTES = 64 * 1024
MAX_WEIGHTS_BYTES = 4 * MAX_PARAMETERS + _MAX_HEADER_BYTES
_HEADER_LENGTH_BYTES = 8
_MAX_SCALE = 1e6
_MAX_SHOWN = 80
_DIGEST_CHARACTERS = 64
_OPTIONAL = {"cascade_below"}


@dataclass(frozen=True)
class SavedModelConfig:
    """The content of config.json; `registry.build_network` checks the name and the sizes."""

    network: str
    sizes: Mapping[str, Any]
    pixel_scale: float
    """Factor of uint8 pixels."""
    temperature: float
    """Divisor of logits."""
    cascade_below: float = 0.0
    """Confidence below which an image takes a second pass; 0 if it is missing."""
    format: int = MODEL_FORMAT

    def __post_init__(self) -> None:
        for name in ("pixel_scale", "temperature"):
            value = getattr(self, name)
            if type(value) is not float or not 0 < value < float("inf"):
                raise InputError(f"{name} is {shown(value)}, not a number above 0")
            if not 1 / _MAX_SCALE <= value <= _MAX_SCALE:
                raise InputError(f"{name} is {value!r}, not 1e-06 to 1e+06")
        below = self.cascade_below
        if type(below) is not float or not 0 <= below <= 1:
            raise InputError(f"cascade_below is {shown(below)}, not a number of 0.0 to 1.0")
        if type(self.sizes) is not dict:
            raise InputError(f"sizes is {shown(self.sizes)}, not an object of numbers")

    @staticmethod
    def from_json(config: Mapping[str, Any]) -> SavedModelConfig:
        """Return the fields, checked; raise InputError, naming the field, if one is wrong."""
        known = {field.name for field in fields(SavedModelConfig)}
        unknown, missing = set(config) - known, known - set(config) - _OPTIONAL
        if unknown or missing:
            name = min(unknown or missing)
            raise InputError(f"field {shown(name)} is {'unknown' if unknown else 'missing'}")
        return SavedModelConfig(**config)


def parse_config(content: bytes, where: str) -> tuple[dict[str, Any], str]:
    """Return the fields of a config.json, not yet checked, and the digest recorded with them.

    Raises InputError, naming `where`, if it is not a JSON object of this format.
    """
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {one_line(error)[:_MAX_SHOWN]}") from error
    model_format = config.get("format") if isinstance(config, dict) else None
    if type(model_format) is not int or model_format != MODEL_FORMAT:
        raise InputError(f"{where}: not a model of format {MODEL_FORMAT}; update digitsum.")
    digest = config.pop("digest", None)
    is_digest = isinstance(digest, str) and len(digest) == _DIGEST_CHARACTERS
    return config, digest if is_digest else ""


def load_weights(content: bytes, network: nn.Module) -> Mapping[str, Tensor]:
    """Return the tensors of a safetensors file, if they have the dtypes of the network's.

    The network may be on the meta device; `load_state_dict` checks that all are there, and their
    shapes. Raises InputError if the content is not such a file, and, naming the tensor, if one has
    another dtype, holds NaN or infinity, or a variance below 0.
    """
    header_bytes = int.from_bytes(content[:_HEADER_LENGTH_BYTES], "little")
    if header_bytes > _MAX_HEADER_BYTES:
        raise InputError(
            f"the weights are not safetensors: their header claims {header_bytes:,} bytes, more "
            f"than {_MAX_HEADER_BYTES:,}"
        )
    try:
        tensors: dict[str, Tensor] = load_safetensors(content)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the weights are not safetensors: {one_line(error)}") from error
    for name, expected in network.state_dict().items():
        if name not in tensors:
            continue
        if tensors[name].dtype != expected.dtype:
            raise InputError(
                f"tensor {name!r} is {tensors[name].dtype}, but the network's is {expected.dtype}"
            )
        check_numbers(name, tensors[name])
    return tensors


def check_numbers(name: str, tensor: Tensor) -> None:
    """Raise InputError, naming the tensor, if it holds NaN, infinity, or a variance below 0."""
    # A finite sum is a quick proof; the sum of finite numbers may overflow.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise InputError(
            f"tensor {shown(name)} holds NaN or infinity: such a network predicts nothing; "
            "train or save it again"
        )
    if name.endswith("running_var") and bool((tensor < 0).any()):
        raise InputError(f"tensor {name!r} holds a variance below 0; train or save it again")


def shown(value: object) -> str:
    """Return a value from outside as a message may show it: one short line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
