"""What an evaluation came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from digitsum.model.bundle import Bundle
from digitsum.scoring.examples import Example
from digitsum.scoring.metrics import Evaluation


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and what it is of."""

    archive_uri: str
    bundle: Bundle
    num_digits: int | None
    """Digits in each image, where the model was told."""
    evaluation: Evaluation
    hits: tuple[Example, ...]
    """A few images whose sum is right."""
    worst_misses: tuple[Example, ...]
    """The images whose sum is wrong with the most confidence."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures as one object."""
        return {
            **self.evaluation.to_json(),
            "archive": self.archive_uri,
            "bundle": self.bundle.uri,
            "model_digest": self.bundle.digest,
            "digits": self.num_digits,
        }
