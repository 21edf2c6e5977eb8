"""The torch back-end: CPUs of every kind, and CUDA."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch

from digitsum.archive.images import Uint8Array
from digitsum.model.batch_predictor import BatchPredictor
from digitsum.model.outputs import Explanation, Posterior
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
        known_count: int | None = None,
    ) -> None:
        on_cpu = device == "cpu"
        super().__init__(model, batch_size, num_threads if on_cpu else 1, known_count)
        if not on_cpu:
            # By default GPUs round factors to 10 bits, and then predict other sums than CPUs.
            torch.backends.cudnn.allow_tf32 = False
        self._device = torch.device(device)
        # A copy, because another thread may be using the model's own.
        network = copy.deepcopy(model.network).to(self._device).eval()
        # Convolutions in this layout were measured 1.2 to 1.5 times as fast on CPUs.
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._pixel_scale = model.pixel_scale
        self._temperature = model.temperature

    @torch.inference_mode()
    def column_probs(self, pixels: Uint8Array) -> npt.NDArray[np.float32] | None:
        """Return the probability of each symbol in each column, float32 (n, columns, 11).

        Blank comes first. Of two passes, the one whose digits are read; None without columns.
        """
        logits = self._infer(pixels).logits
        return logits.softmax(dim=2).cpu().numpy() if logits.ndim == 3 else None

    @torch.inference_mode()
    def sum_probs(self, pixels: Uint8Array) -> npt.NDArray[np.float32]:
        """Return the probability of each sum from 0 up, float32 (n, sums)."""
        return self._infer(pixels).sum_log_probs.exp().float().cpu().numpy()

    def explain(self, pixels: Uint8Array) -> Explanation | None:
        """Explain the digits read on one image, uint8 (h, w); None if the network reads none."""
        column_probs = self.column_probs(pixels[None])
        readings = self.predict(pixels[None]).readings
        if column_probs is None or readings is None:
            return None
        is_read = readings.digits[0] >= 0
        return Explanation(
            column_probs[0],
            tuple(map(int, readings.digits[0][is_read])),
            tuple(map(int, readings.digit_x[0][is_read])),
        )

    def _infer_batch(self, pixels: Uint8Array, batch_size: int) -> Posterior:
        # Torch warns of read-only pixels, as Parquet gives them; a copy takes a thousandth of what
        # the network takes.
        images = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        if self._device.type == "cuda":
            images = images.pin_memory()  # lets the copy run without this thread
        images = images.to(self._device, non_blocking=True)
        logits = self._network(to_input(images, self._pixel_scale)).float()
        return self._network.posterior(logits.div_(self._temperature), self._known_count)
