"""The curves of a training run as TensorBoard reads them, epoch by epoch, while it goes on."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tensorboardX import SummaryWriter

from digitsum.archive.location import Location
from digitsum.archive.publish import publish_bytes
from digitsum.training.history import Epoch

DIRECTORY = "tensorboard"


def write_event_file(run: Location, epoch: Epoch) -> None:
    """Write an epoch's figures below a run, on whatever file system it lies.

    A file for each epoch, for on object stores nothing can be added to a file. Raises InputError
    where the file system refuses.
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
        # The name begins with the time in seconds, by which TensorBoard orders them.
        name = f"{written.name}.{epoch.epoch:05d}"
        publish_bytes(written.read_bytes(), run.join(f"{DIRECTORY}/{name}"))
