"""What each worker of a training run does: epochs over its share, in step with the others."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
import torch.distributed
import torch.nn.functional as F
from ray.train.torch import get_device, prepare_model
from torch import nn

from digitsum.model.networks import build_network, to_input
from digitsum.training.checkpoint import load_checkpoint, save_checkpoint
from digitsum.training.config import TrainConfig
from digitsum.training.history import Epoch


def train_worker(settings: dict[str, Any]) -> None:
    """Train from the run's last checkpoint, if it has one, to the last epoch.

    `settings` holds the TrainConfig as `config` and the network's sizes as `sizes`. Reports each
    epoch's figures, of all workers together, with a checkpoint that rank 0 writes.
    """
    config: TrainConfig = settings["config"]
    context = ray.train.get_context()
    device = get_device()
    if device.type == "cpu":
        # Ray gives a worker one thread; the cores of a node are shared by the workers on it.
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // context.get_local_world_size()))
    torch.manual_seed(config.seed)
    bare_network = build_network(config.model, settings["sizes"])
    bare_network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = prepare_model(bare_network)
    optimizer = torch.optim.Adam(bare_network.parameters(), lr=config.learning_rate)
    history = load_checkpoint(ray.train.get_checkpoint(), bare_network, optimizer)
    autocast = _autocast(config, device)

    for epoch in range(len(history) + 1, config.epochs + 1):
        started = time.perf_counter()
        # Seeded by epoch: dropout and the shuffle buffer of a resumed run are an undisturbed one's,
        # though Ray begins its orders of the row groups anew.
        torch.manual_seed(_epoch_seed(config.seed, epoch, context.get_world_rank()))
        train = _train_epoch(
            config, network, optimizer, _batches("train", config, epoch), autocast, device
        )
        trained = time.perf_counter()
        validation = _validate(
            config, bare_network, _batches("validation", config, epoch), autocast, device
        )
        history.append(
            Epoch(
                epoch=epoch,
                train_loss=train.mean_loss,
                train_accuracy=train.accuracy,
                validation_loss=validation.mean_loss,
                validation_accuracy=validation.accuracy,
                train_images=train.num_images,
                validation_images=validation.num_images,
                seconds=time.perf_counter() - started,
                train_images_per_s=train.num_images / (trained - started),
            )
        )
        _report(history, config, bare_network, optimizer)


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])


class _Totals:
    """Sums over images, kept on the device until they are reduced over all workers."""

    def __init__(self, device: torch.device) -> None:
        # float64 counts images exactly up to 2**53.
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, logits: torch.Tensor, digit_sums: torch.Tensor, loss: torch.Tensor) -> None:
        right = (logits.detach().argmax(dim=1) == digit_sums).sum()
        num_images = len(digit_sums)
        self._sums[0] += loss.detach() * num_images
        self._sums[1] += right
        self._sums[2] += num_images

    def reduce(self) -> _Totals:
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._sums)
        return self

    @property
    def num_images(self) -> int:
        return int(self._sums[2].item())

    @property
    def mean_loss(self) -> float:
        return float(self._sums[0].item()) / max(self.num_images, 1)

    @property
    def accuracy(self) -> float:
        return float(self._sums[1].item()) / max(self.num_images, 1)


def _train_epoch(
    config: TrainConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[dict[str, torch.Tensor]],
    autocast: AbstractContextManager[Any],
    device: torch.device,
) -> _Totals:
    network.train()
    totals = _Totals(device)
    for batch in batches:
        logits, loss = _forward(config, network, batch, autocast)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        totals.add(logits, batch["digit_sum"], loss)
    return totals.reduce()


@torch.no_grad()
def _validate(
    config: TrainConfig,
    network: nn.Module,
    batches: Iterable[dict[str, torch.Tensor]],
    autocast: AbstractContextManager[Any],
    device: torch.device,
) -> _Totals:
    """Validate this worker's share; on the bare network, for DDP would wait for the others."""
    network.eval()
    totals = _Totals(device)
    for batch in batches:
        logits, loss = _forward(config, network, batch, autocast)
        totals.add(logits, batch["digit_sum"], loss)
    return totals.reduce()


def _forward(
    config: TrainConfig,
    network: nn.Module,
    batch: dict[str, torch.Tensor],
    autocast: AbstractContextManager[Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of a batch's sums and their mean cross entropy."""
    with autocast:
        logits = network(to_input(batch["image"], config.pixel_scale))
        return logits, F.cross_entropy(logits, batch["digit_sum"])


def _batches(name: str, config: TrainConfig, epoch: int) -> Iterable[dict[str, torch.Tensor]]:
    """Return this worker's batches of a pass, uint8 images, on its device."""
    share = ray.train.get_dataset_shard(name)
    per_worker = config.batch_size // config.workers
    if name != "train":
        return share.iter_torch_batches(batch_size=per_worker)  # type: ignore[no-any-return]
    return share.iter_torch_batches(  # type: ignore[no-any-return]
        batch_size=per_worker,
        local_shuffle_buffer_size=config.shuffle_buffer_images,
        local_shuffle_seed=config.seed + epoch,
    )


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()


def _report(
    history: list[Epoch],
    config: TrainConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    latest = history[-1]
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(asdict(latest))
        return
    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(Path(directory), network, optimizer, history)
        checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report(asdict(latest), checkpoint=checkpoint)
    # Not print(): Ray Train wraps it, and each line would come twice.
    sys.stdout.write(
        f"epoch {latest.epoch} of {config.epochs}: "
        f"loss {latest.train_loss:.3f}, accuracy {latest.train_accuracy:.1%}; "
        f"validation loss {latest.validation_loss:.3f}, accuracy "
        f"{latest.validation_accuracy:.1%}; {latest.train_images_per_s:,.0f} images/s\n"
    )
    sys.stdout.flush()
