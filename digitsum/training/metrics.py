"""Loss and accuracy of a training, over all workers, and the files that record them by epoch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed
from tensorboardX import SummaryWriter
from torch import Tensor

from digitsum.model.network import SumNetwork
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

CURVES_FILE = "curves.json"
"""A run's epochs, as `history_to_json` writes them."""
TENSORBOARD_DIRECTORY = "tensorboard"


class EpochTotals:
    """Sums over the images of an epoch, on the device until they are reduced over all workers."""

    def __init__(self, device: torch.device) -> None:
        # Loss, images with a right sum, images; float64 counts exactly up to 2**53.
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, log_probs: Tensor, sums_b: Tensor, mean_loss: Tensor) -> None:
        """Add a batch: log probabilities (b, sums), true sums (b,), mean loss."""
        self._sums[0] += mean_loss * len(sums_b)
        self._sums[1] += (log_probs.argmax(dim=1) == sums_b).sum()
        self._sums[2] += len(sums_b)

    def add_predicted(self, network: SumNetwork, logits: Tensor, sums_b: Tensor) -> None:
        """Add a batch as users will use the network: with unknown counts."""
        log_probs = network.predicted_log_probs(logits.double(), None)
        self.add(log_probs, sums_b, -log_probs.gather(1, sums_b.unsqueeze(1)).mean())

    def reduce(self) -> EpochTotals:
        """Add the totals of other workers, if there are any, and return itself."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._sums)
        return self

    @property
    def num_images(self) -> int:
        """Images that were added."""
        return int(self._sums[2].item())

    @property
    def mean_loss(self) -> float:
        """Mean loss of an image, in nats."""
        return float(self._sums[0].item()) / max(self.num_images, 1)

    @property
    def accuracy(self) -> float:
        """Fraction of the images whose most probable sum is right."""
        return float(self._sums[1].item()) / max(self.num_images, 1)


@dataclass(frozen=True)
class Epoch:
    """The figures of one epoch; losses are mean cross entropies, in nats."""

    epoch: int
    """From 1."""
    train_loss: float
    train_accuracy: float
    """Fraction of the images with a right sum, while weights changed, with dropout."""
    validation_loss: float
    validation_accuracy: float
    train_images: int
    validation_images: int
    seconds: float
    """Of training and validation."""
    train_images_per_s: float
    data_wait: float = 0.0
    """Fraction of the training time, 0..1, that the first worker waited for batches."""


@dataclass(frozen=True, kw_only=True)
class TrainOutcome:
    """What came of a training run, as its manifest records it."""

    model: str
    """URI of the model."""
    model_digest: str
    epochs: int
    best: Epoch
    """The epoch whose weights the model holds; with --average-with, its validation figures are
    those of the averaged weights."""


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """Return the epoch of highest validation accuracy, among equals the one of lowest loss."""
    return max(history, key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))


def history_to_json(history: Sequence[Epoch]) -> str:
    """Return the epochs as a JSON list of objects."""
    return json.dumps([asdict(epoch) for epoch in history], indent=2) + "\n"


def history_from_json(text: str | bytes) -> list[Epoch]:
    """Return the epochs that `history_to_json` wrote."""
    return [Epoch(**epoch) for epoch in json.loads(text)]


def write_event_file(run: Location, epoch: Epoch) -> None:
    """Write an epoch's figures as a file for TensorBoard below a run, on any file system.

    Each epoch has a file of its own, because object stores cannot append to one. Raises InputError
    if the file system refuses.
    """
    scalars = {
        "loss/train": epoch.train_loss,
        "loss/validation": epoch.validation_loss,
        "accuracy/train": epoch.train_accuracy,
        "accuracy/validation": epoch.validation_accuracy,
        "speed/images_per_s": epoch.train_images_per_s,
        "speed/data_wait": epoch.data_wait,
    }
    with tempfile.TemporaryDirectory() as directory:
        with SummaryWriter(directory) as writer:
            for name, value in scalars.items():
                writer.add_scalar(name, value, epoch.epoch)
        [written] = Path(directory).iterdir()
        # TensorBoard orders the files by their names, which begin with the time in seconds.
        name = f"{written.name}.{epoch.epoch:05d}"
        publish_bytes(written.read_bytes(), run.join(f"{TENSORBOARD_DIRECTORY}/{name}"))
