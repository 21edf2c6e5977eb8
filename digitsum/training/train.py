"""Training with Ray Train: from a labelled archive to a bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray.data import Dataset
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file

from digitsum.archive.glyphs import load_glyphs
from digitsum.archive.images import Uint8Array
from digitsum.archive.location import Location, locate
from digitsum.archive.publish import publish_bytes
from digitsum.archive.schema import ImageShape
from digitsum.cluster import connected, num_cluster
from digitsum.errors import InputError
from digitsum.model.bundle import save_bundle
from digitsum.model.counter import CounterNetwork
from digitsum.model.counter_config import CounterConfig
from digitsum.model.networks import build_network, network_sizes
from digitsum.model.sum_network import SumNetwork
from digitsum.runs import RUNS_DIRECTORY, new_run_id, write_manifest
from digitsum.training.archives import TrainingArchives, open_training_archives
from digitsum.training.calibration import calibrate
from digitsum.training.card import model_card
from digitsum.training.checkpoint import HISTORY_FILE, WEIGHTS_FILE
from digitsum.training.composing import calibration_images
from digitsum.training.config import TrainConfig
from digitsum.training.data import READ_CPUS, SplitDataConfig, labelled_dataset
from digitsum.training.history import Epoch, best_epoch, history_from_json, history_to_json
from digitsum.training.placing import place_digits
from digitsum.training.worker import train_worker

CONFIG_FILE = "config.json"
CURVES_FILE = "curves.json"
CALIBRATION_IMAGES = 5000
# Ray counts CPUs in ten thousandths; 5 workers of 0.28 are not more than 1.4.
_CPU_ROUNDING = 1e-6


@dataclass(frozen=True)
class Trained:
    """What a training run came to."""

    bundle_uri: str
    model_digest: str
    run: Location
    """The run's directory: configuration, curves, and Ray Train's checkpoints."""
    history: tuple[Epoch, ...]
    best: Epoch
    """The epoch whose weights the bundle holds."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the run."""
        return {
            "bundle": self.bundle_uri,
            "model_digest": self.model_digest,
            "epochs": len(self.history),
            "best": asdict(self.best),
        }


def train(config: TrainConfig) -> Trained:
    """Train as `config` says, or resume the run of that name, and write the bundle.

    Everything that can be checked is checked before Ray starts: raises InputError where an archive
    cannot be trained on, or where the named run was started with other options.
    """
    started = datetime.now(UTC)
    archives = open_training_archives(config)
    network = _build_network(config, archives.shape if archives else config.shape)
    run = _run_location(config, started)
    for directory in (run, locate(config.bundle)):
        directory.check_directory()
    _check_resumable(run, config)

    with connected():
        resources = _resources(config)
        publish_bytes(_json(config.learned_from()), run.join(CONFIG_FILE))
        datasets = _datasets(config, archives) if archives else {}
        settings = {
            "config": config,
            "sizes": network_sizes(network),
            "epoch_images": _epoch_images(config, archives),
        }
        result = _fit(config, settings, datasets, run, resources)
        history = _read_history(result)
        best, weights = _best_checkpoint(result)
        network.load_state_dict(weights)
        calibration = calibrate(network.eval(), *_calibration_images(config, datasets), config)
    if archives is None and isinstance(network, CounterNetwork):
        glyphs = load_glyphs(config.glyphs, "val")
        place_digits(network, glyphs, config.shape, config.recipe.pixel_scale)
    publish_bytes(history_to_json(history).encode(), run.join(CURVES_FILE))
    digest = save_bundle(
        config.bundle,
        config.model,
        network,
        metrics={"best": asdict(best), "calibration": asdict(calibration)},
        card=model_card(config, history, best, calibration, network, run.uri),
        pixel_scale=config.recipe.pixel_scale,
        temperature=calibration.temperature,
    )
    trained = Trained(config.bundle, digest, run, tuple(history), best)
    write_manifest(run, "train", config, started, trained.to_json())
    return trained


def _build_network(config: TrainConfig, shape: ImageShape) -> SumNetwork:
    sizes = {"height": shape.height, "width": shape.width, "num_digits": config.digits}
    if config.model == "counter":
        sizes["max_digits"] = max(config.digits, CounterConfig.max_digits)
    return build_network(config.model, {**sizes, **config.recipe.sizes})


def _datasets(config: TrainConfig, archives: TrainingArchives) -> dict[str, Dataset]:
    held_out = archives.validation is None
    return {
        "train": labelled_dataset(
            archives.train, "train" if held_out else "all", config, shuffled=True
        ),
        "validation": labelled_dataset(
            archives.validation or archives.train,
            "validation" if held_out else "all",
            config,
            shuffled=False,
        ),
    }


def _epoch_images(config: TrainConfig, archives: TrainingArchives | None) -> int:
    """Return the images of an epoch, those that are held out taken at their fraction."""
    if archives is None:
        return config.recipe.images_per_epoch
    left = 1.0 if archives.validation else 1 - config.validation_fraction
    return max(1, round(archives.train.num_images * left))


def _calibration_images(
    config: TrainConfig, datasets: dict[str, Dataset]
) -> tuple[Uint8Array, npt.NDArray[np.int64]]:
    if not datasets:
        return calibration_images(config)
    dataset = datasets["validation"]
    # The first images, not the first to be read: the same seed gives the same temperature.
    dataset.context.execution_options.preserve_order = True
    batch = dataset.take_batch(CALIBRATION_IMAGES)
    return batch["image"], batch["digit_sum"]


def worker_cpus(config: TrainConfig, cluster_cpus: float) -> float:
    """Return the CPUs to reserve for each worker, so that a task that reads finds room.

    Workers that reserved all CPUs would wait for ever for images that no task may read: raises
    InputError where the options ask for that, or where there are too many workers. The reservation
    bounds no threads: workers compute on all cores of their node.
    """
    left = cluster_cpus - READ_CPUS
    share = config.cpus_per_worker
    if share is None:
        share = min(math.floor(100 * left / config.workers) / 100, 1.0)
    if not 0 < config.workers * share <= left + _CPU_ROUNDING:
        raise InputError(
            f"{config.workers} workers of {share:g} CPUs leave less than the {READ_CPUS:g} of the "
            f"cluster's {cluster_cpus:g} that reading the archive takes; lower --cpus-per-worker "
            "or --workers."
        )
    return share


def _run_location(config: TrainConfig, started: datetime) -> Location:
    beside = locate(config.bundle).parent.join(RUNS_DIRECTORY)
    runs = locate(config.runs) if config.runs else beside
    return runs.join(config.name or new_run_id("train", started))


def _check_resumable(run: Location, config: TrainConfig) -> None:
    file = run.join(CONFIG_FILE)
    if not file.is_file():
        return
    earlier = json.loads(file.read_bytes())
    now = json.loads(_json(config.learned_from()))
    for option, value in now.items():
        if earlier.get(option) != value:
            raise InputError(
                f"run {run.name} was started with {option}={earlier.get(option)!r}, not {value!r}; "
                "resume it with the same options, or give the new run another --name."
            )


def _fit(
    config: TrainConfig,
    settings: dict[str, Any],
    datasets: dict[str, Dataset],
    run: Location,
    resources: dict[str, float],
) -> Result:
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=settings,
        datasets=datasets,
        dataset_config=SplitDataConfig(),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.use_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=run.parent.path,
            storage_filesystem=run.filesystem,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=2,
                checkpoint_score_attribute="validation_accuracy",
                checkpoint_score_order="max",
            ),
        ),
    )
    return trainer.fit()


def _resources(config: TrainConfig) -> dict[str, float]:
    resources = {"CPU": worker_cpus(config, num_cluster("CPU"))}
    if config.use_gpu:
        if num_cluster("GPU") < config.workers:
            raise InputError(
                f"{config.workers} workers want a GPU each, but the cluster has "
                f"{num_cluster('GPU'):g}; lower --workers or leave --use-gpu out."
            )
        resources["GPU"] = 1
    return resources


def _read_history(result: Result) -> list[Epoch]:
    with result.checkpoint.as_directory() as directory:
        return history_from_json((Path(directory) / HISTORY_FILE).read_text())


def _best_checkpoint(result: Result) -> tuple[Epoch, dict[str, torch.Tensor]]:
    """Return the best of the checkpoints that were kept: its last epoch and its weights."""
    candidates: Sequence[tuple[Epoch, dict[str, torch.Tensor]]] = []
    for checkpoint, _ in result.best_checkpoints:
        with checkpoint.as_directory() as directory:
            epoch = history_from_json((Path(directory) / HISTORY_FILE).read_text())[-1]
            candidates = [*candidates, (epoch, load_file(Path(directory) / WEIGHTS_FILE))]
    best = best_epoch([epoch for epoch, _ in candidates])
    return next(candidate for candidate in candidates if candidate[0] == best)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
