"""What there is to say of an image, in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def score_caption(score: Mapping[str, Any]) -> str:
    """Return what a row of the scores says of its image."""
    if score["predicted_sum"] is None:
        return f"rejected: {score['error']}"
    digits = score.get("digits")
    read = f" = {' + '.join(map(str, digits))}" if digits else ""
    return f"{score['predicted_sum']}{read}, {score['confidence']:.1%}"
