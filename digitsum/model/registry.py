"""The networks that digitsum knows, by the names that models and `train --network` use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, Literal, get_args

import torch

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.model_validation import MAX_PARAMETERS, shown
from digitsum.model.network import SumNetwork

NetworkName = Literal["counter", "baseline"]

_MAX_SIZE = 2**31
_NETWORKS: dict[str, tuple[type, Callable[[Any], SumNetwork]]] = {
    "counter": (CounterConfig, CounterNetwork),
    "baseline": (BaselineConfig, BaselineNetwork),
}


def build_network(name: str, sizes: Mapping[str, Any]) -> SumNetwork:
    """Return a network with fresh weights.

    `sizes` are the fields of its configuration. A model comes from anywhere, so this raises
    InputError if the name or a field is unknown, or a value has another type or is out of bounds.
    """
    if not isinstance(name, str) or name not in _NETWORKS:
        known = " and ".join(repr(known) for known in get_args(NetworkName))
        raise InputError(f"the network {shown(name)} is not known; digitsum knows {known}.")
    config_type, network_type = _NETWORKS[name]
    types = {field.name: type(field.default) for field in fields(config_type)}
    for field, value in sizes.items():
        is_of_type = field in types and type(value) is types[field]
        if not is_of_type or not abs(value) < _MAX_SIZE:
            raise InputError(
                f"the network's {shown(field)} cannot be {shown(value)}; it has {sorted(types)}."
            )
    network_config = config_type(**sizes)
    with torch.device("meta"):  # takes no memory
        num_parameters = sum(p.numel() for p in network_type(network_config).parameters())
    if num_parameters > MAX_PARAMETERS:
        raise InputError(
            f"a network of {num_parameters:,} parameters is more than the {MAX_PARAMETERS:,} that "
            "digitsum builds; make the images or the layers smaller."
        )
    return network_type(network_config)


def network_sizes(network: SumNetwork) -> dict[str, Any]:
    """Return the fields of a network's configuration, as `build_network` takes them."""
    sizes: dict[str, Any] = asdict(network.config)  # type: ignore[call-overload]
    return sizes


def to_input(pixels_bhw: torch.Tensor, pixel_scale: float) -> torch.Tensor:
    """Return uint8 images (b, h, w) as networks take them: float32 (b, 1, h, w), scaled."""
    return pixels_bhw.unsqueeze(1).to(torch.float32).mul_(pixel_scale)
