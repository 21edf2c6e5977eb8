"""Targets that read models from elsewhere: a saved model, and torch's weights."""

import hashlib
import json
from pathlib import Path

import numpy as np
from rejection import refused_in_a_line

from digitsum.model.import_model import ImportModelConfig, import_model
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
