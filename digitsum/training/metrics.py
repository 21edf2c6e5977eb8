"""Progress, loss and accuracy of a training, over all workers, and the files that record them."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed
from tensorboardX import SummaryWriter
from torch import Tensor

from digitsum.console import duration
from digitsum.model.network import SumNetwork
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

CURVES_FILE = "curves.json"
"""A run's epochs, as `history_to_json` writes them."""
_LINE_EVERY_S = 60.0

Item = TypeVar("Item")


class EpochProgress:
    """Counts the images of one epoch, from 1, of all workers together.

    Each worker counts its own images and assumes that the others are as far.
    """

    def __init__(self, epoch: int, num_epochs: int, epoch_images: int, workers: int) -> None:
        self._epoch, self._num_epochs, self._workers = epoch, num_epochs, workers
        self._num_before = (epoch - 1) * epoch_images
        self._num_total = num_epochs * epoch_images
        self._num_own = 0
        self._started = self._last_line = time.monotonic()
        self.waited_s = 0.0
        """Seconds that this worker waited for batches."""

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and count how long each was waited for."""
        iterator, end = iter(items), object()
        while True:
            started = time.perf_counter()
            item = next(iterator, end)
            self.waited_s += time.perf_counter() - started
            if item is end:
                return
            yield item  # type: ignore[misc]

    def advance(self, num_images: int) -> None:
        """Count images of this worker as seen."""
        self._num_own += num_images

    @property
    def num_seen(self) -> int:
        """Images seen since the training began."""
        return self._num_before + self._num_own * self._workers

    @property
    def fraction(self) -> float:
        """Part of the training that is done, 0..1."""
        return self.fraction_after(self._num_own)

    def fraction_after(self, num_images: int) -> float:
        """Return the part of the training, 0..1, done once a worker has seen `num_images`."""
        return min(1.0, (self._num_before + num_images * self._workers) / self._num_total)

    def line(self) -> str | None:
        """Return, once a minute, the progress and the time left; otherwise None."""
        now = time.monotonic()
        if now - self._last_line < _LINE_EVERY_S:
            return None
        self._last_line = now
        rate = (self.num_seen - self._num_before) / (now - self._started)
        return (
            f"epoch {self._epoch} of {self._num_epochs}, {self.fraction:.0%} of the training: "
            f"{rate:,.0f} images/s, about {duration((self._num_total - self.num_seen) / rate)} left"
        )


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
    """The outcome of a training run, as its manifest records it."""

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
        publish_bytes(written.read_bytes(), run.join(f"tensorboard/{name}"))
