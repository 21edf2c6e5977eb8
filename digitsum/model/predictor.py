"""Predictors: uint8 images in, sums out, by one of two back-ends.

Each computes in fp32, and gives what torch gives on one CPU, but for the order in which it adds up:
where that decides whether an image is looked at a second time, for one look in place of two.
Several threads take a batch each, so that how many there are makes no difference at all; whoever
calls, and how many at once, they are the only ones that compute. Images that the network is not
sure of are looked at a second time (`cascade.py`).
bf16 was tried with the model that comes with digitsum, and is not offered: of 2,000 test images 7
had another sum, and the probability was off by up to 0.3.
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import repeat
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor

from digitsum.archive.images import Uint8Array
from digitsum.errors import InputError
from digitsum.model.cascade import mean_of_looks, moved
from digitsum.model.network import SumNetwork
from digitsum.model.outputs import Posterior, Predictions, Readings
from digitsum.model.saved_model import SavedModel

Backend = Literal["auto", "openvino", "torch"]
P = ParamSpec("P")
T = TypeVar("T")

# Few images are looked at again: a whole batch of them would be blank for the greater part.
_PART_AGAIN = 4


class Predictor(Protocol):
    """Anything that predicts sums; one call may hold any number of images."""

    backend: str
    """Name of what runs the network."""

    def predict(self, pixels: Uint8Array) -> Predictions:
        """Return the predictions for images uint8 (n, height, width), in their order."""


class BatchPredictor(ABC):
    """Predicts batch by batch; a back-end says what the network makes of one batch.

    `num_digits` is how many digits every image is known to hold, where that is known.
    """

    backend: str
    """Name of what runs the network."""

    def __init__(
        self, model: SavedModel, batch_size: int, num_threads: int, num_digits: int | None
    ) -> None:
        self._network: SumNetwork = model.network
        self._cascade_below = model.cascade_below
        self._batch_size = batch_size
        self._batch_size_again = max(1, batch_size // _PART_AGAIN)
        self._num_digits = num_digits
        _compute_on_one_thread()
        # Also of one: whoever calls, no more threads compute than were asked for.
        self._threads = ThreadPoolExecutor(
            num_threads, "predict", initializer=_compute_on_one_thread
        )

    def predict(self, pixels: Uint8Array) -> Predictions:
        """Return the predictions for images uint8 (n, height, width), `batch_size` at a time."""
        return self._compute(_predictions, self._posterior(pixels))

    def _posterior(self, pixels: Uint8Array) -> Posterior:
        """Return what the network says of images uint8 (n, h, w), some looked at twice."""
        first = self._look(pixels, self._batch_size)
        unsure = self._compute(_less_sure, first, self._cascade_below)
        if not len(unsure):
            return first
        again = moved(pixels[unsure.cpu().numpy()])
        second = self._look(again, self._batch_size_again)
        return self._compute(self._looked_twice, first, unsure, second)

    def _look(self, pixels: Uint8Array, batch_size: int) -> Posterior:
        # One batch of none where there are none.
        starts = range(0, max(len(pixels), 1), batch_size)
        batches = [pixels[start : start + batch_size] for start in starts]
        looks = list(self._threads.map(self._checked, batches, repeat(batch_size)))
        return self._compute(Posterior.joined, looks)

    @torch.inference_mode()
    def _checked(self, pixels: Uint8Array, batch_size: int) -> Posterior:
        posterior = self._batch_posterior(pixels, batch_size)
        _check_finite(posterior.sum_log_probs)
        return posterior

    def _looked_twice(self, first: Posterior, unsure: Tensor, second: Posterior) -> Posterior:
        of_first = first.of_rows(unsure)
        mean = mean_of_looks(self._network, of_first, second, self._num_digits)
        return first.with_rows(unsure, mean)

    def _compute(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Return what a function returns that computes with tensors, in one of the threads."""
        return self._threads.submit(torch.inference_mode()(function), *args, **options).result()

    @abstractmethod
    def _batch_posterior(self, pixels: Uint8Array, batch_size: int) -> Posterior:
        """Return what the network says of images uint8 (b, h, w), b at most `batch_size`.

        May be called by several threads at once.
        """


def make_predictor(
    model: SavedModel,
    *,
    backend: Backend = "auto",
    batch_size: int = 64,
    device: str = "cpu",
    num_threads: int = 1,
    num_digits: int | None = None,
) -> Predictor:
    """Return the predictor of a model; `auto` is the fastest back-end of those that fit here.

    That is OpenVINO on x86 CPUs where it is installed, and torch anywhere else. Raises InputError
    where a back-end cannot be used here.
    """
    # Imported where it is used: OpenVINO need not be installed, and takes its time.
    if backend == "auto":
        backend = "openvino" if device == "cpu" and _has_openvino() else "torch"
    if backend == "torch":
        from digitsum.model.torch_backend import TorchPredictor

        return TorchPredictor(
            model,
            batch_size=batch_size,
            device=device,
            num_threads=num_threads,
            num_digits=num_digits,
        )
    check_backend(backend, device)
    from digitsum.model.openvino_backend import OpenVinoPredictor

    return OpenVinoPredictor(
        model, batch_size=batch_size, num_threads=num_threads, num_digits=num_digits
    )


def check_backend(backend: Backend, device: str) -> None:
    """Raise InputError where a back-end that was asked for cannot be used on this machine."""
    if backend == "openvino" and (device != "cpu" or not _has_openvino()):
        raise InputError(
            "--backend openvino: runs on x86 CPUs that have it (pip install openvino), and not on "
            "GPUs; leave the option out."
        )


def _check_finite(values: torch.Tensor) -> None:
    """Raise InputError where what a network says holds what is no number."""
    # The sum is one pass; where it overflows, each value tells.
    if not bool(torch.isfinite(values.sum())) and bool(torch.isnan(values).any()):
        raise InputError(
            "the model predicts what is no probability: its weights, or --pixel-scale when it was "
            "trained, are too great; give another model."
        )


def _less_sure(posterior: Posterior, confidence: float) -> Tensor:
    """Return the numbers of the images, int64 (n,), of whose sums it is less sure."""
    return (posterior.sum_log_probs.amax(dim=1).exp() < confidence).nonzero().squeeze(1)


def _compute_on_one_thread() -> None:
    torch.set_num_threads(1)


def _has_openvino() -> bool:
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and find_spec("openvino") is not None


def _predictions(posterior: Posterior) -> Predictions:
    """Return, in memory of the CPU, what a network said of b images."""
    most_probable = posterior.sum_log_probs.max(dim=1)
    return Predictions(
        _numpy(most_probable.indices, torch.int16),
        _numpy(most_probable.values.exp(), torch.float32),
        _readings(posterior),
    )


def _readings(posterior: Posterior) -> Readings | None:
    if posterior.digits is None or posterior.digit_x is None or posterior.count_probs is None:
        return None
    return Readings(
        _numpy(posterior.digits, torch.int8),
        _numpy(posterior.digit_x, torch.int16),
        _numpy(posterior.count_probs, torch.float32),
    )


def _numpy(tensor: torch.Tensor, dtype: torch.dtype) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.to(dtype).cpu().numpy()
    return array
