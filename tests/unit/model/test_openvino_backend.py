import copy
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from factories import make_model

from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import save_model

openvino_backend = pytest.importorskip("digitsum.model.openvino_backend")


@pytest.mark.parametrize("known_count", [None, 4])
def test_packaged_model_as_by_torch(packaged, compose_images, known_count):
    pixels = compose_images(2000).pixels
    by_torch, by_openvino = (
        make_predictor(packaged, backend=backend, known_count=known_count).predict(pixels)
        for backend in ("torch", "openvino")
    )
    # One image of 10,000 may have another sum: of 2,000, none.
    np.testing.assert_array_equal(by_openvino.sums, by_torch.sums)
    np.testing.assert_allclose(by_openvino.confidences, by_torch.confidences, atol=0.01)
    readings, expected = by_openvino.readings, by_torch.readings
    np.testing.assert_allclose(readings.count_probs, expected.count_probs, atol=0.01)
    assert (readings.digits == expected.digits).all(axis=1).mean() > 0.998
    assert (readings.digit_x == expected.digit_x).all(axis=1).mean() > 0.998


@pytest.mark.parametrize(
    ("digits", "width", "changes"),
    [
        (1, 40, {}),
        (2, 100, {}),
        (8, 336, {}),
        (4, 168, {"temperature": 4.0}),
        (4, 168, {"pixel_scale": 1 / 400}),
    ],
)
@pytest.mark.parametrize("known_count", [None, 2])
def test_other_widths_and_scales(packaged, compose_images, digits, width, changes, known_count):
    by_torch, by_openvino = (
        make_predictor(
            replace(packaged, **changes), backend=backend, batch_size=16, known_count=known_count
        )
        for backend in ("torch", "openvino")
    )
    for pixels in (compose_images(40, digits, width).pixels, compose_images(20).pixels):
        expected, found = by_torch.predict(pixels), by_openvino.predict(pixels)
        np.testing.assert_array_equal(found.sums, expected.sums)
        np.testing.assert_allclose(found.confidences, expected.confidences, atol=0.01)
        np.testing.assert_array_equal(found.readings.digits, expected.readings.digits)


@pytest.mark.parametrize("num_images", [0, 1, 15, 16, 17])
def test_partial_batches(block_model, block_images, assert_close, num_images):
    predictor = make_predictor(block_model, backend="openvino", batch_size=16)
    whole, some = predictor.predict(block_images), predictor.predict(block_images[:num_images])
    assert_close(some, whole.without(range(num_images, 50)))


def padded_images(images: np.ndarray, num_widths: int) -> list[np.ndarray]:
    return [np.pad(images, ((0, 0), (0, 0), (0, 8 * more))) for more in range(num_widths)]


def test_compiled_graphs_are_kept(block_model, block_images, monkeypatch):
    make_request = Mock(wraps=openvino_backend._Request)
    monkeypatch.setattr(openvino_backend, "_Request", make_request)
    model = replace(block_model, cascade_below=1.0)
    predictor = make_predictor(model, backend="openvino", batch_size=8)
    images = padded_images(block_images[:8], 4)
    for pixels in images * 2:
        predictor.predict(pixels)
    assert make_request.call_count == 2 * len(images)  # for the first and the second pass


def test_two_predictors_are_independent(block_model, block_images, make_counter):
    pixels = block_images[:16]
    predictor = make_predictor(block_model, backend="openvino", batch_size=8)
    before = predictor.predict(pixels)
    confidences, counts = before.confidences.copy(), before.readings.count_probs.copy()
    other = make_predictor(make_model(make_counter()), backend="openvino", batch_size=8)
    other.predict(pixels[::-1])
    predictor.predict(pixels[::-1].copy())
    np.testing.assert_array_equal(before.confidences, confidences)
    np.testing.assert_array_equal(before.readings.count_probs, counts)
    np.testing.assert_array_equal(predictor.predict(pixels).sums, before.sums)


def test_changed_network_is_another(block_model, block_images):
    model = replace(block_model, network=copy.deepcopy(block_model.network))
    old = make_predictor(model, backend="openvino", batch_size=16)
    before = old.predict(block_images)
    with torch.no_grad():
        head = model.network.head  # every digit d becomes d + 1, and 9 becomes 0
        head.weight[1:], head.bias[1:] = head.weight[1:].roll(1, 0), head.bias[1:].roll(1, 0)
    expected = make_predictor(model, backend="torch", batch_size=16).predict(block_images)
    new = make_predictor(model, backend="openvino", batch_size=16).predict(block_images)
    np.testing.assert_array_equal(new.sums, expected.sums)
    assert (new.sums != before.sums).any()
    np.testing.assert_array_equal(old.predict(block_images).sums, before.sums)


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_predictors_made_by_many_threads(block_model, block_images, assert_close, backend):
    def predict(_):
        return make_predictor(block_model, backend=backend, batch_size=8).predict(block_images)

    expected = predict(0)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(predict, range(8)):
            assert_close(found, expected)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_predictor_used_by_many_threads(
    block_model, block_images, assert_close, monkeypatch, backend, num_threads
):
    monkeypatch.setattr(openvino_backend, "_MAX_COMPILED", 2)  # fewer than widths
    images = padded_images(block_images[:20], 3)
    expected = [
        make_predictor(block_model, backend=backend, batch_size=8).predict(each) for each in images
    ]
    predictor = make_predictor(block_model, backend=backend, batch_size=8, num_threads=num_threads)
    with ThreadPoolExecutor(3) as threads:
        for number, found in enumerate(threads.map(predictor.predict, images * 3)):
            assert_close(found, expected[number % 3])


FRESH_PROCESS = """
import json, socket, sys

def refuse(*arguments):
    raise AssertionError(f"a connection was opened: {arguments}")

socket.socket.connect = socket.getaddrinfo = refuse

import numpy as np, psutil
from digitsum.model.saved_model import load_model
from digitsum.model.predictor import make_predictor

grown = {}
pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 48), np.uint8)
for backend in ("openvino", "torch"):
    for made in range(1, 13):
        make_predictor(load_model(sys.argv[1]), backend=backend, batch_size=16).predict(pixels)
        if made == 4:
            before = psutil.Process().memory_info().rss
    grown[backend] = psutil.Process().memory_info().rss - before

import openvino.tools.ovc.telemetry_utils as telemetry

telemetry_modules = [str(sys.modules["openvino_telemetry"]), telemetry.tm.__name__]
print(json.dumps({"grown": grown, "telemetry": telemetry_modules}))
"""


@pytest.fixture(scope="module")
def fresh_process(make_counter, tmp_path_factory) -> dict:
    """Make a dozen predictors by each back-end in a process of its own, which may not connect."""
    home, model = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("model")
    network = make_counter(column_channels=768, num_mixers=2)  # 4 MB of weights
    save_model(str(model), "counter", network, metrics={}, card="", pixel_scale=1 / 255)
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(model)],
        env=environment | {"HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {"home": home, **json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_many_predictors_take_no_more_memory(fresh_process, backend):
    # Torch keeps all it ever traced: more than 4 MB of each of these 8.
    assert fresh_process["grown"][backend] < 20e6


def test_openvino_reports_to_nobody(fresh_process):
    assert fresh_process["telemetry"] == ["None", "openvino.tools.ovc.telemetry_stub"]
    home: Path = fresh_process["home"]
    assert list(home.iterdir()) == []
