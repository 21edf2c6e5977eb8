"""The torch back-end: CPUs of every kind, and CUDA."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch

from digitsum.archive.images import Uint8Array
from digitsum.model.outputs import Posterior
from digitsum.model.predictor import BatchPredictor
from digitsum.model.registry import to_input
from digitsum.model.saved_model import SavedModel


class TorchPredictor(BatchPredictor):
    """Runs a model's network by torch, on a GPU or on a number of CPU threads."""

    backend = "torch"

    def __init__(
        self,
        model: SavedModel,
        *,
        batch_size: int,
        device: str = "cpu",
        num_threads: int = 1,
        num_digits: int | None = None,
    ) -> None:
        on_cpu = device == "cpu"
        super().__init__(model, batch_size, num_threads if on_cpu else 1, num_digits)
        if not on_cpu:
            # Else GPUs round factors to 10 bits, and predict other sums than CPUs.
            torch.backends.cudnn.allow_tf32 = False
        self._device = torch.device(device)
        # A copy: another thread may be computing by the model's own.
        network = copy.deepcopy(model.network).to(self._device).eval()
        # Convolutions in this layout were measured 1.2 to 1.5 times as fast on CPUs.
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._pixel_scale = model.pixel_scale
        self._temperature = model.temperature

    @torch.inference_mode()
    def column_probs(self, pixels: Uint8Array) -> npt.NDArray[np.float32] | None:
        """Return what each column emits, float32 (n, columns, 11), blank first.

        Of images that are looked at twice, at the look by which their digits are read. None where
        the network has no columns.
        """
        logits = self._posterior(pixels).logits
        return logits.softmax(dim=2).cpu().numpy() if logits.ndim == 3 else None

    @torch.inference_mode()
    def sum_probs(self, pixels: Uint8Array) -> npt.NDArray[np.float32]:
        """Return the probability of each sum from 0 up, float32 (n, sums)."""
        return self._posterior(pixels).sum_log_probs.exp().float().cpu().numpy()

    def _batch_posterior(self, pixels: Uint8Array, batch_size: int) -> Posterior:
        return self._network.posterior(self._logits(pixels), self._num_digits)

    def _logits(self, pixels: Uint8Array) -> torch.Tensor:
        """Return what the network says of images uint8 (b, h, w), calibrated."""
        # Pixels that come straight from Parquet are read-only, which torch does not know; copying
        # a batch takes a thousandth of what the network does.
        writable = pixels if pixels.flags.writeable else pixels.copy()
        images = torch.from_numpy(writable)
        if self._device.type == "cuda":
            images = images.pin_memory()  # then this thread need not wait for the copy
        images = images.to(self._device, non_blocking=True)
        logits: torch.Tensor = self._network(to_input(images, self._pixel_scale))
        return logits.float().div_(self._temperature)
