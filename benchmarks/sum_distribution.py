"""The cost of the sum distribution and of reading digits, next to the network's forward pass.

`python benchmarks/sum_distribution.py` times the packaged model on one thread, in batches of 64
images of the test glyphs, and prints medians of interleaved rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.archive.synth import compose
from digitsum.model.registry import to_input
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.model.sum_distribution import log_probs_by_count, sum_probs

_BATCH = 64
_ROUNDS = 50


@torch.inference_mode()
def sum_distribution() -> None:
    """Print the milliseconds of each part and its share of the forward pass."""
    torch.set_num_threads(1)
    model = load_model(packaged_model())
    network = model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    glyphs = load_glyphs(EMBEDDED, "test")
    images = compose(glyphs, np.random.default_rng(0), _BATCH, 4, model.shape)
    x = to_input(torch.from_numpy(images.pixels), model.pixel_scale)
    logits = network(x)
    symbols = logits.log_softmax(dim=2)
    parts: dict[str, Callable[[], object]] = {
        "forward pass": lambda: network(x),
        "sums, any number of digits": lambda: sum_probs(symbols, 72),
        "sums, 4 digits": lambda: log_probs_by_count(symbols, 4),
        "sums, counts, digits, places": lambda: network.posterior(logits, None),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(_ROUNDS):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            times[name].append(1e3 * (time.perf_counter() - started))
    forward = statistics.median(times["forward pass"])
    for name, milliseconds in times.items():
        median = statistics.median(milliseconds)
        print(f"{name:30} {median:7.2f} ms {median / forward:7.1%}")


if __name__ == "__main__":
    sum_distribution()
