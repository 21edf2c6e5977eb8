"""Seeds of models and weights."""

import io
import json
from collections.abc import Iterator

import torch
from safetensors.torch import save as save_safetensors

from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.registry import network_sizes


def models() -> Iterator[bytes]:
    """Yield configurations and weights, a zero byte between them."""
    counter = CounterConfig(8, 16, 1, 2, 1, 1, 1, 1, 1)
    for name, network in (
        ("counter", CounterNetwork(counter)),
        ("baseline", BaselineNetwork(BaselineConfig(20, 20, 1))),
    ):
        config = {
            "format": 1,
            "network": name,
            "sizes": network_sizes(network),
            "pixel_scale": 0.1,
            "temperature": 1.0,
            "cascade_below": 0.0,
        }
        weights = {n: torch.zeros_like(t) for n, t in network.state_dict().items()}
        yield json.dumps(config).encode() + b"\0" + save_safetensors(weights)


def weights() -> Iterator[bytes]:
    """Yield torch state dicts."""
    for zipped in (True, False):
        out = io.BytesIO()
        state = {"fc2.bias": torch.zeros(2), "fc2.weight": torch.zeros(2, 1)}
        torch.save(state, out, _use_new_zipfile_serialization=zipped)
        yield out.getvalue()
