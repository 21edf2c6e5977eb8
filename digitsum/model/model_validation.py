"""Weights from outside: what is checked of tensors before a network is given them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from digitsum.errors import InputError, one_line

MAX_PARAMETERS = 2**28
"""Numbers that a network may have: 1 GiB of them, 600 times what the packaged one has."""


# What safetensors says of each tensor takes some 150 bytes.
_MAX_HEADER_BYTES = 64 * 1024
MAX_WEIGHTS_BYTES = 4 * MAX_PARAMETERS + _MAX_HEADER_BYTES
_LENGTH_BYTES = 8


def load_weights(content: bytes, network: nn.Module) -> Mapping[str, Tensor]:
    """Return the tensors of a safetensors file, if they are numbers of the network's very types.

    The network may be on the meta device. That all are there and of the right shapes,
    `load_state_dict` checks. Raises InputError, naming the tensor, where one is of another type,
    holds NaN or infinity, or a variance below 0; and where the content is no such file.
    """
    header_bytes = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if header_bytes > _MAX_HEADER_BYTES:
        raise InputError(
            f"the weights are no safetensors: their header claims {header_bytes:,} bytes, more "
            f"than {_MAX_HEADER_BYTES:,}"
        )
    try:
        found: dict[str, Tensor] = load_safetensors(content)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the weights are no safetensors: {one_line(error)}") from error
    for name, expected in network.state_dict().items():
        if name not in found:
            continue
        if found[name].dtype != expected.dtype:
            raise InputError(
                f"tensor {name!r} is of {found[name].dtype}, and the network's of {expected.dtype}"
            )
        check_numbers(name, found[name])
    return found


def check_numbers(name: str, tensor: Tensor) -> None:
    """Raise InputError, naming the tensor, at NaN, infinity, or a variance below 0."""
    # The sum of finite numbers may overflow; it is only a quick way to see that there is no other.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise InputError(
            f"tensor {shown(name)} holds NaN or infinity: such a network predicts nothing; "
            "train or save it again"
        )
    if name.endswith("running_var") and bool((tensor < 0).any()):
        raise InputError(f"tensor {name!r} holds a variance below 0; train or save it again")


MODEL_FORMAT = 1
MAX_CONFIG_BYTES = 64 * 1024
"""The fields take some 500."""
MAX_SCALE = 1e6
_MAX_SHOWN = 80
_DIGEST_CHARACTERS = 64
_OPTIONAL = {"cascade_below"}


@dataclass(frozen=True)
class SavedModelConfig:
    """What config.json says; `networks.build_network` checks the name and the sizes."""

    network: str
    sizes: Mapping[str, Any]
    pixel_scale: float
    """What uint8 pixels are multiplied with."""
    temperature: float
    """What logits are divided by."""
    cascade_below: float = 0.0
    """Confidence below which an image is looked at a second time; models of old lack it."""
    format: int = MODEL_FORMAT

    def __post_init__(self) -> None:
        for name in ("pixel_scale", "temperature"):
            value = getattr(self, name)
            if type(value) is not float or not 0 < value < float("inf"):
                raise InputError(f"{name} is {shown(value)}, not a number above 0")
            if not 1 / MAX_SCALE <= value <= MAX_SCALE:
                raise InputError(f"{name} is {value!r}, not 1e-06 to 1e+06")
        again = self.cascade_below
        if type(again) is not float or not 0 <= again <= 1:
            raise InputError(f"cascade_below is {shown(again)}, not a number of 0.0 to 1.0")
        if type(self.sizes) is not dict:
            raise InputError(f"sizes is {shown(self.sizes)}, not an object of numbers")

    @staticmethod
    def from_json(config: Mapping[str, Any]) -> SavedModelConfig:
        """Return the fields, checked; raises InputError, saying which is wrong."""
        known = {field.name for field in fields(SavedModelConfig)}
        unknown, missing = set(config) - known, known - set(config) - _OPTIONAL
        if unknown or missing:
            name = min(unknown or missing)
            raise InputError(f"field {shown(name)} is {'unknown' if unknown else 'missing'}")
        return SavedModelConfig(**config)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them, without the digest."""
        return asdict(self)


def parse_config(content: bytes, where: str) -> tuple[dict[str, Any], str]:
    """Return the fields of a config.json, not yet checked, and the digest recorded with them.

    Raises InputError, naming `where`, where it is no JSON object of this format.
    """
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {one_line(error)[:_MAX_SHOWN]}") from error
    found = config.get("format") if isinstance(config, dict) else None
    if type(found) is not int or found != MODEL_FORMAT:
        raise InputError(f"{where}: not a model of format {MODEL_FORMAT}; update digitsum.")
    digest = config.pop("digest", None)
    is_digest = isinstance(digest, str) and len(digest) == _DIGEST_CHARACTERS
    return config, digest if is_digest else ""


def shown(value: object) -> str:
    """Return a value from outside as a message may show it: one line, and not a long one."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
