"""Training with Ray Train: from a labelled archive to a model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.errors import InputError
from digitsum.manifest import RUNS_DIRECTORY, new_run_id, write_manifest
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.network import SumNetwork
from digitsum.model.prediction_stats import PredictionStats
from digitsum.model.predictor import make_predictor
from digitsum.model.registry import build_network, network_sizes
from digitsum.model.saved_model import SavedModel, save_model
from digitsum.options import ImageShape
from digitsum.ray_runtime import cluster_capacity, connect_ray
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location, locate
from digitsum.training.archives import TrainingArchives, open_training_archives
from digitsum.training.calibration import Calibration, calibrate, place_digits
from digitsum.training.checkpoint import HISTORY_FILE, WEIGHTS_FILE
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import LabelledImages, labelled_parts
from digitsum.training.distillation import load_teachers
from digitsum.training.init_weights import load_start, started_network
from digitsum.training.metrics import Epoch, best_epoch, history_from_json, history_to_json
from digitsum.training.model_card import model_card
from digitsum.training.synthetic import calibration_images
from digitsum.training.validation import validation_sample
from digitsum.training.weight_averaging import averaged_weights, epoch_of_mean, load_averaged_with
from digitsum.training.worker import train_worker

CONFIG_FILE = "config.json"
CURVES_FILE = "curves.json"
# Ray counts CPUs in ten thousandths; 5 workers of 0.28 are not more than 1.4.
_CPU_ROUNDING = 1e-6


@dataclass(frozen=True)
class Trained:
    """What a training run came to."""

    model_uri: str
    model_digest: str
    run: Location
    """The run's directory: configuration, curves, and Ray Train's checkpoints."""
    history: tuple[Epoch, ...]
    best: Epoch
    """The epoch whose weights the model holds, or, averaged with others', the epoch with the
    validation figures of the mean."""
    learned_from: dict[str, str | None]
    """The places, absolute, that it learned from and was validated on, by option."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the run."""
        return {
            "model": self.model_uri,
            "model_digest": self.model_digest,
            "epochs": len(self.history),
            "best": asdict(self.best),
            "learned_from": self.learned_from,
        }


def train(config: TrainConfig) -> Trained:
    """Train as `config` says, or resume the run of that name, and write the model.

    Everything that can be checked is checked before Ray starts: raises InputError where an archive
    cannot be trained on, or where the named run was started with other options.
    """
    started = datetime.now(UTC)
    archives = open_training_archives(config)
    to_train, to_validate = labelled_parts(archives) if archives else (None, None)
    shape = archives.shape if archives else config.shape
    start = load_start(config, shape)
    network = started_network(config, shape, start) if start else _build_network(config, shape)
    teachers = load_teachers(config, shape)
    averaged_with = load_averaged_with(config, network)
    run = _run_location(config, started)
    for directory in (run, locate(config.out)):
        directory.check_directory()
    _check_resumable(run, config)

    with connect_ray(state_api=True):
        resources = _resources(config)
        publish_bytes(_json(config.learned_from()), run.join(CONFIG_FILE))
        settings = {
            "config": config,
            "run": run.uri,
            "train": to_train,
            "validation": to_validate,
            "sizes": network_sizes(network),
            "weights": network.state_dict() if start else None,
            "teachers": teachers,
            "epoch_images": _epoch_images(config, archives),
        }
        result = _fit(config, settings, run, resources)
        history = _read_history(result)
        best, weights = _best_checkpoint(result, last=config.train_on_validation)
        others = [model.network.state_dict() for model in averaged_with]
        network.load_state_dict(averaged_weights(weights, others))
        network.eval()
        sample = validation_sample(config, to_validate)
        if others:
            best = epoch_of_mean(network, sample, config.recipe.pixel_scale, best)
        known = start if config.train_on_validation else None
        calibration, reference = _calibrated(network, config, sample, known)
    if archives is None and isinstance(network, CounterNetwork):
        glyphs = load_glyphs(config.glyphs, "val")
        place_digits(network, glyphs, config.shape, config.recipe.pixel_scale)
    publish_bytes(history_to_json(history).encode(), run.join(CURVES_FILE))
    digest = save_model(
        config.out,
        config.network,
        network,
        metrics={
            "best": asdict(best),
            "calibration": asdict(calibration),
            "reference": reference.to_json(),
        },
        card=model_card(config, history, best, calibration, network, run.uri),
        pixel_scale=config.recipe.pixel_scale,
        temperature=calibration.temperature,
        cascade_below=config.recipe.cascade_below,
    )
    places = {name: getattr(config, name) for name in ("archive", "validation", "glyphs")}
    learned_from = {
        name: locate(place).uri if place and place != EMBEDDED else place
        for name, place in places.items()
    }
    model_uri = locate(config.out).uri
    trained = Trained(model_uri, digest, run, tuple(history), best, learned_from)
    write_manifest(run, "train", config, started, trained.to_json())
    return trained


def _build_network(config: TrainConfig, shape: ImageShape) -> SumNetwork:
    sizes = {"height": shape.height, "width": shape.width, "num_digits": config.digits}
    if config.network == "counter":
        sizes["max_digits"] = max(config.digits, CounterConfig.max_digits)
    return build_network(config.network, {**sizes, **config.recipe.sizes})


def _epoch_images(config: TrainConfig, archives: TrainingArchives | None) -> int:
    """Return the images of an epoch, those that are held out taken at their fraction."""
    if archives is None:
        return config.recipe.images_per_epoch
    left = 1.0 if archives.validation else 1 - config.validation_fraction
    return max(1, round(archives.train.num_images * left))


def _calibrated(
    network: SumNetwork,
    config: TrainConfig,
    validation: LabelledImages,
    start: SavedModel | None,
) -> tuple[Calibration, PredictionStats]:
    """Return a network's calibration, and how what it predicts of validation images is distributed.

    Of the validation images, the calibration where they are composed of these distorted; or those
    of `start`, where no image is new to the network.
    """
    if start is not None and start.reference is not None:
        return Calibration(start.temperature, images=0), start.reference
    unseen = calibration_images(config) if config.archive is None else validation
    calibration = calibrate(network, *unseen, config)
    scale = config.recipe.pixel_scale
    model = SavedModel(
        config.network,
        network,
        scale,
        calibration.temperature,
        uri="",
        digest="",
        cascade_below=config.recipe.cascade_below,
    )
    return calibration, PredictionStats.of(make_predictor(model).predict(validation[0]))


def worker_cpus(config: TrainConfig, cluster_cpus: float) -> float:
    """Return the CPUs to reserve for each worker: 1, or its share where there are fewer.

    The reservation bounds no threads: workers compute on all cores of their node. Raises InputError
    where the cluster has not what the options ask for.
    """
    share = config.cpus_per_worker
    if share is None:
        share = min(math.floor(100 * cluster_cpus / config.workers) / 100, 1.0)
    if not 0 < config.workers * share <= cluster_cpus + _CPU_ROUNDING:
        raise InputError(
            f"{config.workers} workers of {share:g} CPUs do not fit on the cluster, which has "
            f"{cluster_cpus:g}; lower --cpus-per-worker or --workers."
        )
    return share


def _run_location(config: TrainConfig, started: datetime) -> Location:
    beside = locate(config.out).parent.join(RUNS_DIRECTORY)
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
    run: Location,
    resources: dict[str, float],
) -> Result:
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=settings,
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
    resources = {"CPU": worker_cpus(config, cluster_capacity("CPU"))}
    if config.use_gpu:
        if cluster_capacity("GPU") < config.workers:
            raise InputError(
                f"{config.workers} workers want a GPU each, but the cluster has "
                f"{cluster_capacity('GPU'):g}; lower --workers or leave --use-gpu out."
            )
        resources["GPU"] = 1
    return resources


def _read_history(result: Result) -> list[Epoch]:
    with result.checkpoint.as_directory() as directory:
        return history_from_json((Path(directory) / HISTORY_FILE).read_text())


def _best_checkpoint(result: Result, *, last: bool) -> tuple[Epoch, dict[str, torch.Tensor]]:
    """Return the best of the checkpoints that were kept, or the last: its epoch and its weights."""
    if last:
        return _read_checkpoint(result.checkpoint)
    candidates: Sequence[tuple[Epoch, dict[str, torch.Tensor]]] = []
    for checkpoint, _ in result.best_checkpoints:
        candidates = [*candidates, _read_checkpoint(checkpoint)]
    best = best_epoch([epoch for epoch, _ in candidates])
    return next(candidate for candidate in candidates if candidate[0] == best)


def _read_checkpoint(checkpoint: Checkpoint) -> tuple[Epoch, dict[str, torch.Tensor]]:
    with checkpoint.as_directory() as directory:
        files = Path(directory)
        epoch = history_from_json((files / HISTORY_FILE).read_text())[-1]
        return epoch, load_file(files / WEIGHTS_FILE)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
