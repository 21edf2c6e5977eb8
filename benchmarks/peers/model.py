"""The model that all peers run: in eager torch, as their users would, or in digitsum's back-end."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from digitsum.model import saved_model
from digitsum.model.predictor import make_predictor
from digitsum.model.registry import to_input

BATCH_SIZE = 64
HEIGHT, WIDTH = 40, 168

Predict = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.int16]]


def batch_size(backend: str) -> int:
    """Return how many images a peer gives to the model at once.

    Eager torch makes one pass of them; digitsum's back-end makes passes of 64, one on each thread.
    """
    return BATCH_SIZE if backend == "eager" else 4 * BATCH_SIZE


def load_model(model_uri: str, backend: str, num_threads: int) -> Predict:
    """Return a function from images uint8 (n, h, w) to sums int16 (n,)."""
    model = saved_model.load_model(model_uri)
    if backend != "eager":
        predictor = make_predictor(model, batch_size=BATCH_SIZE, num_threads=num_threads)
        return lambda pixels: predictor.predict(pixels).sums
    torch.set_num_threads(num_threads)
    network = model.network.eval()

    @torch.inference_mode()
    def predict(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
        logits = network(to_input(torch.tensor(pixels), model.pixel_scale)) / model.temperature
        return network.predicted_log_probs(logits, None).argmax(dim=1).numpy().astype(np.int16)

    return predict


def to_pixels(images: list[bytes]) -> npt.NDArray[np.uint8]:
    """Return images as uint8 (n, h, w)."""
    return np.frombuffer(b"".join(images), np.uint8).reshape(-1, HEIGHT, WIDTH)


def scored(image_ids: list[str], sums: npt.NDArray[np.int16]) -> dict[str, object]:
    """Return the columns of a scored batch, with the time."""
    return {
        "image_id": image_ids,
        "predicted_sum": sums,
        "finished_at": np.full(len(sums), time.time()),
    }
