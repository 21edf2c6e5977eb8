"""What an evaluation came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from digitsum.errors import TooManyRejectedError
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
    num_shards: int
    unread_shards: Mapping[str, str]
    """Shards whose footers cannot be read, to the reason: how many images they hold is unknown."""
    unread_chunks: Mapping[str, str]
    """Chunks that cannot be read, to the reason: their images count as rejected."""
    origin: Mapping[str, Any]
    """What computed it: `runs.origin`."""

    @property
    def unread(self) -> dict[str, str]:
        """Shards and chunks that cannot be read, to the reason."""
        return {**self.unread_shards, **self.unread_chunks}

    def said_of_unread(self) -> str:
        """Return how much could not be read, and why the first could not; one at least."""
        place, reason = next(iter(self.unread.items()))
        return (
            f"{len(self.unread_shards):,} of {self.num_shards:,} shards could not be read, and are "
            f"not in the figures, nor could {len(self.unread_chunks):,} chunks, whose images count "
            f"as rejected; the first, {place}: {reason}"
        )

    def check_rejected(self, allowed: float) -> None:
        """Raise TooManyRejectedError where more than a fraction of images or shards was."""
        rejected = self.evaluation.num_rejected
        for what, number, of in (
            ("images", rejected, self.evaluation.num_images),
            ("shards", len(self.unread_shards), self.num_shards),
        ):
            if number > allowed * of:
                why = f"; {self.said_of_unread()}" if self.unread else ""
                raise TooManyRejectedError(
                    f"{number:,} of {of:,} {what} were rejected, more than the "
                    f"{100 * allowed:.4g}% that --max-rejected allows{why}. The figures are of "
                    "all else."
                )

    def to_json(self) -> dict[str, Any]:
        """Return the figures as one object."""
        return {
            **self.evaluation.to_json(),
            "archive": self.archive_uri,
            "bundle": self.bundle.uri,
            "model_digest": self.bundle.digest,
            "digits": self.num_digits,
            "unread": self.unread,
            **self.origin,
        }
