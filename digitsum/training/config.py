"""What can be chosen of a training run."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from digitsum.archive.schema import ReadOptions
from digitsum.errors import InputError
from digitsum.model.baseline import PIXEL_SCALE
from digitsum.model.networks import NetworkName

# A run that is resumed may change these: they bear on where, how long and how it runs, not on
# what is learned from what.
RESUMABLE_CHANGES = frozenset(
    {"bundle", "epochs", "workers", "use_gpu", "cpus_per_worker", "max_failures", "name", "runs"}
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a network on a labelled archive with Ray Train, data-parallel over any workers."""

    archive: str
    """Labelled archive to train on: a directory or URI such as s3://bucket/archive."""
    validation: str | None = None
    """Labelled archive to validate on; without it, part of --archive is held out."""
    validation_fraction: float = 0.2
    """Fraction of --archive that is held out where no --validation is given."""
    bundle: str
    """Bundle to write the best epoch's model to: a directory or URI."""
    model: NetworkName = "baseline"
    """Network to train."""
    digits: int = 4
    """Digits in each image; the sums are at most 9 times as many."""
    epochs: int = 8
    """Passes over the archive."""
    batch_size: int = 64
    """Images in a step, over all workers together."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    pixel_scale: float = PIXEL_SCALE
    """What pixels 0..255 are multiplied with before the network sees them."""
    seed: int = 0
    """Seed of the weights, of dropout, of the shuffling and of the held-out part."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass; auto is bf16 autocast on GPUs and fp32 on CPUs."""
    shuffle_buffer_images: int = 16_384
    """Images that each worker draws its batches from; larger shuffles better."""
    workers: int = 1
    """Workers, each with its own share of the images."""
    use_gpu: bool = False
    """One GPU for each worker."""
    cpus_per_worker: float | None = None
    """CPUs to reserve for each worker; by default 1, or less where none would be left to read."""
    max_failures: int = 3
    """Lost workers after which the run gives up; each time it resumes from its last checkpoint."""
    name: str | None = None
    """Name of the run; the name of an earlier run resumes it. By default the present time."""
    runs: str | None = None
    """Where runs keep checkpoints and curves; by default _runs beside the bundle. All nodes of a
    cluster must reach it."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How to read the archive."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise InputError(
                f"--validation-fraction {self.validation_fraction}: give a number between 0 and 1."
            )
        for option in ("digits", "epochs", "batch_size", "shuffle_buffer_images", "workers"):
            if getattr(self, option) < 1:
                flag = option.replace("_", "-")
                raise InputError(f"--{flag} {getattr(self, option)}: give at least 1.")
        if self.batch_size % self.workers:
            raise InputError(
                f"--batch-size {self.batch_size} cannot be shared by {self.workers} workers "
                "evenly; give a multiple of --workers."
            )
        for option in ("learning_rate", "pixel_scale"):
            if not 0 < getattr(self, option) < float("inf"):
                flag = option.replace("_", "-")
                raise InputError(f"--{flag} {getattr(self, option)}: give a number above 0.")
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

    def learned_from(self) -> dict[str, Any]:
        """Return the options that a resumed run must not change, as JSON holds them."""
        return {k: v for k, v in asdict(self).items() if k not in RESUMABLE_CHANGES}
