"""Every back-end says what torch says in fp32 on a CPU: the same sums, and nearly the same odds."""

import copy
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.archive.synth import compose
from digitsum.errors import InputError
from digitsum.model import predictor as predictors
from digitsum.model.counter import CounterNetwork
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor
from digitsum.options import ImageShape

openvino_predictor = pytest.importorskip("digitsum.model.openvino_backend")

NUM_IMAGES = 2000
SMALL = dict.fromkeys(("stem_channels", "body_channels", "row_channels", "column_channels"), 4)


@pytest.fixture(scope="module")
def model() -> SavedModel:
    return load_model(packaged_model())


def composed(num_images: int, num_digits: int = 4, width: int = 168) -> np.ndarray:
    glyphs, rng = load_glyphs(EMBEDDED, "test"), np.random.default_rng(0)
    return compose(glyphs, rng, num_images, num_digits, ImageShape(40, width)).pixels


@pytest.mark.parametrize("num_digits", [None, 4])
def test_openvino_says_of_the_packaged_model_what_torch_says(model, num_digits):
    pixels = composed(NUM_IMAGES)
    torchs, openvinos = (
        make_predictor(model, backend=backend, num_digits=num_digits).predict(pixels)
        for backend in ("torch", "openvino")
    )
    # One image of 10,000 may have another sum: of 2,000, none.
    np.testing.assert_array_equal(openvinos.sums, torchs.sums)
    np.testing.assert_allclose(openvinos.confidences, torchs.confidences, atol=0.01)
    np.testing.assert_allclose(
        openvinos.readings.count_probs, torchs.readings.count_probs, atol=0.01
    )
    same = (openvinos.readings.digits == torchs.readings.digits).all(axis=1)
    assert same.mean() > 0.998
    same = (openvinos.readings.digit_x == torchs.readings.digit_x).all(axis=1)
    assert same.mean() > 0.998


@pytest.mark.parametrize("num_digits", [None, 2])
@pytest.mark.parametrize(("digits", "width"), [(1, 40), (2, 100), (8, 336)])
def test_so_it_is_of_other_widths_one_after_the_other(model, digits, width, num_digits):
    options = {"batch_size": 16, "num_digits": num_digits}
    by_torch = make_predictor(model, backend="torch", **options)
    by_openvino = make_predictor(model, backend="openvino", **options)
    for pixels in (composed(40, digits, width), composed(20)):
        expected, found = by_torch.predict(pixels), by_openvino.predict(pixels)
        np.testing.assert_array_equal(found.sums, expected.sums)
        np.testing.assert_allclose(found.confidences, expected.confidences, atol=0.01)
        np.testing.assert_array_equal(found.readings.digits, expected.readings.digits)


@pytest.mark.parametrize("num_images", [0, 1, 15, 16, 17])
def test_batches_that_are_not_full_are_those_images_alone(model, num_images):
    pixels = composed(20)
    whole = make_predictor(model, backend="openvino", batch_size=16).predict(pixels)
    some = make_predictor(model, backend="openvino", batch_size=16).predict(pixels[:num_images])
    np.testing.assert_array_equal(some.sums, whole.sums[:num_images])
    np.testing.assert_array_equal(some.confidences, whole.confidences[:num_images])
    np.testing.assert_array_equal(some.readings.digits, whole.readings.digits[:num_images])
    assert len(some.readings.count_probs) == num_images


def test_what_is_compiled_for_four_widths_and_both_looks_is_kept(model, monkeypatch):
    compiled, made = openvino_predictor._Compiled, []

    def counted(network):
        made.append(network)
        return compiled(network)

    monkeypatch.setattr(openvino_predictor, "_Compiled", counted)
    always = replace(model, cascade_below=1.0)
    predictor = make_predictor(always, backend="openvino", batch_size=8)
    images = [np.pad(composed(8), ((0, 0), (0, 0), (0, 8 * more))) for more in range(4)]
    for pixels in images * 2:
        predictor.predict(pixels)
    assert len(made) == 2 * len(images)


def test_scale_and_temperature_are_the_models(model):
    pixels = composed(30)
    for changed in (replace(model, temperature=4.0), replace(model, pixel_scale=1 / 400)):
        expected = make_predictor(changed, backend="torch").predict(pixels)
        found = make_predictor(changed, backend="openvino").predict(pixels)
        np.testing.assert_array_equal(found.sums, expected.sums)
        np.testing.assert_allclose(found.confidences, expected.confidences, atol=1e-3)


def test_two_predictors_keep_their_networks_and_predictions_apart(model):
    config = replace(model.network.config, num_mixers=1, **SMALL)
    fresh = SavedModel("counter", CounterNetwork(config).eval(), 1 / 255, 1.0, "fresh", "0" * 64)
    pixels = composed(16)
    first = make_predictor(model, backend="openvino", batch_size=8)
    before = first.predict(pixels)
    confidences, counts = before.confidences.copy(), before.readings.count_probs.copy()
    make_predictor(fresh, backend="openvino", batch_size=8).predict(pixels[::-1])
    first.predict(pixels[::-1].copy())
    np.testing.assert_array_equal(before.confidences, confidences)
    np.testing.assert_array_equal(before.readings.count_probs, counts)
    np.testing.assert_array_equal(first.predict(pixels).sums, before.sums)


MAKES_PREDICTORS = """
import sys
import numpy as np, psutil
from digitsum.model.saved_model import load_model
from digitsum.model.predictor import make_predictor

uri, backend = sys.argv[1:]
pixels = np.random.default_rng(0).integers(0, 256, (16, 40, 168), np.uint8)
for made in range(1, 29):
    make_predictor(load_model(uri), backend=backend, batch_size=16).predict(pixels)
    if made in (4, 28):
        print(psutil.Process().memory_info().rss)
"""


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_predictors_that_are_made_again_and_again_take_no_more_memory(model, backend):
    # In a process of its own: in that of the tests, other tests' threads take and give memory too.
    command = [sys.executable, "-c", MAKES_PREDICTORS, model.uri, backend]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    after_4, after_28 = (int(line) for line in printed.split())
    # Torch keeps some 5 MB of every network that it has traced for ever: 120 MB of 24.
    assert after_28 - after_4 < 20e6


def test_a_network_that_was_changed_since_is_another(model):
    pixels = composed(16)
    changed = replace(model, network=copy.deepcopy(model.network))
    old = make_predictor(changed, backend="openvino", batch_size=16)
    before = old.predict(pixels)
    with torch.no_grad():
        changed.network.head.weight.neg_()
    expected = make_predictor(changed, backend="torch", batch_size=16).predict(pixels)
    new = make_predictor(changed, backend="openvino", batch_size=16).predict(pixels)
    np.testing.assert_array_equal(new.sums, expected.sums)
    assert (new.sums != before.sums).any()
    np.testing.assert_array_equal(old.predict(pixels).sums, before.sums)


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_predictors_may_be_made_and_used_by_many_threads_at_once(model, backend):
    pixels = composed(24)
    expected = make_predictor(model, backend=backend, batch_size=8).predict(pixels)

    def predicted(number):
        return make_predictor(model, backend=backend, batch_size=8).predict(pixels)

    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(predicted, range(8)):
            np.testing.assert_array_equal(found.sums, expected.sums)
            np.testing.assert_array_equal(found.confidences, expected.confidences)
            np.testing.assert_array_equal(found.readings.digits, expected.readings.digits)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_one_predictor_may_be_used_by_many_threads_at_once(model, backend, num_threads):
    """Of images of several widths, more than there are compiled networks kept."""
    images = [np.pad(composed(20), ((0, 0), (0, 0), (0, 8 * more))) for more in range(6)]
    predictor = make_predictor(model, backend=backend, batch_size=8, num_threads=num_threads)
    expected = [
        make_predictor(model, backend=backend, batch_size=8).predict(each) for each in images
    ]
    with ThreadPoolExecutor(3) as threads:
        for number, found in enumerate(threads.map(predictor.predict, images * 3)):
            np.testing.assert_array_equal(found.sums, expected[number % 6].sums)
            np.testing.assert_array_equal(found.confidences, expected[number % 6].confidences)


@pytest.mark.parametrize("num_digits", [None, 4])
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_the_number_of_threads_makes_no_difference_to_a_single_bit(model, backend, num_digits):
    pixels = composed(100)
    options = {"backend": backend, "batch_size": 16, "num_digits": num_digits}
    expected = make_predictor(model, **options).predict(pixels)
    for num_threads in (2, 3):
        found = make_predictor(model, num_threads=num_threads, **options).predict(pixels)
        np.testing.assert_array_equal(found.sums, expected.sums)
        np.testing.assert_array_equal(found.confidences, expected.confidences)
        for name in ("digits", "digit_x", "count_probs"):
            np.testing.assert_array_equal(
                getattr(found.readings, name), getattr(expected.readings, name)
            )


def test_where_openvino_is_or_is_not(model, monkeypatch):
    assert isinstance(make_predictor(model), openvino_predictor.OpenVinoPredictor)
    assert isinstance(make_predictor(model, backend="torch"), TorchPredictor)
    with pytest.raises(InputError, match=r"--backend openvino: .* not on GPUs"):
        make_predictor(model, backend="openvino", device="cuda")
    monkeypatch.setattr(predictors.platform, "machine", lambda: "aarch64")
    assert isinstance(make_predictor(model), TorchPredictor)
    with pytest.raises(InputError, match="pip install openvino"):
        make_predictor(model, backend="openvino")
    monkeypatch.setattr(predictors.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(predictors, "find_spec", lambda name: None)
    assert isinstance(make_predictor(model), TorchPredictor)


def test_it_reports_to_nobody(tmp_path):
    code = """
import socket

from digitsum.model.saved_model import load_model, packaged_model
from digitsum.model.predictor import make_predictor

def refuse(*arguments):
    raise AssertionError(f"a connection was opened: {arguments}")

socket.socket.connect = socket.getaddrinfo = refuse
make_predictor(load_model(packaged_model()), backend="openvino")

import sys
import openvino.tools.ovc.telemetry_utils as telemetry

assert sys.modules["openvino_telemetry"] is None
assert telemetry.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("CI", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
