"""The networks digitsum knows, by the names that bundles and `--model` use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Literal

import torch

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork

NetworkName = Literal["baseline"]


def build_network(name: str, sizes: Mapping[str, Any]) -> BaselineNetwork:
    """Return a network with fresh weights.

    `sizes` are the fields of its configuration. Raises InputError where the name or a field is
    unknown, or a value is of another type or out of bounds: a bundle comes from anywhere.
    """
    if name != "baseline":
        raise InputError(f"a network {name!r} is not known; digitsum knows 'baseline'.")
    types = {field.name: type(field.default) for field in fields(BaselineConfig)}
    for field, value in sizes.items():
        if field not in types or type(value) is not types[field]:
            raise InputError(
                f"the network's {field!r} cannot be {value!r}; it has {sorted(types)}."
            )
    return BaselineNetwork(BaselineConfig(**sizes))


def network_sizes(network: BaselineNetwork) -> dict[str, Any]:
    """Return the fields of a network's configuration, as `build_network` takes them."""
    return asdict(network.config)


def to_input(pixels_bhw: torch.Tensor, pixel_scale: float) -> torch.Tensor:
    """Return uint8 images (b, h, w) as the networks take them: float32 (b, 1, h, w), scaled."""
    return pixels_bhw.unsqueeze(1).to(torch.float32).mul_(pixel_scale)
