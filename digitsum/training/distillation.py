"""Distillation: a network learns from what other networks think too, and not from sums alone.

Several networks that were trained apart misread other images each, and their mean opinion is right
more often than any of them. A network that is trained to think likewise can come near to it, and
costs no more than one to run (Hinton, Vinyals and Dean, "Distilling the knowledge in a neural
network", 2015). The opinion is the joint distribution of the number of
digits and of their sum, so that networks of any sizes can teach each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from digitsum.errors import InputError
from digitsum.model.network import SumNetwork
from digitsum.model.registry import to_input
from digitsum.model.saved_model import SavedModel
from digitsum.options import ImageShape
from digitsum.training.config import TrainConfig
from digitsum.training.init_weights import load_trained

TAUGHT = 0.8
"""Part of the loss that is the teachers' opinion; the rest is the sums'."""

# Log probability of what a network holds to be impossible: infinity times 0 would be no number.
_IMPOSSIBLE = -1000.0


def load_teachers(config: TrainConfig, shape: ImageShape) -> list[SavedModel]:
    """Return the models that teach; none where sums alone do.

    Raises InputError where one is no model, or reads no images of that shape, or is of another
    network than is to be trained, or one of other sums.
    """
    teachers = [load_trained(uri) for uri in config.teachers or ()]
    for teacher in teachers:
        if teacher.network_name != config.network:
            raise InputError(
                f"{teacher.uri}: holds the network {teacher.network_name!r}, which cannot teach "
                f"{config.network!r}; leave it out of --teachers."
            )
        if config.network == "baseline" and teacher.network.config.num_digits != config.digits:
            raise InputError(
                f"{teacher.uri}: tells the sums of {teacher.network.config.num_digits} digits, and "
                f"cannot teach those of {config.digits}; leave it out of --teachers."
            )
        teacher.network.check_shape(shape, config.archive or "--height and --width")
    return teachers


class Teachers:
    """Networks whose mean opinion of images is to be learned; they are moved to the device."""

    def __init__(self, models: Sequence[SavedModel], device: torch.device) -> None:
        self._models = models
        for model in models:
            model.network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @torch.no_grad()
    def opinion(self, pixels: Tensor, max_digits: int) -> Tensor:
        """Return the mean of P(count, sum) of images uint8 (b, h, w), as `joint_log_probs` has it.

        Each teacher's logits are divided by its temperature.
        """
        total: Tensor | None = None
        for model in self._models:
            logits = model.network(to_input(pixels, model.pixel_scale)) / model.temperature
            probs = model.network.joint_log_probs(logits, max_digits).exp()
            total = probs if total is None else total + probs
        assert total is not None
        return total / len(self._models)

    def loss(
        self, pupil: SumNetwork, pixels: Tensor, logits: Tensor, nll: Tensor, max_digits: int
    ) -> Tensor:
        """Return what a pupil learns by, a number, in nats: the sums' loss and the opinion's.

        `logits` are the pupil's of images uint8 (b, h, w), `nll` the loss of their sums.
        """
        opinion = self.opinion(pixels, max_digits)
        return (1 - TAUGHT) * nll + TAUGHT * distillation_loss(pupil, logits, opinion, max_digits)


def distillation_loss(
    network: SumNetwork, logits: Tensor, opinion: Tensor, max_digits: int
) -> Tensor:
    """Return the cross entropy, in nats, a number, of a network's opinion and the teachers'."""
    log_probs = network.joint_log_probs(logits, max_digits)
    log_probs = log_probs.where(log_probs > -torch.inf, _IMPOSSIBLE)
    return -(opinion * log_probs).sum(dim=1).mean()
