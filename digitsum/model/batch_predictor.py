"""Prediction batch by batch: threads, the cascade, and conversion to numpy; back-ends compute.

All back-ends compute in fp32 and differ by the order of additions alone, which may move a
confidence across `cascade_below`. Each thread computes whole batches, so the number of threads does
not change a bit. bf16 is not offered: with the packaged model, 7 of 2,000 test images got another
sum, and probabilities were off by up to 0.3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any, ParamSpec, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor

from digitsum.archive.images import Uint8Array
from digitsum.errors import InputError
from digitsum.model.cascade import average_passes, shift_images
from digitsum.model.network import SumNetwork
from digitsum.model.outputs import DigitReadings, Posterior, Predictions
from digitsum.model.saved_model import SavedModel

P = ParamSpec("P")
Computed = TypeVar("Computed")

# Few images take the second pass: they would leave most of a full batch blank.
_SECOND_BATCH_DIVISOR = 4


class BatchPredictor(ABC):
    """Predicts sums of any number of images; a back-end computes one batch.

    Only its own threads compute, however many callers there are.
    """

    backend: str

    def __init__(
        self, model: SavedModel, batch_size: int, num_threads: int, known_count: int | None
    ) -> None:
        self._network: SumNetwork = model.network
        self._cascade_below = model.cascade_below
        self._batch_size = batch_size
        self._second_batch_size = max(1, batch_size // _SECOND_BATCH_DIVISOR)
        self._known_count = known_count
        _use_one_torch_thread()
        self._threads = ThreadPoolExecutor(
            num_threads, "predict", initializer=_use_one_torch_thread
        )

    def predict(self, pixels: Uint8Array) -> Predictions:
        """Return the predictions for images uint8 (n, height, width), in their order.

        Raises InputError if the network computes NaN.
        """
        return self._compute(_to_predictions, self._infer(pixels))

    def _infer(self, pixels: Uint8Array) -> Posterior:
        """Return the posterior of images uint8 (n, h, w), after a second pass over the unsure."""
        first = self._run_pass(pixels, self._batch_size)
        unsure = self._compute(_find_unsure, first, self._cascade_below)
        if not len(unsure):
            return first
        shifted = shift_images(pixels[unsure.cpu().numpy()])
        second = self._run_pass(shifted, self._second_batch_size)
        return self._compute(self._merge_passes, first, unsure, second)

    def _run_pass(self, pixels: Uint8Array, batch_size: int) -> Posterior:
        starts = range(0, max(len(pixels), 1), batch_size)  # no images are one empty batch
        batches = [pixels[start : start + batch_size] for start in starts]
        posteriors = list(self._threads.map(self._infer_checked, batches, repeat(batch_size)))
        return self._compute(Posterior.concatenate, posteriors)

    @torch.inference_mode()
    def _infer_checked(self, pixels: Uint8Array, batch_size: int) -> Posterior:
        posterior = self._infer_batch(pixels, batch_size)
        values = posterior.sum_log_probs
        # One pass: a finite sum has no NaN among its terms. An infinite one may have none either.
        if not bool(torch.isfinite(values.sum())) and bool(torch.isnan(values).any()):
            raise InputError(
                "the model predicts NaN, which is not a probability: its weights, or the "
                "--pixel-scale of its training, are too large; give another model."
            )
        return posterior

    def _merge_passes(self, first: Posterior, unsure: Tensor, second: Posterior) -> Posterior:
        mean = average_passes(self._network, first.select(unsure), second, self._known_count)
        return first.replace(unsure, mean)

    def _compute(
        self, function: Callable[P, Computed], *args: P.args, **options: P.kwargs
    ) -> Computed:
        """Return the result of a function of tensors, computed in one of the threads."""
        return self._threads.submit(torch.inference_mode()(function), *args, **options).result()

    @abstractmethod
    def _infer_batch(self, pixels: Uint8Array, batch_size: int) -> Posterior:
        """Return the posterior of images uint8 (b, h, w), b at most `batch_size`; thread-safe."""


def _use_one_torch_thread() -> None:
    torch.set_num_threads(1)


def _find_unsure(posterior: Posterior, confidence: float) -> Tensor:
    """Return the rows, int64 (n,), whose most probable sum is less probable than a confidence."""
    return (posterior.sum_log_probs.amax(dim=1).exp() < confidence).nonzero().squeeze(1)


def _to_predictions(posterior: Posterior) -> Predictions:
    most_probable = posterior.sum_log_probs.max(dim=1)
    digits, digit_x, count_probs = posterior.digits, posterior.digit_x, posterior.count_probs
    readings = None
    if digits is not None and digit_x is not None and count_probs is not None:
        readings = DigitReadings(
            _to_numpy(digits, torch.int8),
            _to_numpy(digit_x, torch.int16),
            _to_numpy(count_probs, torch.float32),
        )
    return Predictions(
        _to_numpy(most_probable.indices, torch.int16),
        _to_numpy(most_probable.values.exp(), torch.float32),
        readings,
    )


def _to_numpy(tensor: Tensor, dtype: torch.dtype) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.to(dtype).cpu().numpy()
    return array
