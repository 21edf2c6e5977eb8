"""The OpenVINO back-end, for x86 CPUs: twice to three times as fast there as torch.

The whole way from bytes to the distribution of the sum is one compiled graph; only the digits are
read by torch. Its sizes are fixed when it is compiled, so there is one for each shape of images,
and a batch that is not full is filled up with blank ones.
"""

from __future__ import annotations

import copy
import hashlib
import sys
import threading
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from digitsum.archive.images import Uint8Array
from digitsum.model.network import SumNetwork
from digitsum.model.outputs import Posterior
from digitsum.model.predictor import BatchPredictor
from digitsum.model.registry import to_input
from digitsum.model.saved_model import SavedModel

# OpenVINO, once imported, reports that to its makers, under a number that it makes up for the user
# and keeps in their home; where it finds no module for that, it goes on without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402

# Tracing keeps what it does in variables that all threads of the process share.
_TRACING = threading.Lock()
# A night has one model; an archive one shape, or a few, each in batches of two sizes.
_GRAPHS_KEPT = 32
_COMPILED_KEPT = 8
"""A compiled network takes some 50 MB."""


class OpenVinoPredictor(BatchPredictor):
    """Runs a model's network by OpenVINO, on a number of threads."""

    backend = "openvino"

    def __init__(
        self,
        model: SavedModel,
        *,
        batch_size: int,
        num_threads: int = 1,
        num_digits: int | None = None,
    ) -> None:
        super().__init__(model, batch_size, num_threads, num_digits)
        self._graph = _Graph(model, is_counted=num_digits is not None).eval()
        self._content = self._graph.content()
        self._options = {
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": num_threads,
            # Else actors of one machine would all be bound to its first cores.
            "ENABLE_CPU_PINNING": False,
            # Else it takes bf16 wherever the chip has it; see predictor.py.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        # By the shape of a batch; those that were used last, the very last at the end.
        self._compiled: dict[tuple[int, ...], _Compiled] = {}
        self._compiling = threading.Lock()
        # Before it is timed, and in most archives of the shape that they have.
        sizes = [batch_size, self._batch_size_again] if model.cascade_below else [batch_size]
        for size in sizes:
            self._request((size, model.shape.height, model.shape.width))

    def _batch_posterior(self, pixels: Uint8Array, batch_size: int) -> Posterior:
        num_images, height, width = pixels.shape
        if num_images < batch_size:
            filled = np.zeros((batch_size, height, width), np.uint8)
            filled[:num_images] = pixels
            pixels = filled
        found = self._request((batch_size, height, width)).infer([pixels], share_inputs=True)
        logits, *distributions = (
            torch.from_numpy(found[output][:num_images]) for output in range(len(found))
        )
        if not distributions:
            return self._network.posterior(logits, self._num_digits)
        sum_log_probs = distributions[0]
        count_probs = distributions[1] if len(distributions) > 1 else None
        return self._network.posterior_of(logits, sum_log_probs, count_probs, self._num_digits)

    def _request(self, shape: tuple[int, int, int]) -> Any:
        """Return this thread's request for a batch of images of a shape, (b, h, w)."""
        with self._compiling:
            compiled = self._compiled.pop(shape, None)
            if compiled is None:
                with _TRACING:
                    model = _converted(_Conversion(self._content, shape, self._graph))
                network = openvino.Core().compile_model(model, "CPU", self._options)
                compiled = _Compiled(network)
            self._compiled[shape] = compiled
            if len(self._compiled) > _COMPILED_KEPT:
                del self._compiled[next(iter(self._compiled))]
        return compiled.request()


class _Compiled:
    """A compiled network, and each thread's request to it."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._own = threading.local()

    def request(self) -> Any:
        """Return the calling thread's request."""
        if not hasattr(self._own, "request"):
            self._own.request = self._network.create_infer_request()
        return self._own.request


@dataclass(frozen=True)
class _Conversion:
    """What is converted, known by the graph's content: equal ones have equal results."""

    content: str
    shape: tuple[int, ...]
    """Of images uint8 (b, h, w)."""
    graph: nn.Module = field(compare=False)


# Torch never gives back what it traced, 5 MB of the packaged network, so a process that scores
# again and again must not trace the same again and again. (pytorch/pytorch#35600)
@lru_cache(maxsize=_GRAPHS_KEPT)
def _converted(wanted: _Conversion) -> openvino.Model:
    """Return a graph as OpenVINO takes it; one thread at a time."""
    example = torch.zeros(wanted.shape, dtype=torch.uint8)
    with torch.inference_mode(mode=False), torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of each size that it takes for fixed, which they are.
        warnings.simplefilter("ignore")
        # Frozen first: constants are computed once, and it converts in a third of the time.
        traced = torch.jit.trace(wanted.graph, example, check_trace=False)  # type: ignore[no-untyped-call]
        frozen = torch.jit.freeze(traced)
        model = openvino.convert_model(frozen, example_input=example)
    model.reshape(list(wanted.shape))
    return model


class _Graph(nn.Module):
    """What is compiled: images uint8 (b, h, w) to logits, and to what follows from them.

    Where the digits are counted before, that takes float64, which torch computes from the logits.
    """

    def __init__(self, model: SavedModel, *, is_counted: bool) -> None:
        super().__init__()
        self._network: SumNetwork = copy.deepcopy(model.network)
        self._pixel_scale, self._temperature = model.pixel_scale, model.temperature
        self._is_counted = is_counted

    def forward(self, pixels_bhw: Tensor) -> tuple[Tensor, ...]:
        logits = self._network(to_input(pixels_bhw, self._pixel_scale)) / self._temperature
        if self._is_counted:
            return (logits,)
        sum_log_probs = self._network.predicted_log_probs(logits, None)
        count_probs = self._network.count_probs(logits, None)
        if count_probs is None:
            return logits, sum_log_probs
        return logits, sum_log_probs, count_probs

    def content(self) -> str:
        """Return a digest of all that bears on what it computes."""
        network = self._network
        what = type(network), network.config, self._pixel_scale, self._temperature
        digest = hashlib.sha256(repr((*what, self._is_counted)).encode())
        for name, values in network.state_dict().items():
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()
