"""What a training run needs to go on: weights, the optimizer's state, and the record so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import ray.train
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from digitsum.model.network import SumNetwork
from digitsum.training.metrics import Epoch, history_from_json, history_to_json

WEIGHTS_FILE = "model.safetensors"
"""The averaged weights: those that are validated, and that a model gets."""
OPTIMIZED_FILE = "optimized.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
HISTORY_FILE = "history.json"


@dataclass(frozen=True)
class TrainingState:
    """What changes while a network is trained."""

    network: SumNetwork
    """What the optimizer steps."""
    averaged: AveragedModel
    """The running average of its weights."""
    optimizer: torch.optim.Optimizer

    @property
    def averaged_network(self) -> SumNetwork:
        """The network with the averaged weights."""
        return cast(SumNetwork, self.averaged.module)


def save_checkpoint(directory: Path, state: TrainingState, history: list[Epoch]) -> None:
    """Write a checkpoint's files into a directory."""
    save_file(_tensors(state.averaged.module), directory / WEIGHTS_FILE)
    save_file(_tensors(state.network), directory / OPTIMIZED_FILE)
    optimizer = {"optimizer": state.optimizer.state_dict(), "averaged": state.averaged.n_averaged}
    torch.save(optimizer, directory / OPTIMIZER_FILE)
    (directory / HISTORY_FILE).write_text(history_to_json(history))


def load_checkpoint(checkpoint: ray.train.Checkpoint | None, state: TrainingState) -> list[Epoch]:
    """Load a checkpoint into the state and return its record; [] without one."""
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as directory:
        files = Path(directory)
        state.network.load_state_dict(load_file(files / OPTIMIZED_FILE))
        state.averaged.module.load_state_dict(load_file(files / WEIGHTS_FILE))
        # By way of the CPU, for a run may be resumed on other devices than it was begun on.
        saved = torch.load(files / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
        state.optimizer.load_state_dict(saved["optimizer"])
        state.averaged.n_averaged.copy_(saved["averaged"])
        return history_from_json((files / HISTORY_FILE).read_text())


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
