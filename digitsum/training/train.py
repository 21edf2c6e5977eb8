"""The driver of a training run with Ray Train: from labelled images to a model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

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
from digitsum.model.counter import CounterNetwork
from digitsum.model.network import SumNetwork
from digitsum.model.outputs import Predictions, PredictionStats
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import SavedModel, save_model
from digitsum.ray_runtime import cluster_capacity, connect_ray
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location, locate
from digitsum.training.calibration import Calibration, calibrate, fit_digit_offset
from digitsum.training.checkpoint import read_checkpoint
from digitsum.training.config import FixedOptions, TrainConfig, check_resumes, fixed_options
from digitsum.training.dataset import ArchiveImages, PixelsAndSums, open_images
from digitsum.training.init_weights import UsedModels, initial_network, load_models
from digitsum.training.metrics import CURVES_FILE, Epoch, TrainOutcome, best_epoch, history_to_json
from digitsum.training.model_card import model_card
from digitsum.training.sampling import validation_sample
from digitsum.training.synthetic import validation_images
from digitsum.training.weight_averaging import averaged_weights, epoch_of_average
from digitsum.training.worker import WorkerSettings, train_worker

_FIXED_OPTIONS_FILE = "config.json"
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
    models: UsedModels
    network: SumNetwork
    """The network, with the weights that the training starts with."""


@dataclass(frozen=True)
class TrainResult:
    """A finished training run."""

    run: Location
    """The run's directory."""
    outcome: TrainOutcome
    history: tuple[Epoch, ...]
    model: SavedModel
    images: PixelsAndSums
    """A sample of the images that the model was validated on."""
    predictions: Predictions


def open_run(config: TrainConfig) -> TrainRun:
    """Return the run that `config` describes, new or to be resumed; nothing is written.

    Raises InputError if an archive cannot be trained on, a model cannot be used, or the run was
    started with other options.
    """
    started = datetime.now(UTC)
    images = open_images(config)
    shape = images.shape if images else config.shape
    models = load_models(config, shape)
    network = initial_network(config, shape, models.start)
    beside = locate(config.out).parent.join(RUNS_DIRECTORY)
    runs = locate(config.runs) if config.runs else beside
    directory = runs.join(config.name or new_run_id("train", started))
    for target in (directory, locate(config.out)):
        target.check_directory()
    recorded = directory.join(_FIXED_OPTIONS_FILE)
    if recorded.is_file():
        earlier = parse_json(FixedOptions, recorded.read_bytes(), recorded.uri)
        check_resumes(config, earlier.options, directory.name)
    return TrainRun(config, started, directory, images, models, network)


def train(config: TrainConfig) -> TrainResult:
    """Train as `config` says, or resume the run of that name, and write the model.

    Everything that can be checked is checked before Ray starts: raises InputError as `open_run`
    does, or if the cluster lacks what the options ask for.
    """
    run = open_run(config)
    with connect_ray(state_api=True):
        resources = worker_resources(config, cluster_capacity("CPU"), cluster_capacity("GPU"))
        fixed = to_json(FixedOptions(fixed_options(config)), indent=2) + b"\n"
        publish_bytes(fixed, run.directory.join(_FIXED_OPTIONS_FILE))
        fitted = _fit(run, resources)
    return _finish(run, fitted)


def _fit(run: TrainRun, resources: dict[str, float]) -> Result:
    config, directory = run.config, run.directory
    settings = WorkerSettings(config, directory.uri, run.images, run.network, run.models.teachers)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"settings": settings},
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=directory.name,
            storage_path=directory.parent.path,
            storage_filesystem=directory.filesystem,
            failure_config=FailureConfig(max_failures=config.max_failures),
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
    recipe, scale = config.recipe, config.recipe.pixel_scale
    # The model whose temperature and reference are kept, because no image is new to the network.
    kept = run.models.start if config.advanced.train_on_validation else None
    history, weights = read_checkpoint(fitted.checkpoint)
    best = history[-1]
    if kept is None:
        candidates = [read_checkpoint(checkpoint) for checkpoint, _ in fitted.best_checkpoints]
        best = best_epoch([epochs[-1] for epochs, _ in candidates])
        weights = next(weights for epochs, weights in candidates if epochs[-1] == best)
    others = [model.network.state_dict() for model in run.models.averaged_with]
    network.load_state_dict(averaged_weights(weights, others))
    network.eval()
    sample = validation_sample(config, images.validation if images else None)
    if others:
        best = epoch_of_average(network, sample, scale, best)
    if images is None and isinstance(network, CounterNetwork):
        fit_digit_offset(network, load_glyphs(config.glyphs, "val"), config.shape, scale)
    if kept:
        calibration = Calibration(kept.temperature, images=0)
    else:
        # The undistorted validation glyphs are few and chose the epoch: a temperature fitted on
        # them makes the network overconfident about other handwriting.
        unseen = sample if images else validation_images(config, recipe.distortion)
        calibration = calibrate(network, unseen, scale)
    temperature, below = calibration.temperature, recipe.cascade_below
    model = SavedModel(config.network, network, scale, temperature, "", "", cascade_below=below)
    predictions = make_predictor(model).predict(sample[0])
    reference = PredictionStats.of(predictions)
    if kept and kept.reference:
        reference = kept.reference
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
        temperature=temperature,
        cascade_below=below,
    )
    publish_bytes(history_to_json(history).encode(), run.directory.join(CURVES_FILE))
    model = replace(model, uri=locate(config.out).uri, digest=digest)
    outcome = TrainOutcome(model=model.uri, model_digest=digest, epochs=len(history), best=best)
    write_manifest(run.directory, "train", config, run.started, to_python(outcome))
    return TrainResult(run.directory, outcome, tuple(history), model, sample, predictions)


def worker_resources(config: TrainConfig, num_cpus: float, num_gpus: float) -> dict[str, float]:
    """Return what to reserve for each worker of a cluster: 1 CPU, or its share of fewer, and a GPU.

    The reservation bounds no threads: workers compute on all cores of their node. Raises InputError
    if the cluster lacks what the options ask for.
    """
    share = config.cpus_per_worker
    if share is None:
        share = min(math.floor(100 * num_cpus / config.workers) / 100, 1.0)
    if not 0 < config.workers * share <= num_cpus + _CPU_ROUNDING:
        raise InputError(
            f"{config.workers} workers of {share:g} CPUs do not fit on the cluster, which has "
            f"{num_cpus:g}; lower --cpus-per-worker or --workers."
        )
    if config.use_gpu and num_gpus < config.workers:
        raise InputError(
            f"{config.workers} workers need a GPU each, but the cluster has {num_gpus:g}; lower "
            "--workers or leave --use-gpu out."
        )
    return {"CPU": share, "GPU": 1} if config.use_gpu else {"CPU": share}
