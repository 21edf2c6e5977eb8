"""The record of a training run, epoch by epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Epoch:
    """What one pass over the archive came to; losses are means of the cross entropy, in nats."""

    epoch: int
    """From 1."""
    train_loss: float
    train_accuracy: float
    """Fraction of the images whose sum was right while the weights still changed, with dropout."""
    validation_loss: float
    validation_accuracy: float
    train_images: int
    validation_images: int
    seconds: float
    """Training and validation."""
    train_images_per_s: float
    data_wait: float = 0.0
    """Fraction of the training time, 0..1, in which the first worker waited for batches."""


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """Return the epoch of highest validation accuracy; of equals, the one of lowest loss."""
    return max(history, key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))


def history_to_json(history: Sequence[Epoch]) -> str:
    """Return the record as a JSON list with one object an epoch."""
    return json.dumps([asdict(epoch) for epoch in history], indent=2) + "\n"


def history_from_json(text: str | bytes) -> list[Epoch]:
    """Return the record that `history_to_json` wrote."""
    return [Epoch(**epoch) for epoch in json.loads(text)]
