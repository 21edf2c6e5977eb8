"""What can be chosen of a scoring run and of an evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from tyro.conf import Positional

from digitsum.archive.reader import BATCH_ROWS
from digitsum.errors import InputError
from digitsum.model.predictor import Backend, Predictor, check_backend, make_predictor
from digitsum.model.saved_model import SavedModel
from digitsum.options import ReadOptions, parse_fraction

ExecutorName = Literal["auto", "ray", "threads"]

CHUNK_IMAGES = 50_000
MAX_GPUS_PER_NODE = 64
CPU_BATCH_SIZE = 64
GPU_BATCH_SIZE = 2048


@dataclass(frozen=True, kw_only=True)
class ActorOptions:
    """The actors that hold the model, each on its own share of a node."""

    cpus_per_actor: int = 1
    """CPUs to reserve for each actor, and threads that it computes on."""
    gpus_per_actor: float = 0
    """GPUs for each actor, also a fraction of one; 0 computes on CPUs."""
    min_actors: int = 1
    """Actors to keep however little there is to do."""
    max_actors: int | None = None
    """Actors to grow to; by default as many as the cluster has room for."""
    batch_size: int | None = None
    """Images in one pass of the network; by default 64 on CPUs, 2048 on a GPU."""
    executor: ExecutorName = "auto"
    """Where they live: on Ray, or as threads of this process; `auto` takes threads for at most
    100,000 images where no cluster is connected or named and the last run did not die. Threads
    compute together on the cores of all actors, with a chunk more in hand than there are actors."""
    backend: Backend = "auto"
    """What runs the network: OpenVINO on x86 CPUs, torch elsewhere; or always one of them."""

    def __post_init__(self) -> None:
        for option in ("cpus_per_actor", "min_actors", "batch_size"):
            given = getattr(self, option)
            if given is not None and given < 1:
                flag = option.replace("_", "-")
                raise InputError(f"--{flag} {given}: give at least 1.")
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
        """What torch calls the device of each actor."""
        return "cuda" if self.gpus_per_actor else "cpu"

    @property
    def images_per_batch(self) -> int:
        """Images in one pass of the network, as asked for or by default."""
        return self.batch_size or (GPU_BATCH_SIZE if self.gpus_per_actor else CPU_BATCH_SIZE)

    @property
    def images_per_read(self) -> int:
        """Images to read at a time: as many as keep all threads busy, in whole passes."""
        at_once = self.images_per_batch * self.cpus_per_actor
        return at_once * math.ceil(BATCH_ROWS / at_once)

    def predictor(self, model: SavedModel, num_digits: int | None) -> Predictor:
        """Return the predictor of an actor, on the GPU or the CPUs that were reserved for it.

        `num_digits` is how many digits every image holds, where that is known.
        """
        return make_predictor(
            model,
            backend=self.backend,
            batch_size=self.images_per_batch,
            device=self.device,
            num_threads=self.cpus_per_actor,
            num_digits=num_digits,
        )


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score an archive: predicted sums as Parquet, one part a chunk."""

    archive: str
    """Archive to score: a directory or URI such as s3://bucket/archive."""
    scores: str
    """Where the predicted sums go: a directory or URI."""
    model: str | None = None
    """Model of the model: a directory or URI; by default the one that comes with digitsum."""
    known_count: int | None = None
    """Digits in each image, where that is known; by default the model counts them."""
    plan: bool = False
    """Only say what would be scored."""
    json: bool = False
    """Say it, on stdout, as one JSON object."""
    max_rejected: str = "1%"
    """Images, or shards, that may be rejected before the run counts as incomplete and ends with
    exit code 3: a percentage such as 0.1% of each, or a fraction such as 0.001."""
    fail_on_drift: bool = False
    """End with exit code 5 where what was predicted has drifted: where sums, confidences or numbers
    of digits are distributed otherwise than on the images that the model was validated on."""
    retry_rejected: bool = False
    """Also score again the chunks that have rejected images. Shards and chunks that could not be
    read have no part, and are tried again by every run."""
    chunk_images: int = CHUNK_IMAGES
    """Images in a chunk, rounded up to whole row groups."""
    actors: ActorOptions = field(default_factory=ActorOptions)
    """The actors that hold the model."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How to read the archive."""

    def __post_init__(self) -> None:
        _check_chunk_images(self.chunk_images)
        parse_fraction("--max-rejected", self.max_rejected)

    @property
    def max_rejected_fraction(self) -> float:
        """The fraction of images, or of shards, that may be rejected."""
        return parse_fraction("--max-rejected", self.max_rejected)


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """Say what a scores directory holds, and how its last runs ended."""

    scores: Positional[str]
    """Scores: a directory or URI."""
    json: bool = False
    """Say it as one JSON object."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check scores against their archive: every image scored once, in order, by the model."""

    archive: str
    """Archive that was scored: a directory or URI."""
    scores: str
    """Its scores: a directory or URI."""
    model: str | None = None
    """Model of the model that scored; by default the one that comes with digitsum."""
    known_count: int | None = None
    """Digits in each image, where the model was told."""
    sample: int = 1000
    """Images to score again and compare, spread over the archive; 0 for none."""
    json: bool = False
    """Say what was found as one JSON object."""
    chunk_images: int = CHUNK_IMAGES
    """Images in a chunk, as when it was scored."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How to read the archive, as when it was scored."""

    def __post_init__(self) -> None:
        _check_chunk_images(self.chunk_images)
        if self.sample < 0:
            raise InputError(f"--sample {self.sample}: give at least 0.")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare what two models said of one archive, from scores that hold both."""

    archive: str
    """Archive that was scored: a directory or URI."""
    scores: str
    """Its scores by both models: a directory or URI."""
    models: tuple[str, str] | None = None
    """The two model=... directories, or how their digests begin; needed where there are more."""
    report: str = "comparison"
    """Where the report goes: a directory or URI."""
    json: bool = False
    """Say the figures as one JSON object."""
    chunk_images: int = CHUNK_IMAGES
    """Images in a chunk, as when it was scored."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How to read the archive, as when it was scored."""

    def __post_init__(self) -> None:
        _check_chunk_images(self.chunk_images)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a labelled archive and compare the predicted sums with the true ones."""

    archive: str
    """Labelled archive: a directory or URI such as s3://bucket/archive."""
    model: str | None = None
    """Model of the model: a directory or URI; by default the one that comes with digitsum."""
    known_count: int | None = None
    """Digits in each image, where that is known; by default the model counts them."""
    report: str = "evaluation"
    """Where the confusion matrix and the figures go: a directory or URI."""
    max_rejected: str = "1%"
    """Images, or shards, that may be rejected before the command ends with exit code 3: a
    percentage such as 0.1% of each, or a fraction such as 0.001. The figures are of all else."""
    chunk_images: int = CHUNK_IMAGES
    """Images in a chunk, rounded up to whole row groups."""
    actors: ActorOptions = field(default_factory=ActorOptions)
    """The actors that hold the model."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How to read the archive."""

    def __post_init__(self) -> None:
        _check_chunk_images(self.chunk_images)
        parse_fraction("--max-rejected", self.max_rejected)


def _check_chunk_images(chunk_images: int) -> None:
    if chunk_images < 1:
        raise InputError(f"--chunk-images {chunk_images}: give at least 1.")
