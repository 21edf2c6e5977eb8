"""A checkpoint: weights, the optimizer's state and the epochs so far, from which a run resumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from ray.train import Checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from digitsum.model.network import SumNetwork
from digitsum.training.metrics import Epoch, history_from_json, history_to_json

# The averaged weights are validated and become the model's.
_AVERAGED_WEIGHTS_FILE, _OPTIMIZED_WEIGHTS_FILE = "model.safetensors", "optimized.safetensors"
_OPTIMIZER_FILE, _HISTORY_FILE = "optimizer.pt", "history.json"


@dataclass(frozen=True)
class TrainingState:
    """The state that training changes."""

    network: SumNetwork
    """The network that the optimizer steps."""
    averaged: AveragedModel
    """The running average of its weights."""
    optimizer: torch.optim.Optimizer


def save_checkpoint(directory: Path, state: TrainingState, history: list[Epoch]) -> None:
    """Write a checkpoint's files into a directory."""
    save_file(_tensors(state.averaged.module), directory / _AVERAGED_WEIGHTS_FILE)
    save_file(_tensors(state.network), directory / _OPTIMIZED_WEIGHTS_FILE)
    optimizer = {"optimizer": state.optimizer.state_dict(), "averaged": state.averaged.n_averaged}
    torch.save(optimizer, directory / _OPTIMIZER_FILE)
    (directory / _HISTORY_FILE).write_text(history_to_json(history))


def read_checkpoint(checkpoint: Checkpoint) -> tuple[list[Epoch], dict[str, Tensor]]:
    """Return a checkpoint's epochs, and the averaged weights after the last of them."""
    with checkpoint.as_directory() as directory:
        files = Path(directory)
        history = history_from_json((files / _HISTORY_FILE).read_text())
        return history, load_file(files / _AVERAGED_WEIGHTS_FILE)


def load_checkpoint(checkpoint: Checkpoint, state: TrainingState) -> list[Epoch]:
    """Load a checkpoint into the state and return its epochs."""
    with checkpoint.as_directory() as directory:
        files = Path(directory)
        state.network.load_state_dict(load_file(files / _OPTIMIZED_WEIGHTS_FILE))
        state.averaged.module.load_state_dict(load_file(files / _AVERAGED_WEIGHTS_FILE))
        # On the CPU first: a run may be resumed on another device.
        saved = torch.load(files / _OPTIMIZER_FILE, map_location="cpu", weights_only=True)
        state.optimizer.load_state_dict(saved["optimizer"])
        state.averaged.n_averaged.copy_(saved["averaged"])
        return history_from_json((files / _HISTORY_FILE).read_text())


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
