"""The networks digitsum knows, by the names that bundles and `--model` use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, Literal, get_args

import torch

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterNetwork
from digitsum.model.counter_config import CounterConfig
from digitsum.model.sum_network import SumNetwork

NetworkName = Literal["counter", "baseline"]

_NETWORKS: dict[str, tuple[type, Callable[[Any], SumNetwork]]] = {
    "counter": (CounterConfig, CounterNetwork),
    "baseline": (BaselineConfig, BaselineNetwork),
}


def build_network(name: str, sizes: Mapping[str, Any]) -> SumNetwork:
    """Return a network with fresh weights.

    `sizes` are the fields of its configuration. Raises InputError where the name or a field is
    unknown, or a value is of another type or out of bounds: a bundle comes from anywhere.
    """
    if not isinstance(name, str) or name not in _NETWORKS:
        known = " and ".join(repr(known) for known in get_args(NetworkName))
        raise InputError(f"a network {name!r} is not known; digitsum knows {known}.")
    config_type, network_type = _NETWORKS[name]
    types = {field.name: type(field.default) for field in fields(config_type)}
    for field, value in sizes.items():
        if field not in types or type(value) is not types[field]:
            raise InputError(
                f"the network's {field!r} cannot be {value!r}; it has {sorted(types)}."
            )
    return network_type(config_type(**sizes))


def network_sizes(network: SumNetwork) -> dict[str, Any]:
    """Return the fields of a network's configuration, as `build_network` takes them."""
    sizes: dict[str, Any] = asdict(network.config)  # type: ignore[call-overload]
    return sizes


def to_input(pixels_bhw: torch.Tensor, pixel_scale: float) -> torch.Tensor:
    """Return uint8 images (b, h, w) as the networks take them: float32 (b, 1, h, w), scaled."""
    return pixels_bhw.unsqueeze(1).to(torch.float32).mul_(pixel_scale)
