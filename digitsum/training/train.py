"""The driver of a training run with Ray Train: from labelled images to a model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file

from digitsum.archive.glyphs import load_glyphs
from digitsum.errors import InputError
from digitsum.manifest import (
    RUNS_DIRECTORY,
    new_run_id,
    parse_json,
    to_json,
    to_python,
    write_manifest,
)
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.network import SumNetwork
from digitsum.model.outputs import PredictionStats
from digitsum.model.predictor import make_predictor
from digitsum.model.registry import build_network, network_sizes
from digitsum.model.saved_model import SavedModel, save_model
from digitsum.options import ImageShape
from digitsum.ray_runtime import cluster_capacity, connect_ray
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location, locate
from digitsum.training.calibration import Calibration, calibrate, fit_digit_offset
from digitsum.training.checkpoint import AVERAGED_WEIGHTS_FILE, HISTORY_FILE
from digitsum.training.config import FixedOptions, TrainConfig
from digitsum.training.dataset import ArchiveImages, open_images
from digitsum.training.distillation import load_teachers
from digitsum.training.init_weights import load_start, network_with_weights
from digitsum.training.metrics import (
    CURVES_FILE,
    Epoch,
    TrainOutcome,
    best_epoch,
    history_from_json,
    history_to_json,
)
from digitsum.training.model_card import model_card
from digitsum.training.synthetic import calibration_images
from digitsum.training.validation import ValidatedModel, validation_sample
from digitsum.training.weight_averaging import (
    averaged_weights,
    epoch_of_average,
    load_averaged_with,
)
from digitsum.training.worker import WorkerSettings, train_worker

FIXED_OPTIONS_FILE = "config.json"
"""A run's FixedOptions, which it can be resumed with."""
# Ray counts CPUs in ten thousandths; 5 workers of 0.28 are not more than 1.4.
_CPU_ROUNDING = 1e-6


@dataclass(frozen=True)
class TrainRun:
    """A training run, everything that it is given opened and checked."""

    config: TrainConfig
    started: datetime
    directory: Location
    """The run's directory: fixed options, checkpoints, curves, manifest."""
    images: ArchiveImages | None
    """None if images are composed."""
    network: SumNetwork
    """The network, with the weights of `start` or fresh ones."""
    start: SavedModel | None
    """The model whose weights the training starts with."""
    teachers: tuple[SavedModel, ...]
    averaged_with: tuple[SavedModel, ...]

    def worker_settings(self) -> WorkerSettings:
        """Return what the workers are sent."""
        images = self.images
        return WorkerSettings(
            config=self.config,
            run_uri=self.directory.uri,
            train=images.train if images else None,
            validation=images.validation if images else None,
            epoch_images=(images.epoch_images if images else self.config.recipe.images_per_epoch),
            network_sizes=network_sizes(self.network),
            start_weights=self.network.state_dict() if self.start else None,
            teachers=self.teachers,
        )


@dataclass(frozen=True)
class TrainResult:
    """A finished training run."""

    run: Location
    """The run's directory."""
    outcome: TrainOutcome
    history: tuple[Epoch, ...]
    validated: ValidatedModel


def open_run(config: TrainConfig) -> TrainRun:
    """Return the run that `config` describes, new or to be resumed; nothing is written.

    Raises InputError if an archive cannot be trained on, a model cannot be used, or the run was
    started with other options.
    """
    started = datetime.now(UTC)
    images = open_images(config)
    shape = images.shape if images else config.shape
    start = load_start(config, shape)
    network = network_with_weights(start, config, shape) if start else _fresh(config, shape)
    teachers = load_teachers(config, shape)
    averaged_with = load_averaged_with(config, network)
    beside = locate(config.out).parent.join(RUNS_DIRECTORY)
    runs = locate(config.runs) if config.runs else beside
    directory = runs.join(config.name or new_run_id("train", started))
    for target in (directory, locate(config.out)):
        target.check_directory()
    recorded = directory.join(FIXED_OPTIONS_FILE)
    if recorded.is_file():
        earlier = parse_json(FixedOptions, recorded.read_bytes(), recorded.uri)
        FixedOptions.of(config).check_resumes(earlier, directory.name)
    return TrainRun(config, started, directory, images, network, start, teachers, averaged_with)


def train(config: TrainConfig) -> TrainResult:
    """Train as `config` says, or resume the run of that name, and write the model.

    Everything that can be checked is checked before Ray starts: raises InputError as `open_run`
    does, or if the cluster lacks what the options ask for.
    """
    run = open_run(config)
    with connect_ray(state_api=True):
        resources = _resources(config)
        fixed_options = to_json(FixedOptions.of(config), indent=2) + b"\n"
        publish_bytes(fixed_options, run.directory.join(FIXED_OPTIONS_FILE))
        fitted = _fit(run, resources)
    return _finish(run, fitted)


def _fresh(config: TrainConfig, shape: ImageShape) -> SumNetwork:
    sizes = {"height": shape.height, "width": shape.width, "num_digits": config.digits}
    if config.network == "counter":
        sizes["max_digits"] = max(config.digits, CounterConfig.max_digits)
    return build_network(config.network, {**sizes, **config.recipe.sizes})


def _fit(run: TrainRun, resources: dict[str, float]) -> Result:
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"settings": run.worker_settings()},
        scaling_config=ScalingConfig(
            num_workers=run.config.workers,
            use_gpu=run.config.use_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=run.directory.name,
            storage_path=run.directory.parent.path,
            storage_filesystem=run.directory.filesystem,
            failure_config=FailureConfig(max_failures=run.config.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=2,
                checkpoint_score_attribute="validation_accuracy",
                checkpoint_score_order="max",
            ),
        ),
    )
    return trainer.fit()


def _finish(run: TrainRun, fitted: Result) -> TrainResult:
    """Choose, average, calibrate and validate the weights; write the model and the run's record."""
    config, network, images = run.config, run.network, run.images
    scale = config.recipe.pixel_scale
    with fitted.checkpoint.as_directory() as directory:
        history = history_from_json((Path(directory) / HISTORY_FILE).read_text())
    best, weights = _best_checkpoint(fitted, last=config.advanced.train_on_validation)
    others = [model.network.state_dict() for model in run.averaged_with]
    network.load_state_dict(averaged_weights(weights, others))
    network.eval()
    sample = validation_sample(config, images.validation if images else None)
    if others:
        best = epoch_of_average(network, sample, scale, best)
    if images is None and isinstance(network, CounterNetwork):
        fit_digit_offset(network, load_glyphs(config.glyphs, "val"), config.shape, scale)
    if config.advanced.train_on_validation and run.start:  # no image is new to the network
        calibration = Calibration(run.start.temperature, images=0)
    else:
        unseen = sample if images else calibration_images(config)
        calibration = calibrate(network, unseen, scale)
    model = SavedModel(
        config.network,
        network,
        scale,
        calibration.temperature,
        uri="",
        digest="",
        cascade_below=config.recipe.cascade_below,
    )
    predictions = make_predictor(model).predict(sample[0])
    reference = PredictionStats.of(predictions)
    if config.advanced.train_on_validation and run.start and run.start.reference:
        reference = run.start.reference
    digest = save_model(
        config.out,
        config.network,
        network,
        metrics={
            "best": asdict(best),
            "calibration": asdict(calibration),
            "reference": asdict(reference),
        },
        card=model_card(config, history, best, calibration, network, run.directory.uri),
        pixel_scale=scale,
        temperature=calibration.temperature,
        cascade_below=config.recipe.cascade_below,
    )
    publish_bytes(history_to_json(history).encode(), run.directory.join(CURVES_FILE))
    model = replace(model, uri=locate(config.out).uri, digest=digest)
    validated = ValidatedModel(model, sample, predictions)
    outcome = TrainOutcome(model=model.uri, model_digest=digest, epochs=len(history), best=best)
    write_manifest(run.directory, "train", config, run.started, to_python(outcome))
    return TrainResult(run.directory, outcome, tuple(history), validated)


def worker_cpus(config: TrainConfig, cluster_cpus: float) -> float:
    """Return the CPUs to reserve for each worker: 1, or its share if there are fewer.

    The reservation bounds no threads: workers compute on all cores of their node. Raises InputError
    if the cluster lacks what the options ask for.
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


def _resources(config: TrainConfig) -> dict[str, float]:
    resources = {"CPU": worker_cpus(config, cluster_capacity("CPU"))}
    if config.use_gpu:
        if cluster_capacity("GPU") < config.workers:
            raise InputError(
                f"{config.workers} workers need a GPU each, but the cluster has "
                f"{cluster_capacity('GPU'):g}; lower --workers or leave --use-gpu out."
            )
        resources["GPU"] = 1
    return resources


def _best_checkpoint(fitted: Result, *, last: bool) -> tuple[Epoch, dict[str, torch.Tensor]]:
    """Return epoch and weights of the best checkpoint that was kept, or of the last one."""
    if last:
        return _read_checkpoint(fitted.checkpoint)
    candidates = [_read_checkpoint(checkpoint) for checkpoint, _ in fitted.best_checkpoints]
    best = best_epoch([epoch for epoch, _ in candidates])
    return next(candidate for candidate in candidates if candidate[0] == best)


def _read_checkpoint(checkpoint: Checkpoint) -> tuple[Epoch, dict[str, torch.Tensor]]:
    with checkpoint.as_directory() as directory:
        epoch = history_from_json((Path(directory) / HISTORY_FILE).read_text())[-1]
        return epoch, load_file(Path(directory) / AVERAGED_WEIGHTS_FILE)
