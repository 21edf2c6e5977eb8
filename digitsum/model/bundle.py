"""A trained model on disk: config.json, model.safetensors, metrics.json, MODEL_CARD.md.

Nothing in a bundle is code, and nothing in it is executed: the configuration is numbers and names
that are checked one by one, the weights are safetensors. The digest, recorded in config.json,
covers both; a bundle in which either was changed is refused. A bundle comes from anywhere, so the
network is built without memory first, and no file is read that is larger than it can have reason
to be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors

from digitsum.archive.location import Location, locate
from digitsum.archive.publish import publish_bytes
from digitsum.archive.schema import ImageShape
from digitsum.errors import InputError, one_line
from digitsum.model.bundle_config import MAX_CONFIG_BYTES, BundleConfig, parse_config
from digitsum.model.distributions import Distributions
from digitsum.model.networks import build_network, network_sizes
from digitsum.model.sum_network import SumNetwork
from digitsum.model.weights import MAX_WEIGHTS_BYTES, load_weights

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
METRICS_FILE = "metrics.json"
CARD_FILE = "MODEL_CARD.md"

MAX_METRICS_BYTES = 16 * 1024 * 1024

PACKAGED_BUNDLE = Path(__file__).parent / "packaged"


@dataclass(frozen=True)
class Bundle:
    """A network with its weights, and how its input is made."""

    network_name: str
    network: SumNetwork
    pixel_scale: float
    """What uint8 pixels are multiplied with."""
    temperature: float
    """What logits are divided by, so that probabilities are as often right as they say."""
    uri: str
    """Where it was loaded from."""
    digest: str
    """SHA-256, hexadecimal, of configuration and weights: the model's identity."""
    look_again_below: float = 0.0
    """Confidence, 0..1, below which an image is looked at a second time (`second_look.py`)."""
    reference: Distributions | None = None
    """How what it predicted of the images that it was validated on is distributed."""

    @property
    def shape(self) -> ImageShape:
        """Shape of the images it was trained on; of images that do not say theirs."""
        return self.network.config.shape


def save_bundle(
    uri: str,
    network_name: str,
    network: SumNetwork,
    *,
    metrics: Mapping[str, Any],
    card: str,
    pixel_scale: float,
    temperature: float = 1.0,
    look_again_below: float = 0.0,
) -> str:
    """Write a bundle and return its digest; config.json, which makes it one, is written last."""
    weights = save_safetensors(
        {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    )
    sizes = network_sizes(network)
    config = BundleConfig(
        network_name, sizes, pixel_scale, float(temperature), float(look_again_below)
    ).to_json()
    digest = _digest(config, weights)
    location = locate(uri)
    publish_bytes(weights, location.join(WEIGHTS_FILE))
    publish_bytes(_json(metrics), location.join(METRICS_FILE))
    publish_bytes(card.encode(), location.join(CARD_FILE))
    publish_bytes(_json({**config, "digest": digest}), location.join(CONFIG_FILE))
    return digest


def packaged_bundle() -> str:
    """Return the path of the bundle that comes with digitsum, and scores where none is named."""
    return str(PACKAGED_BUNDLE)


def load_bundle(uri: str) -> Bundle:
    """Return the bundle at a path or URI, its network in evaluation mode on the CPU.

    Raises InputError where there is none, where it is of another format or fails its digest.
    """
    location = locate(uri)
    fields, recorded = _read_config(location)
    weights = location.join(WEIGHTS_FILE).read_bytes(MAX_WEIGHTS_BYTES)
    digest = _digest(fields, weights)
    if recorded != digest:
        raise InputError(
            f"{uri}: the bundle's content does not match its digest: it was changed or is "
            "incomplete; train or import it again."
        )
    try:
        config = BundleConfig.from_json(fields)
        # Sizes are only claims until the weights fit them, so no memory is given to them before.
        with torch.device("meta"):
            network = build_network(config.network, config.sizes)
        network.load_state_dict(load_weights(weights, network), assign=True)
    except (TypeError, RuntimeError, InputError) as error:
        raise InputError(f"{uri}: not a bundle that can be loaded: {one_line(error)}") from error
    reference = _read_reference(location)
    return Bundle(
        config.network,
        network.eval(),
        config.pixel_scale,
        config.temperature,
        uri,
        digest,
        config.look_again_below,
        reference,
    )


def num_parameters(network: torch.nn.Module) -> int:
    """Return the number of trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _read_reference(location: Location) -> Distributions | None:
    """Return the reference that a bundle's metrics hold; None where they hold none."""
    file = location.join(METRICS_FILE)
    try:
        metrics = json.loads(file.read_bytes(MAX_METRICS_BYTES)) if file.is_file() else None
    except (InputError, ValueError, RecursionError):
        return None  # no model, and no score, depends on it
    return Distributions.from_json(metrics.get("reference")) if isinstance(metrics, dict) else None


def _read_config(location: Location) -> tuple[dict[str, Any], str]:
    file = location.join(CONFIG_FILE)
    if not file.is_file():
        raise InputError(
            f"{location.uri}: not a bundle: it has no {CONFIG_FILE}; make one with "
            "`digitsum train` or `digitsum import model`."
        )
    return parse_config(file.read_bytes(MAX_CONFIG_BYTES), file.uri)


def _digest(config: Mapping[str, Any], weights: bytes) -> str:
    content = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(content + b"\0" + weights).hexdigest()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
