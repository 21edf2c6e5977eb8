"""Options of scoring, of evaluating, and of checking and comparing scores."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from tyro.conf import Positional

from digitsum.archive.reader import BATCH_ROWS
from digitsum.errors import InputError
from digitsum.model.batch_predictor import BatchPredictor
from digitsum.model.predictor import Backend, check_backend, make_predictor
from digitsum.model.saved_model import SavedModel
from digitsum.options import ReadOptions, check_at_least, parse_fraction

ExecutorName = Literal["auto", "ray", "threads"]

CHUNK_IMAGES = 50_000
MAX_GPUS_PER_NODE = 64
CPU_BATCH_SIZE = 64
GPU_BATCH_SIZE = 2048


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Actors that hold the model, and what each of them computes on."""

    cpus_per_actor: int = 1
    """CPUs to reserve for each actor, which computes on as many threads."""
    gpus_per_actor: float = 0
    """GPUs for each actor, also a fraction of one; 0 for CPUs."""
    min_actors: int = 1
    """Actors to keep, however few chunks there are."""
    max_actors: int | None = None
    """Actors to grow to; by default as many as fit on the cluster."""
    batch_size: int | None = None
    """Images in one pass of the network; by default 64 on CPUs, 2048 on a GPU."""
    executor: ExecutorName = "auto"
    """Ray, threads of this process, or auto: threads for at most 100,000 images if no cluster is
    connected or named, and the last run did not die."""
    backend: Backend = "auto"
    """Library that runs the network; auto is OpenVINO on x86 CPUs and torch elsewhere."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "cpus_per_actor", "min_actors", "batch_size")
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise InputError(
                f"--max-actors {self.max_actors} is below --min-actors {self.min_actors}; "
                "exchange them."
            )
        whole = range(2, MAX_GPUS_PER_NODE + 1)
        if not (0 <= self.gpus_per_actor <= 1 or self.gpus_per_actor in whole):
            raise InputError(
                f"--gpus-per-actor {self.gpus_per_actor}: give 0, a fraction of 1, or as many "
                "whole GPUs as a node has."
            )
        if self.executor == "threads" and self.gpus_per_actor:
            raise InputError("--executor threads: computes on CPUs; leave --gpus-per-actor out.")
        check_backend(self.backend, self.device)

    @property
    def device(self) -> str:
        """Device of each actor, as torch names it."""
        return "cuda" if self.gpus_per_actor else "cpu"

    @property
    def images_per_batch(self) -> int:
        """Images in one pass of the network."""
        return self.batch_size or (GPU_BATCH_SIZE if self.gpus_per_actor else CPU_BATCH_SIZE)

    @property
    def images_per_read(self) -> int:
        """Images to read at a time: whole passes, enough to keep all threads busy."""
        at_once = self.images_per_batch * self.cpus_per_actor
        return at_once * math.ceil(BATCH_ROWS / at_once)

    def predictor(self, model: SavedModel, known_count: int | None) -> BatchPredictor:
        """Return the predictor of an actor, on the GPU or the CPUs that are reserved for it."""
        return make_predictor(
            model,
            backend=self.backend,
            batch_size=self.images_per_batch,
            device=self.device,
            num_threads=self.cpus_per_actor,
            known_count=known_count,
        )


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions:
    """Options of every command that goes through an archive chunk by chunk."""

    archive: str
    """Archive: a directory or URI such as s3://bucket/archive."""
    chunk_images: int = CHUNK_IMAGES
    """Images in a chunk, rounded up to whole row groups; as when the archive was scored."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """Reading of the archive."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "chunk_images")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ArchiveOptions):
    """Options of every command that runs a model on an archive."""

    model: str | None = None
    """Model: a directory, a URI or packaged, which is the default."""
    known_count: int | None = None
    """Digits in each image, if all hold as many; by default the model counts them."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ModelOptions):
    """Options of every command that runs a model on all of an archive."""

    max_rejected: str = "1%"
    """Images, or shards, that may be rejected; above it the exit code is 3, and scores are
    incomplete. A percentage such as 0.1%, or a fraction such as 0.001."""
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    """Actors that hold the model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_fraction("--max-rejected", self.max_rejected)

    @property
    def max_rejected_fraction(self) -> float:
        """Fraction of images, or of shards, that may be rejected."""
        return parse_fraction("--max-rejected", self.max_rejected)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(PredictOptions):
    """Score an archive: predicted sums as Parquet, one part a chunk."""

    scores: str
    """Scores to write: a directory or URI."""
    plan: bool = False
    """Print what would be scored, and score nothing."""
    json: bool = False
    """Print one JSON object."""
    fail_on_drift: bool = False
    """End with exit code 5 if predictions have drifted: if sums, confidences or numbers of digits
    are distributed otherwise than on the images that the model was validated on."""
    retry_rejected: bool = False
    """Score chunks with rejected images again. Shards and chunks that could not be read are tried
    again by every run."""


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """Show what a scores directory holds, and how its last runs ended."""

    scores: Positional[str]
    """Scores: a directory or URI."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(ModelOptions):
    """Check scores against their archive: every image scored once, in order, by the model."""

    scores: str
    """Scores of the archive: a directory or URI."""
    sample: int = 1000
    """Images to score again and compare, spread over the archive; 0 for none."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "sample")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(ArchiveOptions):
    """Compare two models on one archive, by scores that hold both."""

    scores: str
    """Scores of the archive by both models: a directory or URI."""
    models: tuple[str, str] | None = None
    """The two model=... directories, or how their digests begin; needed if there are more."""
    report: str = "comparison"
    """Report to write: a directory or URI."""
    json: bool = False
    """Print the figures as one JSON object."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(PredictOptions):
    """Score a labelled archive and compare the predicted sums with the true ones."""

    report: str = "evaluation"
    """Report to write: a directory or URI."""
