"""What each worker of a training run does: epochs over its share, in step with the others."""

from __future__ import annotations

import logging
import math
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
from digitsum.model.registry import build_network, to_input
from digitsum.storage.location import Location, locate
from digitsum.storage.retries import retried
from digitsum.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from digitsum.training.config import TrainConfig
from digitsum.training.distillation import Teachers
from digitsum.training.metrics import Epoch, Totals, write_event_file
from digitsum.training.progress import EpochProgress
from digitsum.training.sampling import Batch, Source, train_batches, validation_batches

_REPORTING = "v2/_internal/execution/context.py"
MAX_READ_THREADS = 8
"""Of a worker that computes on a GPU; one that does on CPUs has none to spare."""

logger = logging.getLogger(__name__)


def train_worker(settings: dict[str, Any]) -> None:
    """Train from the run's last checkpoint, if it has one, to the last epoch.

    `settings` holds the TrainConfig as `config`, the network's sizes as `sizes`, the weights to
    begin with, or None for fresh ones, as `weights`, the SavedModels that teach as `teachers`, the
    images of an epoch, of all workers together, as `epoch_images`, the run's URI as `run`, and,
    where images are not composed, the LabelledChunks as `train` and `validation`. Reports each
    epoch's figures, of all workers together, with a checkpoint that rank 0 writes.
    """
    config: TrainConfig = settings["config"]
    recipe = config.recipe
    context = ray.train.get_context()
    # Ray Train repeats what each worker reports, several lines an epoch; one of its loggers goes by
    # its file's name.
    for chatter in ("ray.train", str(Path(ray.train.__file__).parent / _REPORTING)):
        logging.getLogger(chatter).setLevel(logging.WARNING)
    device = get_device()
    # Ray gives a worker one thread; the cores of a node are shared by the workers on it.
    cores = max(1, joblib.cpu_count() // context.get_local_world_size())
    on_cpu = device.type == "cpu"
    if on_cpu:
        torch.set_num_threads(cores)
    source = Source(
        config,
        settings["train"],
        settings["validation"],
        context.get_world_rank(),
        device,
        read_threads=1 if on_cpu else min(cores, MAX_READ_THREADS),
    )
    torch.manual_seed(config.seed)
    bare_network = build_network(config.network, settings["sizes"])
    if settings["weights"] is not None:
        bare_network.load_state_dict(settings["weights"])
    bare_network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = prepare_model(bare_network)
    state = TrainingState(
        bare_network, _averaged(bare_network, config), _optimizer(bare_network, config)
    )
    history = load_checkpoint(ray.train.get_checkpoint(), state)
    autocast = _autocast(config, device)
    teachers = Teachers(settings["teachers"], device) if settings["teachers"] else None

    for epoch in range(len(history) + 1, recipe.epochs + 1):
        started = time.perf_counter()
        # Seeded by epoch: a resumed run draws what an undisturbed one would.
        seed = (config.seed, epoch, source.rank)
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        progress = EpochProgress(epoch, recipe.epochs, settings["epoch_images"], config.workers)
        batches = train_batches(source, progress, epoch)
        train = _train_epoch(
            config, network, teachers, state, batches, progress, autocast, says=source.rank == 0
        )
        trained = time.perf_counter()
        if not math.isfinite(train.mean_loss):
            raise InputError(
                f"the loss is {train.mean_loss} in epoch {epoch}: the training diverged; give a "
                f"--learning-rate below {recipe.learning_rate:g}, or another --seed."
            )
        validation = _validate(config, state, validation_batches(source), autocast)
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
                data_wait=progress.waited_s / (trained - started),
            )
        )
        _report(history, config, state, locate(settings["run"]))


def _averaged(network: nn.Module, config: TrainConfig) -> AveragedModel:
    averaging = get_ema_multi_avg_fn(1 - config.recipe.averaging)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)


def _optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW that decays weights only: decayed, biases and normalizations fit less well."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.recipe.learning_rate, fused=True)


def _train_epoch(
    config: TrainConfig,
    network: nn.Module,
    teachers: Teachers | None,
    state: TrainingState,
    batches: Iterable[Batch],
    progress: EpochProgress,
    autocast: AbstractContextManager[Any],
    *,
    says: bool,
) -> Totals:
    network.train()
    recipe = config.recipe
    counts = config.digit_counts
    totals = Totals(next(network.parameters()).device)
    for batch in batches:
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(progress.fraction)
        with autocast:
            logits = network(to_input(batch.pixels, recipe.pixel_scale))
        log_probs = state.network.sum_log_probs(logits, counts.start, counts.stop - 1)
        nll = -log_probs.gather(1, batch.sums.unsqueeze(1)).mean()
        pull = recipe.pull_at(progress.num_seen)
        loss = nll
        if teachers is not None:
            # A digit more than there are: teachers may think so.
            loss = teachers.loss(state.network, batch.pixels, logits, nll, counts.stop)
        if pull > 0:
            only_count = counts.start if len(counts) == 1 else None
            loss = loss + pull * state.network.pull(logits, batch.sums, only_count)
        state.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(state.network.parameters(), recipe.max_gradient_norm)
        state.optimizer.step()
        state.averaged.update_parameters(state.network)
        totals.add(log_probs.detach(), batch.sums, nll.detach())
        progress.advance(len(batch.sums))
        if says and (line := progress.due()) is not None:
            # Of this worker's images alone: asking the others would make them wait.
            _say(f"{line}; loss {totals.mean_loss:.3f}, accuracy {totals.accuracy:.1%}")
    return totals.reduce()


@torch.no_grad()
def _validate(
    config: TrainConfig,
    state: TrainingState,
    batches: Iterable[Batch],
    autocast: AbstractContextManager[Any],
) -> Totals:
    """Validate this worker's share, as users will use the network: without knowing the count.

    On the averaged network, for DDP would wait for the others; each worker has normalized by its
    own images, so the others take rank 0's.
    """
    averaged = state.averaged_network
    if torch.distributed.is_initialized():
        for tensor in averaged.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
    averaged.eval()
    totals = Totals(next(averaged.parameters()).device)
    for batch in batches:
        with autocast:
            logits = averaged(to_input(batch.pixels, config.recipe.pixel_scale))
        totals.add_predicted(averaged, logits, batch.sums)
    return totals.reduce()


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    on_cpu = config.recipe.bf16_on_cpus and torch.cpu._is_avx512_bf16_supported()
    bf16 = {"bf16": True, "fp32": False, "auto": on_cpu or device.type == "cuda"}[config.precision]
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()


def _report(history: list[Epoch], config: TrainConfig, state: TrainingState, run: Location) -> None:
    latest = history[-1]
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(asdict(latest))
        return
    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(Path(directory), state, history)
        checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report(asdict(latest), checkpoint=checkpoint)
    try:
        retried(lambda: write_event_file(run, latest))
    except InputError as error:  # the checkpoint is safe, and is what counts
        logger.warning("no event file was written: %s", printable(str(error)))
    left_s = latest.seconds * (config.recipe.epochs - latest.epoch)
    _say(
        f"epoch {latest.epoch} of {config.recipe.epochs}: "
        f"loss {latest.train_loss:.3f}, accuracy {latest.train_accuracy:.1%}; "
        f"validation loss {latest.validation_loss:.3f}, accuracy "
        f"{latest.validation_accuracy:.1%}; {latest.train_images_per_s:,.0f} images/s, "
        f"{latest.data_wait:.1%} of the time waiting for them; about {duration(left_s)} left"
    )


def _say(line: str) -> None:
    # Not print(): Ray Train wraps it, and each line would come twice.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
