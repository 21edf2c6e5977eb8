"""The OpenVINO back-end, for x86 CPUs: two to three times as fast there as torch.

One compiled graph leads from bytes to the distribution of the sum; torch only reads the digits.
A graph has fixed sizes, so each shape of images has its own, and blank images fill up a batch.
"""

from __future__ import annotations

import copy
import hashlib
import sys
import threading
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from digitsum.archive.images import Uint8Array
from digitsum.model.batch_predictor import BatchPredictor
from digitsum.model.network import SumNetwork
from digitsum.model.outputs import Posterior
from digitsum.model.registry import to_input
from digitsum.model.saved_model import SavedModel, weights_to_bytes

# OpenVINO reports each import to its makers, under a number for the user that it keeps in their
# home; without a module to do so, it goes on without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402

# Tracing keeps its state in variables that all threads of the process share.
_TRACING = threading.Lock()
# A night has one model and an archive a few shapes, each in batches of two sizes.
_MAX_GRAPHS = 32
_MAX_COMPILED = 8  # each takes about 50 MB


class OpenVinoPredictor(BatchPredictor):
    """Runs a model's network by OpenVINO, on a number of threads."""

    backend = "openvino"

    def __init__(
        self,
        model: SavedModel,
        *,
        batch_size: int,
        num_threads: int = 1,
        known_count: int | None = None,
    ) -> None:
        super().__init__(model, batch_size, num_threads, known_count)
        self._graph = _Graph(model, has_known_count=known_count is not None).eval()
        self._options = {
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": num_threads,
            # Pinning would bind all actors of one machine to its first cores.
            "ENABLE_CPU_PINNING": False,
            # By default it takes bf16 if the chip has it; see batch_predictor.py.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        # By the shape of a batch, the least recently used first.
        self._requests: dict[tuple[int, ...], _Request] = {}
        self._compiling = threading.Lock()
        # Compiled before anybody measures speed, in the shape of most archives.
        sizes = [batch_size, self._second_batch_size] if model.cascade_below else [batch_size]
        for size in sizes:
            self._request((size, model.shape.height, model.shape.width))

    def _infer_batch(self, pixels: Uint8Array, batch_size: int) -> Posterior:
        num_images, height, width = pixels.shape
        if num_images < batch_size:
            pixels = np.pad(pixels, ((0, batch_size - num_images), (0, 0), (0, 0)))
        outputs = self._request((batch_size, height, width)).infer([pixels], share_inputs=True)
        logits, *distributions = (
            torch.from_numpy(outputs[number][:num_images]) for number in range(len(outputs))
        )
        if not distributions:
            return self._network.posterior(logits, self._known_count)
        count_probs = distributions[1] if len(distributions) > 1 else None
        return self._network.posterior_from_probs(
            logits, distributions[0], count_probs, self._known_count
        )

    def _request(self, shape: tuple[int, int, int]) -> _Request:
        """Return the request for a batch of images of a shape, (b, h, w)."""
        with self._compiling:
            request = self._requests.pop(shape, None)
            if request is None:
                with _TRACING:
                    model = _convert(self._graph, shape)
                request = _Request(openvino.Core().compile_model(model, "CPU", self._options))
            self._requests[shape] = request
            if len(self._requests) > _MAX_COMPILED:
                del self._requests[next(iter(self._requests))]
        return request


class _Request(threading.local):
    """A request to a compiled graph: each thread that uses it makes its own."""

    def __init__(self, compiled_model: Any) -> None:
        self.infer = compiled_model.create_infer_request().infer


# Torch never frees what it traced, 5 MB of the packaged network, so a process that scores many
# times must trace each graph once. (pytorch/pytorch#35600)
@lru_cache(maxsize=_MAX_GRAPHS)
def _convert(graph: _Graph, shape: tuple[int, int, int]) -> openvino.Model:
    """Return a graph as OpenVINO takes it, for images (b, h, w); the caller holds _TRACING."""
    example = torch.zeros(shape, dtype=torch.uint8)
    with torch.inference_mode(mode=False), torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of each size that it takes for fixed; all of them are.
        warnings.simplefilter("ignore")
        # Freezing computes constants once, and brings conversion down to a third of the time.
        traced = torch.jit.trace(graph, example, check_trace=False)  # type: ignore[no-untyped-call]
        frozen = torch.jit.freeze(traced)
        model = openvino.convert_model(frozen, example_input=example)
    model.reshape(list(shape))
    return model


class _Graph(nn.Module):
    """The graph from images uint8 (b, h, w) to logits, and to the distributions of sum and count.

    With a known count it ends at the logits: the rest takes float64, which torch computes. Graphs
    that compute the same are equal.
    """

    def __init__(self, model: SavedModel, *, has_known_count: bool) -> None:
        super().__init__()
        self._network: SumNetwork = copy.deepcopy(model.network)
        self._pixel_scale, self._temperature = model.pixel_scale, model.temperature
        self._has_known_count = has_known_count
        options = self._network.config, self._pixel_scale, self._temperature, has_known_count
        content = repr(options).encode() + weights_to_bytes(self._network)
        self._digest = hashlib.sha256(content).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Graph) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def forward(self, pixels_bhw: Tensor) -> tuple[Tensor, ...]:
        logits = self._network(to_input(pixels_bhw, self._pixel_scale)) / self._temperature
        if self._has_known_count:
            return (logits,)
        sum_log_probs = self._network.predicted_log_probs(logits, None)
        count_probs = self._network.count_probs(logits, None)
        if count_probs is None:
            return logits, sum_log_probs
        return logits, sum_log_probs, count_probs
