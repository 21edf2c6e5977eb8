"""The choice of a back-end: OpenVINO, or torch anywhere else."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from typing import Literal

from digitsum.errors import InputError
from digitsum.model.batch_predictor import BatchPredictor
from digitsum.model.saved_model import SavedModel
from digitsum.model.torch_backend import TorchPredictor

Backend = Literal["auto", "openvino", "torch"]


def make_predictor(
    model: SavedModel,
    *,
    backend: Backend = "auto",
    batch_size: int = 64,
    device: str = "cpu",
    num_threads: int = 1,
    known_count: int | None = None,
) -> BatchPredictor:
    """Return a predictor; `auto` is OpenVINO on x86 CPUs if it is installed, else torch.

    `known_count` is the number of digits in every image, if the user says so. Raises InputError if
    the back-end cannot run here.
    """
    check_backend(backend, device)
    if backend == "torch" or not _has_openvino(device):
        return TorchPredictor(
            model,
            batch_size=batch_size,
            device=device,
            num_threads=num_threads,
            known_count=known_count,
        )
    # OpenVINO need not be installed, and its import takes a while.
    from digitsum.model.openvino_backend import OpenVinoPredictor

    return OpenVinoPredictor(
        model, batch_size=batch_size, num_threads=num_threads, known_count=known_count
    )


def check_backend(backend: Backend, device: str) -> None:
    """Raise InputError if this machine cannot use the back-end that the user asked for."""
    if backend == "openvino" and not _has_openvino(device):
        raise InputError(
            "--backend openvino: runs on x86 CPUs that have it (pip install openvino), and not on "
            "GPUs; leave the option out."
        )


def _has_openvino(device: str) -> bool:
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return device == "cpu" and is_x86 and find_spec("openvino") is not None
