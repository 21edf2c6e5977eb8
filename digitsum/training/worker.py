"""The workers of a training run: epochs over their shares, in step with each other."""

from __future__ import annotations

import logging
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import joblib
import numpy as np
import ray.train
import torch
import torch.distributed
from ray.train.torch import get_device, prepare_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from digitsum.console import duration, printable
from digitsum.errors import InputError
from digitsum.model.network import SumNetwork
from digitsum.model.registry import to_input
from digitsum.model.saved_model import SavedModel
from digitsum.storage.location import locate
from digitsum.storage.retries import retried
from digitsum.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import ArchiveImages
from digitsum.training.distillation import Teachers
from digitsum.training.metrics import Epoch, EpochProgress, EpochTotals, write_event_file
from digitsum.training.sampling import BatchSource

_REPORTING = "v2/_internal/execution/context.py"
# Of a worker that computes on a GPU; one that computes on CPUs has none to spare.
_MAX_READ_THREADS = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """The settings that the driver sends to each worker."""

    config: TrainConfig
    run_uri: str
    images: ArchiveImages | None
    """None if images are composed."""
    network: SumNetwork
    """The network, with the weights that the training starts with."""
    teachers: tuple[SavedModel, ...]


def train_worker(loop_config: Mapping[str, WorkerSettings]) -> None:
    """Train from the run's last checkpoint, if it has one, to the last epoch.

    Reports each epoch's figures, of all workers together, with a checkpoint that rank 0 writes.
    """
    # Ray Train repeats what each worker reports, by two loggers; one is named after its file.
    for noisy in ("ray.train", str(Path(ray.train.__file__).parent / _REPORTING)):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _Worker(loop_config["settings"]).train()


class _Worker:
    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._config = config = settings.config
        self._recipe = config.recipe
        context = ray.train.get_context()
        self._rank = context.get_world_rank()
        self._device = device = get_device()
        # Ray gives a worker one thread; the cores of a node are shared by the workers on it.
        cores = max(1, joblib.cpu_count() // context.get_local_world_size())
        read_threads = min(cores, _MAX_READ_THREADS)
        if device.type == "cpu":
            torch.set_num_threads(cores)
            read_threads = 1
        self._source = BatchSource(config, settings.images, self._rank, device, read_threads)
        network = settings.network
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._parallel_network: nn.Module = prepare_model(network)
        averaging = get_ema_multi_avg_fn(1 - self._recipe.averaging)  # type: ignore[no-untyped-call]
        averaged = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
        self._state = TrainingState(network, averaged, _optimizer(network, config))
        checkpoint = ray.train.get_checkpoint()
        self._history = load_checkpoint(checkpoint, self._state) if checkpoint else []
        self._autocast = _autocast(config, device)
        self._teachers = Teachers(settings.teachers, device) if settings.teachers else None

    def train(self) -> None:
        """Train the epochs that are left, and report each."""
        images = self._settings.images
        epoch_images = images.epoch_images if images else self._recipe.images_per_epoch
        for epoch in range(len(self._history) + 1, self._recipe.epochs + 1):
            started = time.perf_counter()
            # Seeded by epoch: a resumed run draws what an undisturbed one would.
            seed = np.random.SeedSequence((self._config.seed, epoch, self._rank))
            torch.manual_seed(int(seed.generate_state(1)[0]))
            progress = EpochProgress(epoch, self._recipe.epochs, epoch_images, self._config.workers)
            train = self._train_epoch(progress, epoch)
            train_s = time.perf_counter() - started
            validation = self._validate()
            self._history.append(
                Epoch(
                    epoch=epoch,
                    train_loss=train.mean_loss,
                    train_accuracy=train.accuracy,
                    validation_loss=validation.mean_loss,
                    validation_accuracy=validation.accuracy,
                    train_images=train.num_images,
                    validation_images=validation.num_images,
                    seconds=time.perf_counter() - started,
                    train_images_per_s=train.num_images / train_s,
                    data_wait=progress.waited_s / train_s,
                )
            )
            self._report()

    def _train_epoch(self, progress: EpochProgress, epoch: int) -> EpochTotals:
        self._parallel_network.train()
        recipe, state = self._recipe, self._state
        counts = self._config.digit_counts
        known_count = counts.start if len(counts) == 1 else None
        totals = EpochTotals(self._device)
        for pixels, sums in self._source.train_batches(progress, epoch):
            for group in state.optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(progress.fraction)
            with self._autocast:
                logits = self._parallel_network(to_input(pixels, recipe.pixel_scale))
            log_probs = state.network.sum_log_probs(logits, counts.start, counts.stop - 1)
            nll = -log_probs.gather(1, sums.unsqueeze(1)).mean()
            loss = nll
            if self._teachers is not None:
                # One digit more than images hold: teachers may see that many.
                loss = self._teachers.loss(state.network, pixels, logits, nll, counts.stop)
            if (pull := recipe.pull_at(progress.num_seen)) > 0:
                loss = loss + pull * state.network.pull(logits, sums, known_count)
            state.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.max_gradient_norm is not None:
                nn.utils.clip_grad_norm_(state.network.parameters(), recipe.max_gradient_norm)
            state.optimizer.step()
            state.averaged.update_parameters(state.network)
            totals.add(log_probs.detach(), sums, nll.detach())
            progress.advance(len(sums))
            if self._rank == 0 and (line := progress.line()) is not None:
                # Figures of this worker's images alone: the others would have to wait.
                _print(f"{line}; loss {totals.mean_loss:.3f}, accuracy {totals.accuracy:.1%}")
        totals.reduce()
        if not math.isfinite(totals.mean_loss):
            raise InputError(
                f"the loss is {totals.mean_loss} in epoch {epoch}: the training diverged; give a "
                f"--learning-rate below {recipe.learning_rate:g}, or another --seed."
            )
        return totals

    @torch.no_grad()
    def _validate(self) -> EpochTotals:
        """Return the totals of the validation images, with unknown counts and averaged weights."""
        # Each worker has normalized by its own images, so the others take rank 0's network; not
        # DDP's, which would wait for all.
        averaged = cast(SumNetwork, self._state.averaged.module)
        if torch.distributed.is_initialized():
            for tensor in averaged.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)
        averaged.eval()
        totals = EpochTotals(self._device)
        for pixels, sums in self._source.validation_batches():
            with self._autocast:
                logits = averaged(to_input(pixels, self._recipe.pixel_scale))
            totals.add_predicted(averaged, logits, sums)
        return totals.reduce()

    def _report(self) -> None:
        latest = self._history[-1]
        if self._rank != 0:
            ray.train.report(asdict(latest))
            return
        with tempfile.TemporaryDirectory() as directory:
            save_checkpoint(Path(directory), self._state, self._history)
            checkpoint = ray.train.Checkpoint.from_directory(directory)
            ray.train.report(asdict(latest), checkpoint=checkpoint)
        try:
            retried(lambda: write_event_file(locate(self._settings.run_uri), latest))
        except InputError as error:  # the checkpoint is safe, and TensorBoard is optional
            logger.warning("no event file was written: %s", printable(str(error)))
        left_s = latest.seconds * (self._recipe.epochs - latest.epoch)
        _print(
            f"epoch {latest.epoch} of {self._recipe.epochs}: "
            f"loss {latest.train_loss:.3f}, accuracy {latest.train_accuracy:.1%}; "
            f"validation loss {latest.validation_loss:.3f}, accuracy "
            f"{latest.validation_accuracy:.1%}; {latest.train_images_per_s:,.0f} images/s, "
            f"{latest.data_wait:.1%} of the time waiting for them; about {duration(left_s)} left"
        )


def _optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW that decays weights only: decayed biases and normalizations fit less well."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.recipe.learning_rate, fused=True)


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    on_cpu = config.recipe.bf16_on_cpus and torch.cpu._is_avx512_bf16_supported()
    bf16 = {"bf16": True, "fp32": False, "auto": on_cpu or device.type == "cuda"}[config.precision]
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()


def _print(line: str) -> None:
    # Not print(): Ray Train wraps it, and each line would come twice.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
