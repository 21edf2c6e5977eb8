from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from digitsum.archive.synth import Composition
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.cascade import SHIFT_DOWN, SHIFT_RIGHT, average_passes, shift_images
from digitsum.model.counter import COLUMN_STRIDE
from digitsum.model.outputs import Predictions
from digitsum.model.predictor import make_predictor
from digitsum.model.registry import to_input
from digitsum.model.saved_model import SavedModel
from digitsum.model.torch_backend import TorchPredictor

NEVER, ALWAYS = 0.0, float("inf")
SURE = 0.9


@pytest.fixture(scope="module")
def images(compose_images) -> Composition:
    return compose_images(1200, split="val")


def predict(model: SavedModel, pixels: np.ndarray, below: float, **options) -> Predictions:
    if options.setdefault("backend", "torch") == "openvino":
        pytest.importorskip("openvino")
    return make_predictor(replace(model, cascade_below=below), **options).predict(pixels)


@pytest.fixture(scope="module")
def one_pass(packaged, images) -> Predictions:
    return predict(packaged, images.pixels, NEVER)


@pytest.fixture(scope="module")
def two_passes(packaged, images) -> Predictions:
    return predict(packaged, images.pixels, ALWAYS)


def calibrated_logits(model: SavedModel, pixels: np.ndarray) -> torch.Tensor:
    images = to_input(torch.tensor(pixels), model.pixel_scale)
    with torch.inference_mode():
        return model.network(images) / model.temperature


@given(arrays(np.uint8, st.tuples(st.integers(0, 3), st.integers(2, 9), st.integers(3, 9))))
def test_shift_images(pixels):
    images = shift_images(pixels)
    assert images.shape == pixels.shape
    assert images.dtype == np.uint8
    kept = pixels[:, :-SHIFT_DOWN, :-SHIFT_RIGHT]  # the rest is lost
    np.testing.assert_array_equal(images[:, SHIFT_DOWN:, SHIFT_RIGHT:], kept)
    assert not images[:, :SHIFT_DOWN].any()
    assert not images[:, :, :SHIFT_RIGHT].any()
    # After a shift by a whole stride, the network would see the same again.
    assert SHIFT_RIGHT % COLUMN_STRIDE == COLUMN_STRIDE // 2


def test_only_unsure_images_take_a_second_pass(packaged, images, one_pass, two_passes):
    predictions = predict(packaged, images.pixels, SURE)
    unsure = one_pass.confidences < SURE
    assert 0.02 < unsure.mean() < 0.2
    for part in (lambda p: p.sums, lambda p: p.confidences, lambda p: p.readings.count_probs):
        np.testing.assert_array_equal(part(predictions)[~unsure], part(one_pass)[~unsure])
        np.testing.assert_allclose(part(predictions)[unsure], part(two_passes)[unsure], atol=1e-5)
    for name in ("digits", "digit_x"):
        once, twice = (getattr(of.readings, name) for of in (one_pass, two_passes))
        expected = np.where(unsure[:, None], twice, once)
        np.testing.assert_array_equal(getattr(predictions.readings, name), expected)
    assert (predictions.sums != one_pass.sums).any()


def test_second_passes_correct_sums(packaged, images, one_pass, two_passes):
    cascade = predict(packaged, images.pixels, packaged.cascade_below)
    none, some, all_images = (
        np.count_nonzero(predictions.sums == images.digit_sums)
        for predictions in (one_pass, cascade, two_passes)
    )
    assert none < some <= all_images


def test_two_passes_read_digits_in_place(images, two_passes):
    readings = two_passes.readings
    is_read = readings.digits >= 0
    sums = np.where(is_read, readings.digits, 0).sum(axis=1)
    np.testing.assert_array_equal(sums, two_passes.sums)
    np.testing.assert_array_equal(is_read, readings.digit_x >= 0)
    is_right = (readings.digits[:, :4] == images.digits).all(axis=1) & (is_read.sum(axis=1) == 4)
    assert is_right.mean() > 0.97
    off = readings.digit_x[is_right, :4] - (images.left_x[is_right] + 13.5)
    assert abs(np.median(off)) <= 1
    assert np.quantile(abs(off), 0.95) <= 5


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), known_count=st.sampled_from([None, 3]))
def test_average_passes_of_any_two(packaged, seed, known_count):
    """The mean's most probable sum may be that of neither pass."""
    network, generator = packaged.network, torch.Generator().manual_seed(seed)
    first, second = (
        network.posterior(4 * torch.randn(8, 12, 11, generator=generator), known_count)
        for _ in range(2)
    )
    mean = average_passes(network, first, second, known_count)
    sums = mean.sum_log_probs.argmax(dim=1)
    np.testing.assert_array_equal(mean.digits.clamp(min=0).sum(dim=1), sums)
    expected = (first.sum_log_probs.exp() + second.sum_log_probs.exp()) / 2
    np.testing.assert_allclose(mean.sum_log_probs.exp(), expected, atol=1e-6)
    expected = (first.count_probs + second.count_probs) / 2
    np.testing.assert_allclose(mean.count_probs, expected, atol=1e-6)
    log_probs = [each.sum_log_probs.gather(1, sums[:, None]) for each in (first, second)]
    is_second = log_probs[1] > log_probs[0]
    chosen = torch.where(is_second[:, :, None], second.logits, first.logits)
    digits, places = network.read_digits(chosen, sums, known_count)
    np.testing.assert_array_equal(mean.digits, digits)
    shifted_back = (places - SHIFT_RIGHT).clamp(min=0)
    expected = torch.where(is_second & (places >= 0), shifted_back, places)
    np.testing.assert_array_equal(mean.digit_x, expected)


@pytest.mark.parametrize("known_count", [None, 4])
def test_back_ends_agree_on_two_passes(packaged, images, assert_close, known_count):
    by_torch, by_openvino = (
        predict(packaged, images.pixels[:300], ALWAYS, backend=backend, known_count=known_count)
        for backend in ("torch", "openvino")
    )
    assert_close(by_openvino, by_torch, atol=1e-3)


@pytest.mark.parametrize("known_count", [None, 2])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_batches_and_threads_change_nothing(
    block_model, block_images, assert_close, backend, known_count
):
    below, options = 0.25, {"backend": backend, "known_count": known_count}
    expected = predict(block_model, block_images, below, **options)
    is_unsure = predict(block_model, block_images, NEVER, **options).confidences < below
    assert is_unsure.any()
    assert known_count or 0.1 < is_unsure.mean() < 0.9
    for batch_size in (1, 3, 49, 200):
        found = predict(block_model, block_images, below, batch_size=batch_size, **options)
        assert_close(found, expected, atol=1e-4)
    assert_close(predict(block_model, block_images, below, num_threads=3, **options), expected)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_image_alone_and_among_others(packaged, images, one_pass, assert_close, backend):
    unsure = np.flatnonzero(one_pass.confidences < SURE)[:5]
    together = predict(packaged, images.pixels[unsure], SURE, backend=backend)
    for row, number in enumerate(unsure):
        alone = predict(packaged, images.pixels[number : number + 1], SURE, backend=backend)
        assert_close(alone, together.without(set(range(len(unsure))) - {row}), atol=1e-4)


def test_column_probs_are_of_the_pass_that_reads(packaged, images, one_pass):
    pixels = images.pixels[one_pass.confidences < SURE]
    predictor = TorchPredictor(replace(packaged, cascade_below=ALWAYS), batch_size=4)
    sums, rows = predictor.predict(pixels).sums, np.arange(len(pixels))
    first, second = (calibrated_logits(packaged, seen) for seen in (pixels, shift_images(pixels)))
    log_probs = [
        packaged.network.predicted_log_probs(logits, None).numpy()[rows, sums]
        for logits in (first, second)
    ]
    is_second = log_probs[1] > log_probs[0]
    assert 0 < is_second.sum() < len(rows)
    expected = np.where(is_second[:, None, None], second.softmax(2), first.softmax(2))
    np.testing.assert_allclose(predictor.column_probs(pixels), expected, atol=1e-4)


def test_two_passes_without_digits(images):
    torch.manual_seed(0)
    model, pixels = make_model(BaselineNetwork(BaselineConfig())), images.pixels[:20]
    predictions = predict(model, pixels, ALWAYS)
    probs = [calibrated_logits(model, seen).softmax(1) for seen in (pixels, shift_images(pixels))]
    np.testing.assert_array_equal(predictions.sums, (probs[0] + probs[1]).argmax(dim=1))
    assert predictions.readings is None
