"""Speed of the torch back-end, compared with its device's limits: `python benchmarks/gpu.py`.

Images/s of the whole predictor, of the network alone with the images already on the device, and of
copying images there; and TFLOP/s of the network, compared with a product of large matrices in the
same precision. The predictor cannot be faster than the slower of network and copying. Runs on a GPU
if there is one; `--device cpu` runs it anywhere.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from digitsum.archive.reader import BATCH_ROWS
from digitsum.model.registry import to_input
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor

ROUNDS = 5
MATRIX = 4096


def gpu(model_uri: str, device: str, batch_size: int, num_batches: int) -> None:
    """Measure, and print medians."""
    # The images are noise, and most would get a second pass.
    model = replace(load_model(model_uri), cascade_below=0.0)
    rng = np.random.default_rng(0)
    shape = model.shape
    size = (batch_size * num_batches, shape.height, shape.width)
    pixels = rng.integers(256, size=size, dtype=np.uint8)
    predictor = TorchPredictor(model, batch_size=batch_size, device=device)
    network = model.network.to(device).to(memory_format=torch.channels_last)
    resident = torch.from_numpy(pixels).to(device).split(batch_size)
    staged = torch.from_numpy(pixels)
    if torch.device(device).type == "cuda":
        staged = staged.pin_memory()

    @torch.inference_mode()
    def forward() -> None:
        for batch in resident:
            network.posterior(network(to_input(batch, model.pixel_scale)).float(), None)

    one = torch.ones(MATRIX, MATRIX, device=device)
    # As many rows at a time as scoring gives.
    blocks = [pixels[i : i + BATCH_ROWS] for i in range(0, len(pixels), BATCH_ROWS)]
    whole = len(pixels) / _seconds(lambda: [predictor.predict(b) for b in blocks], device)
    alone = len(pixels) / _seconds(forward, device)
    copying = len(pixels) / _seconds(lambda: staged.to(device, non_blocking=True).sum(), device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(to_input(resident[0][:1], model.pixel_scale))
    flop = counter.get_total_flops()
    roof = 2 * MATRIX**3 / _seconds(lambda: one @ one, device)
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
    print(
        f"{name}, batches of {batch_size:,}: {whole:,.0f} images/s in total, {alone:,.0f} by the "
        f"network alone, {copying:,.0f} copied; {whole / min(alone, copying):.2f} of the slower. "
        f"{flop / 1e6:.1f} MFLOP an image: {alone * flop / 1e12:.2f} TFLOP/s of the "
        f"{roof / 1e12:.2f} of a product of matrices"
    )


def _seconds(work: Callable[[], object], device: str) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        work()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])  # the first one warms up


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=packaged_model())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--batches", type=int, default=16)
    given = parser.parse_args()
    gpu(given.model, given.device, given.batch_size, given.batches)
