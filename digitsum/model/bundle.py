"""A trained model on disk: config.json, model.safetensors, metrics.json, MODEL_CARD.md.

Nothing in a bundle is code, and nothing in it is executed: the configuration is numbers and names
that are checked one by one, the weights are safetensors. The digest, recorded in config.json,
covers both; a bundle in which either was changed is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from digitsum.archive.location import Location, locate
from digitsum.archive.publish import publish_bytes
from digitsum.archive.schema import ImageShape
from digitsum.errors import InputError, one_line
from digitsum.model.distributions import Distributions
from digitsum.model.networks import build_network, network_sizes
from digitsum.model.sum_network import SumNetwork

BUNDLE_FORMAT = 1

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
METRICS_FILE = "metrics.json"
CARD_FILE = "MODEL_CARD.md"


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
) -> str:
    """Write a bundle and return its digest; config.json, which makes it one, is written last."""
    weights = save_safetensors(
        {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    )
    config = {
        "format": BUNDLE_FORMAT,
        "network": network_name,
        "sizes": network_sizes(network),
        "pixel_scale": pixel_scale,
        "temperature": float(temperature),
    }
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
    config = _read_config(location)
    weights = location.join(WEIGHTS_FILE).read_bytes()
    recorded = config.pop("digest", None)
    digest = _digest(config, weights)
    if recorded != digest:
        raise InputError(
            f"{uri}: the bundle's content does not match its digest: it was changed or is "
            "incomplete; train or import it again."
        )
    try:
        # Sizes are only claims until the weights fit them, so no memory is given to them before.
        with torch.device("meta"):
            network = build_network(config["network"], config["sizes"])
        network.load_state_dict(load_safetensors(weights), assign=True)
        for name, tensor in network.state_dict().items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} holds what is no finite number")
        pixel_scale = _positive(config, "pixel_scale")
        temperature = _positive(config, "temperature")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as e:
        raise InputError(f"{uri}: not a bundle that can be loaded: {one_line(e)}") from e
    reference = _read_reference(location)
    return Bundle(
        config["network"], network.eval(), pixel_scale, temperature, uri, digest, reference
    )


def num_parameters(network: torch.nn.Module) -> int:
    """Return the number of trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _read_reference(location: Location) -> Distributions | None:
    """Return the reference that a bundle's metrics hold; None where they hold none."""
    file = location.join(METRICS_FILE)
    try:
        metrics = json.loads(file.read_bytes()) if file.is_file() else None
    except (ValueError, RecursionError):
        return None  # no model, and no score, depends on it
    return Distributions.from_json(metrics.get("reference")) if isinstance(metrics, dict) else None


def _read_config(location: Location) -> dict[str, Any]:
    file = location.join(CONFIG_FILE)
    if not file.is_file():
        raise InputError(
            f"{location.uri}: not a bundle: it has no {CONFIG_FILE}; make one with "
            "`digitsum train` or `digitsum import model`."
        )
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.uri}: not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != BUNDLE_FORMAT:
        raise InputError(f"{file.uri}: not a bundle of format {BUNDLE_FORMAT}; update digitsum.")
    return config


def _positive(config: Mapping[str, Any], name: str) -> float:
    value = config[name]
    if type(value) is not float or not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}, not a number above 0")
    return value


def _digest(config: Mapping[str, Any], weights: bytes) -> str:
    content = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(content + b"\0" + weights).hexdigest()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
