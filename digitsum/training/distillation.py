"""Distillation: a network learns the mean predictions of other networks along with the sums.

Networks that were trained separately misread different images, so their mean is right more often
than any of them (Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015).
What is learned is the joint distribution of the number of digits and of their sum, so networks of
any sizes can teach each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from digitsum.model.network import SumNetwork
from digitsum.model.registry import to_input
from digitsum.model.saved_model import SavedModel

DISTILLED = 0.8
"""Fraction of the loss that the teachers' predictions decide; the true sums decide the rest."""

# Log probability of what a network takes for impossible: minus infinity times 0 would be NaN.
_IMPOSSIBLE = -1000.0


class Teachers:
    """Networks whose mean predictions are learned; they are moved to the device."""

    def __init__(self, models: Sequence[SavedModel], device: torch.device) -> None:
        self._models = models
        for model in models:
            model.network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @torch.no_grad()
    def mean_probs(self, pixels: Tensor, max_digits: int) -> Tensor:
        """Return the teachers' mean calibrated P(count, sum) for images uint8 (b, h, w).

        Float (b, n), laid out as `joint_log_probs` returns it.
        """
        probs = []
        for model in self._models:
            logits = model.network(to_input(pixels, model.pixel_scale)) / model.temperature
            probs.append(model.network.joint_log_probs(logits, max_digits).exp())
        return reduce(torch.add, probs) / len(probs)

    def loss(
        self, student: SumNetwork, pixels: Tensor, logits: Tensor, nll: Tensor, max_digits: int
    ) -> Tensor:
        """Return a student's loss, in nats, from its logits for images uint8 (b, h, w).

        `nll` is the part of it that the true sums decide.
        """
        taught = self.mean_probs(pixels, max_digits)
        distilled = distillation_loss(student, logits, taught, max_digits)
        return (1 - DISTILLED) * nll + DISTILLED * distilled


def distillation_loss(
    network: SumNetwork, logits: Tensor, taught_probs: Tensor, max_digits: int
) -> Tensor:
    """Return the cross entropy, in nats, of a network's and the teachers' predictions."""
    log_probs = network.joint_log_probs(logits, max_digits)
    log_probs = log_probs.where(log_probs > -torch.inf, _IMPOSSIBLE)
    return -(taught_probs * log_probs).sum(dim=1).mean()
