"""Targets that read models from elsewhere, a saved model and torch's weights, and their seeds."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_safetensors
from targets import refused_in_a_line

from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.import_model import ImportModelConfig, import_model
from digitsum.model.registry import network_sizes
from digitsum.model.saved_model import (
    CONFIG_FILE,
    METRICS_FILE,
    WEIGHTS_FILE,
    SavedModel,
    load_model,
)
from digitsum.model.torch_backend import TorchPredictor
from digitsum.options import ReadOptions
from digitsum.report.inspect import inspect

LARGEST_PASS = 1 << 16


def load_forged_model(data: bytes, place: Path) -> None:
    """Load a model of a configuration, a zero byte, and weights, with a digest that fits them.

    A model that loads must also predict: its weights are finite.
    """
    text, _, weights = data.partition(b"\0")
    try:
        config = json.loads(text)
        content = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
        if isinstance(config, dict):
            config["digest"] = hashlib.sha256(content + b"\0" + weights).hexdigest()
            text = json.dumps(config).encode()
    except (ValueError, RecursionError):
        pass
    (place / CONFIG_FILE).write_bytes(text)
    (place / WEIGHTS_FILE).write_bytes(weights)
    (place / METRICS_FILE).write_bytes(text)
    with refused_in_a_line():
        model = load_model(str(place))
        assert all(tensor.isfinite().all() for tensor in model.network.state_dict().values())
        inspect(str(place), ReadOptions()).lines()
        if model.shape.num_pixels <= LARGEST_PASS:
            _check_predicts(model)


def _check_predicts(model: SavedModel) -> None:
    predictor = TorchPredictor(model, batch_size=2)
    predicted = predictor.predict(np.zeros((2, model.shape.height, model.shape.width), np.uint8))
    assert predicted.sums.shape == predicted.confidences.shape == (2,)
    assert 0 <= predicted.sums.min() <= predicted.sums.max() <= model.network.config.max_digits * 9


def import_weights(data: bytes, place: Path) -> None:
    """Import a torch state dict."""
    file = place / "model.pth"
    file.write_bytes(data)
    with refused_in_a_line():
        model = str(place / "model")
        digest = import_model(ImportModelConfig(weights=str(file), out=model))
        assert load_model(model).digest == digest


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
