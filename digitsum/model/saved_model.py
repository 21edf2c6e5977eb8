"""A trained model on disk: config.json, model.safetensors, metrics.json, MODEL_CARD.md.

A model comes from anywhere. Nothing in it is executed: the configuration is numbers and names, each
checked, and the weights are safetensors. It is refused if its digest does not cover both. Files
larger than they need to be are not read, and the network is built without memory first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from safetensors.torch import save as save_safetensors

from digitsum.errors import InputError, one_line
from digitsum.manifest import from_python, parse_json
from digitsum.model.model_validation import MAX_WEIGHTS_BYTES, load_weights
from digitsum.model.network import SumNetwork
from digitsum.model.outputs import PredictionStats
from digitsum.model.registry import build_network, network_sizes
from digitsum.options import ImageShape
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location, locate

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
METRICS_FILE = "metrics.json"
CARD_FILE = "MODEL_CARD.md"

MAX_CONFIG_BYTES = 64 * 1024
"""More than a hundred times what the fields take."""
MAX_METRICS_BYTES = 16 * 1024 * 1024

PACKAGED_MODEL = Path(__file__).parent / "packaged"

MIN_SCALE, MAX_SCALE = 1e-6, 1e6
Scale = Annotated[float, Field(ge=MIN_SCALE, le=MAX_SCALE)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The content of config.json; `registry.build_network` checks the name and the sizes."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    format: Literal[1]
    network: str
    sizes: dict[str, Any]
    pixel_scale: Scale
    temperature: Scale
    cascade_below: Annotated[float, Field(ge=0, le=1)]
    digest: str
    """SHA-256, hexadecimal, of the other fields and the weights: the model's identity."""


@dataclass(frozen=True)
class ModelMetrics:
    """The only content of metrics.json that digitsum reads."""

    reference: PredictionStats | None = None


@dataclass(frozen=True)
class SavedModel:
    """A trained model, loaded: its network and what belongs to it."""

    network_name: str
    network: SumNetwork
    pixel_scale: float
    """Factor of uint8 pixels."""
    temperature: float
    """Divisor of logits that calibrates probabilities (Guo et al., ICML 2017)."""
    uri: str
    """The path or URI it was loaded from."""
    digest: str
    cascade_below: float = 0.0
    """Confidence, 0..1, below which an image takes a second pass (`cascade.py`)."""
    reference: PredictionStats | None = None
    """Counts of its predictions for its validation images; None if it has no metrics."""

    @property
    def shape(self) -> ImageShape:
        """Shape of the images it was trained on, and of images without a recorded shape."""
        return self.network.config.shape


def save_model(
    uri: str,
    network_name: str,
    network: SumNetwork,
    *,
    metrics: Mapping[str, Any],
    card: str,
    pixel_scale: float,
    temperature: float = 1.0,
    cascade_below: float = 0.0,
) -> str:
    """Write a model and return its digest; config.json comes last and makes it one."""
    weights = weights_to_bytes(network)
    fields = {
        "format": 1,
        "network": network_name,
        "sizes": network_sizes(network),
        "pixel_scale": pixel_scale,
        "temperature": temperature,
        "cascade_below": cascade_below,
        "digest": "",
    }
    config = from_python(ModelConfig, fields, uri)
    digest = _digest(config, weights)
    location = locate(uri)
    publish_bytes(weights, location.join(WEIGHTS_FILE))
    publish_bytes(_json(metrics), location.join(METRICS_FILE))
    publish_bytes(card.encode(), location.join(CARD_FILE))
    publish_bytes(_json(asdict(replace(config, digest=digest))), location.join(CONFIG_FILE))
    return digest


def packaged_model() -> str:
    """Return the path of the model that comes with digitsum, the default."""
    return str(PACKAGED_MODEL)


def load_model(uri: str) -> SavedModel:
    """Return a model, its network in evaluation mode on the CPU.

    `uri` is a path, a URI, or `packaged` for the model that comes with digitsum. Raises InputError
    if there is none, if it has another format, or if it fails its digest.
    """
    location = locate(packaged_model() if uri == "packaged" else uri)
    config_file = location.join(CONFIG_FILE)
    if not config_file.is_file():
        raise InputError(
            f"{uri}: not a model: it has no {CONFIG_FILE}; make one with `digitsum train` or "
            "`digitsum import model`."
        )
    config = parse_json(ModelConfig, config_file.read_bytes(MAX_CONFIG_BYTES), config_file.uri)
    weights = location.join(WEIGHTS_FILE).read_bytes(MAX_WEIGHTS_BYTES)
    if config.digest != _digest(config, weights):
        raise InputError(
            f"{uri}: the model's content does not match its digest: it was changed or is "
            "incomplete; train or import it again."
        )
    try:
        # Sizes are only claims until the weights fit them, so they take no memory before.
        with torch.device("meta"):
            network = build_network(config.network, config.sizes)
        network.load_state_dict(load_weights(weights, network), assign=True)
    except (TypeError, RuntimeError, InputError) as error:
        reason = one_line(error)[:400]  # torch lists every tensor that does not fit
        raise InputError(f"{uri}: not a model that can be loaded: {reason}") from error
    return SavedModel(
        config.network,
        network.eval(),
        config.pixel_scale,
        config.temperature,
        uri,
        config.digest,
        config.cascade_below,
        _read_reference(location),
    )


def weights_to_bytes(network: torch.nn.Module) -> bytes:
    """Return a network's weights as safetensors."""
    state = network.state_dict()
    return save_safetensors({name: values.cpu().contiguous() for name, values in state.items()})


def num_parameters(network: torch.nn.Module) -> int:
    """Return the number of a network's trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _read_reference(location: Location) -> PredictionStats | None:
    """Return the reference in a model's metrics; None if it is missing or unreadable."""
    file = location.join(METRICS_FILE)
    with suppress(InputError):  # no score depends on it
        if file.is_file():
            return parse_json(ModelMetrics, file.read_bytes(MAX_METRICS_BYTES), file.uri).reference
    return None


def _digest(config: ModelConfig, weights: bytes) -> str:
    fields = asdict(config)
    del fields["digest"]
    content = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(content + b"\0" + weights).hexdigest()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
