"""A bundle's config.json: its fields, each of one type and within bounds. Nothing in it is code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from digitsum.errors import InputError, one_line

BUNDLE_FORMAT = 1
MAX_CONFIG_BYTES = 64 * 1024
"""The fields take some 500."""
MAX_SCALE = 1e6
_MAX_SHOWN = 80
_DIGEST_CHARACTERS = 64
_OPTIONAL = {"look_again_below"}


@dataclass(frozen=True)
class BundleConfig:
    """What config.json says; `networks.build_network` checks the name and the sizes."""

    network: str
    sizes: Mapping[str, Any]
    pixel_scale: float
    """What uint8 pixels are multiplied with."""
    temperature: float
    """What logits are divided by."""
    look_again_below: float = 0.0
    """Confidence below which an image is looked at a second time; bundles of old lack it."""
    format: int = BUNDLE_FORMAT

    def __post_init__(self) -> None:
        for name in ("pixel_scale", "temperature"):
            value = getattr(self, name)
            if type(value) is not float or not 0 < value < float("inf"):
                raise InputError(f"{name} is {shown(value)}, not a number above 0")
            if not 1 / MAX_SCALE <= value <= MAX_SCALE:
                raise InputError(f"{name} is {value!r}, not 1e-06 to 1e+06")
        again = self.look_again_below
        if type(again) is not float or not 0 <= again <= 1:
            raise InputError(f"look_again_below is {shown(again)}, not a number of 0.0 to 1.0")
        if type(self.sizes) is not dict:
            raise InputError(f"sizes is {shown(self.sizes)}, not an object of numbers")

    @staticmethod
    def from_json(config: Mapping[str, Any]) -> BundleConfig:
        """Return the fields, checked; raises InputError, saying which is wrong."""
        known = {field.name for field in fields(BundleConfig)}
        unknown, missing = set(config) - known, known - set(config) - _OPTIONAL
        if unknown or missing:
            name = min(unknown or missing)
            raise InputError(f"field {shown(name)} is {'unknown' if unknown else 'missing'}")
        return BundleConfig(**config)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them, without the digest."""
        return asdict(self)


def parse_config(content: bytes, where: str) -> tuple[dict[str, Any], str]:
    """Return the fields of a config.json, not yet checked, and the digest recorded with them.

    Raises InputError, naming `where`, where it is no JSON object of this format.
    """
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {one_line(error)[:_MAX_SHOWN]}") from error
    found = config.get("format") if isinstance(config, dict) else None
    if type(found) is not int or found != BUNDLE_FORMAT:
        raise InputError(f"{where}: not a bundle of format {BUNDLE_FORMAT}; update digitsum.")
    digest = config.pop("digest", None)
    is_digest = isinstance(digest, str) and len(digest) == _DIGEST_CHARACTERS
    return config, digest if is_digest else ""


def shown(value: object) -> str:
    """Return a value from outside as a message may show it: one line, and not a long one."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
