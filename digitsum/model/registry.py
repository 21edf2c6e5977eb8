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
from digitsum.model.network import NetworkConfig, SumNetwork

NetworkName = Literal["counter", "baseline"]

_NETWORKS: dict[str, tuple[type[NetworkConfig], Callable[[Any], SumNetwork]]] = {
    "counter": (CounterConfig, CounterNetwork),
    "baseline": (BaselineConfig, BaselineNetwork),
}


def build_network(name: str, sizes: Mapping[str, Any]) -> SumNetwork:
    """Return a network with fresh weights.

    `sizes` are the fields of its configuration. Raises InputError if the name or a field is
    unknown, or a value has another type or is out of bounds.
    """
    if name not in _NETWORKS:
        known = " and ".join(repr(known) for known in get_args(NetworkName))
        raise InputError(f"the network {shown(name)} is not known; digitsum knows {known}.")
    config_type, network_type = _NETWORKS[name]
    unknown = sizes.keys() - {field.name for field in fields(config_type)}
    if unknown:
        raise InputError(f"the network has no size {shown(min(unknown))}; leave it out.")
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
    return asdict(network.config)


def to_input(pixels_bhw: torch.Tensor, pixel_scale: float) -> torch.Tensor:
    """Return uint8 images (b, h, w) as networks take them: float32 (b, 1, h, w), scaled."""
    return pixels_bhw.unsqueeze(1).to(torch.float32).mul_(pixel_scale)
