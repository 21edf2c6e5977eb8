"""Small networks, the packaged model, and forgeries of it."""

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.archive.synth import Composition, compose
from digitsum.model.counter import CounterNetwork
from digitsum.model.outputs import Predictions
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.options import ImageShape

SMALL_SIZES = {
    "height": 16,
    "width": 48,
    "num_digits": 2,
    "max_digits": 5,
    "stem_channels": 4,
    "body_channels": 6,
    "row_channels": 8,
    "column_channels": 10,
    "num_mixers": 1,
}


@pytest.fixture(scope="session")
def make_counter() -> Callable[..., CounterNetwork]:
    """Make an untrained small counter in evaluation mode."""
    return partial(factories.make_counter, **SMALL_SIZES)


@pytest.fixture(scope="session")
def block_images() -> np.ndarray:
    """Give images uint8 (50, 16, 48) of large bright and dark blocks, no two of them alike."""
    blocks = np.random.default_rng(0).integers(2, size=(50, 4, 12), dtype=np.uint8) * 255
    return np.kron(blocks, np.ones((1, 4, 4), np.uint8))


@pytest.fixture(scope="session")
def block_model(make_counter, block_images) -> SavedModel:
    """Give a small counter that reads block images differently, and clearly."""
    network, images = make_counter(), torch.tensor(block_images).unsqueeze(1) / 255
    with torch.no_grad():
        for _ in range(20):
            network.train()(images)
        network.eval().head.weight *= 2200
        network.head.bias -= network(images).mean(dim=(0, 1))
        network.head.bias[0] += 8
    return factories.make_model(network)


@pytest.fixture(scope="session")
def packaged() -> SavedModel:
    """Load the packaged model."""
    return load_model(packaged_model())


@pytest.fixture(scope="session")
def compose_images() -> Callable[..., Composition]:
    """Compose images of the test glyphs, always the same ones."""

    def compose_images(
        num_images: int, num_digits: int = 4, width: int = 168, split: str = "test"
    ) -> Composition:
        glyphs, rng = load_glyphs(EMBEDDED, split), np.random.default_rng(0)
        return compose(glyphs, rng, num_images, num_digits, ImageShape(40, width))

    return compose_images


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """Compare predictions with readings: sums and digits must be the same, probabilities near."""

    def assert_close(found: Predictions, expected: Predictions, atol: float = 0.0) -> None:
        np.testing.assert_array_equal(found.sums, expected.sums)
        np.testing.assert_allclose(found.confidences, expected.confidences, rtol=0, atol=atol)
        ours, theirs = found.readings, expected.readings
        np.testing.assert_array_equal(ours.digits, theirs.digits)
        np.testing.assert_array_equal(ours.digit_x, theirs.digit_x)
        np.testing.assert_allclose(ours.count_probs, theirs.count_probs, rtol=0, atol=atol)

    return assert_close


@pytest.fixture
def forge(tmp_path) -> Callable[..., Path]:
    """Copy the packaged model with other weights, tensors, sizes or fields, and a valid digest."""

    def forge(
        weights: bytes = b"",
        *,
        tensors: dict[str, torch.Tensor] | None = None,
        changed_sizes: dict[str, Any] | None = None,
        without: str = "",
        **fields: Any,
    ) -> Path:
        model = tmp_path / "model"
        shutil.copytree(packaged_model(), model, dirs_exist_ok=True)
        config = json.loads((model / "config.json").read_text())
        config["sizes"] |= changed_sizes or {}
        config |= fields
        config = {name: config[name] for name in config.keys() - {"digest", without}}
        if tensors:
            weights = save(load_file(model / "model.safetensors") | tensors)
        if weights:
            (model / "model.safetensors").write_bytes(weights)
        content = json.dumps(config, sort_keys=True, separators=(",", ":")).encode() + b"\0"
        digest = hashlib.sha256(content + (model / "model.safetensors").read_bytes()).hexdigest()
        (model / "config.json").write_text(json.dumps({**config, "digest": digest}))
        return model

    return forge


class Bomb:
    """A pickle that makes a directory as it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._marker),)


@pytest.fixture(params=["pickle", "zip", "tar"])
def bomb(request, tmp_path) -> Iterator[tuple[bytes, Callable[[], bool]]]:
    """Give a pickle bomb, bare and in each of torch's containers, and what tells if it went off.

    At the end the bomb is set off, to prove that it is one.
    """
    marker, file = tmp_path / "exploded", io.BytesIO()
    if request.param == "pickle":
        pickle.dump({"fc2.bias": Bomb(marker)}, file, protocol=2)
    else:
        is_zip = request.param == "zip"
        torch.save({"fc2.bias": Bomb(marker)}, file, _use_new_zipfile_serialization=is_zip)
    yield file.getvalue(), marker.exists
    if request.param == "pickle":
        pickle.loads(file.getvalue())
    else:
        torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert marker.exists()
