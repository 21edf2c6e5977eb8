"""What a training run needs to go on: weights, the optimizer's state, and the record so far."""

from __future__ import annotations

from pathlib import Path

import ray.train
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from digitsum.training.history import Epoch, history_from_json, history_to_json

WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
HISTORY_FILE = "history.json"


def save_checkpoint(
    directory: Path, network: nn.Module, optimizer: torch.optim.Optimizer, history: list[Epoch]
) -> None:
    """Write a checkpoint's files into a directory."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, directory / WEIGHTS_FILE)
    torch.save(optimizer.state_dict(), directory / OPTIMIZER_FILE)
    (directory / HISTORY_FILE).write_text(history_to_json(history))


def load_checkpoint(
    checkpoint: ray.train.Checkpoint | None, network: nn.Module, optimizer: torch.optim.Optimizer
) -> list[Epoch]:
    """Load a checkpoint into network and optimizer and return its record; [] without one."""
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as directory:
        files = Path(directory)
        network.load_state_dict(load_file(files / WEIGHTS_FILE))
        # By way of the CPU, for a run may be resumed on other devices than it was begun on.
        state = torch.load(files / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state)
        return history_from_json((files / HISTORY_FILE).read_text())
