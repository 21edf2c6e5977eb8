"""Predictors: uint8 images in, sums out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from digitsum.archive.images import Uint8Array
from digitsum.model.bundle import Bundle
from digitsum.model.networks import to_input
from digitsum.model.sum_network import Posterior


@dataclass(frozen=True)
class Predictions:
    """What a model says of n images."""

    sums: npt.NDArray[np.int16]
    """int16 (n,): the most probable sum."""
    confidences: npt.NDArray[np.float32]
    """float32 (n,): the probability of that sum, 0..1."""
    readings: Readings | None = None
    """The digits, where the model reads digits."""


@dataclass(frozen=True)
class Readings:
    """The digits that were read on n images, from left to right; they add up to the sums."""

    digits: npt.NDArray[np.int8]
    """int8 (n, columns): the digits of an image, then -1."""
    digit_x: npt.NDArray[np.int16]
    """int16 (n, columns): the pixel column of each digit's centre, then -1."""
    count_probs: npt.NDArray[np.float32]
    """float32 (n, counts): the probability that an image holds 0, 1, 2, ... digits, as far as
    the model tells counts apart."""


class Predictor(Protocol):
    """Anything that predicts sums; one call may hold any number of images."""

    def predict(self, pixels: Uint8Array) -> Predictions:
        """Return the predictions for images uint8 (n, height, width), in their order."""


class TorchPredictor:
    """Runs a bundle's network by torch, on a GPU or on a number of CPU threads.

    `num_digits` is how many digits every image is known to hold, where that is known.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        batch_size: int,
        device: str = "cpu",
        num_threads: int = 1,
        num_digits: int | None = None,
    ) -> None:
        if device == "cpu":
            torch.set_num_threads(num_threads)
        self._device = torch.device(device)
        # Convolutions in this layout were measured 1.2 to 1.5 times as fast on CPUs.
        network = bundle.network.to(self._device).eval()
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._pixel_scale = bundle.pixel_scale
        self._temperature = bundle.temperature
        self._batch_size = batch_size
        self._num_digits = num_digits

    def predict(self, pixels: Uint8Array) -> Predictions:
        """Return the predictions for images uint8 (n, height, width), `batch_size` at a time."""
        starts = range(0, max(len(pixels), 1), self._batch_size)
        return _joined([self._predict(pixels[i : i + self._batch_size]) for i in starts])

    def column_probs(self, pixels: Uint8Array) -> npt.NDArray[np.float32] | None:
        """Return what each column emits, float32 (n, columns, 11), blank first.

        None where the network has no columns. For a few images: all are run at once.
        """
        logits = self._logits(pixels)
        return logits.softmax(dim=2).cpu().numpy() if logits.ndim == 3 else None

    @torch.inference_mode()
    def _predict(self, pixels: Uint8Array) -> Predictions:
        posterior = self._network.posterior(self._logits(pixels), self._num_digits)
        most_probable = posterior.sum_log_probs.max(dim=1)
        return Predictions(
            _numpy(most_probable.indices, torch.int16),
            _numpy(most_probable.values.exp(), torch.float32),
            _readings(posterior),
        )

    @torch.inference_mode()
    def _logits(self, pixels: Uint8Array) -> torch.Tensor:
        """Return what the network says of images uint8 (b, h, w), calibrated."""
        with warnings.catch_warnings():
            # Pixels that come straight from Parquet are read-only, and are only read here.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            images = torch.from_numpy(pixels).to(self._device)
        logits: torch.Tensor = self._network(to_input(images, self._pixel_scale))
        return logits.float().div_(self._temperature)


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


def _joined(batches: Sequence[Predictions]) -> Predictions:
    readings = [batch.readings for batch in batches if batch.readings is not None]
    return Predictions(
        np.concatenate([batch.sums for batch in batches]),
        np.concatenate([batch.confidences for batch in batches]),
        Readings(
            np.concatenate([reading.digits for reading in readings]),
            np.concatenate([reading.digit_x for reading in readings]),
            np.concatenate([reading.count_probs for reading in readings]),
        )
        if readings
        else None,
    )
