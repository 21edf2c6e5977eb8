"""Images that a model is not sure of are looked at twice; of all others nothing changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.archive.synth import Composition, compose
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.cascade import DOWN, RIGHT, mean_of_looks, moved
from digitsum.model.counter import COLUMN_STRIDE
from digitsum.model.outputs import Posterior, Predictions
from digitsum.model.predictor import make_predictor
from digitsum.model.registry import to_input
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor
from digitsum.options import ImageShape

NEVER, ALWAYS = 0.0, float("inf")
SURE = 0.9


@pytest.fixture(scope="module")
def model() -> SavedModel:
    return load_model(packaged_model())


@pytest.fixture(scope="module")
def images() -> Composition:
    glyphs = load_glyphs(EMBEDDED, "val")
    return compose(glyphs, np.random.default_rng(0), 2000, 4, ImageShape(40, 168))


def predicted(model: SavedModel, pixels: np.ndarray, below: float, **options) -> Predictions:
    options = {"backend": "torch"} | options
    return make_predictor(replace(model, cascade_below=below), **options).predict(pixels)


@pytest.fixture(scope="module")
def once(model, images) -> Predictions:
    return predicted(model, images.pixels, NEVER)


@pytest.fixture(scope="module")
def twice(model, images) -> Predictions:
    return predicted(model, images.pixels, ALWAYS)


@given(arrays(np.uint8, st.tuples(st.integers(0, 3), st.integers(2, 9), st.integers(3, 9))))
def test_an_image_is_moved_right_and_down_and_blank_comes_in(pixels):
    images = moved(pixels)
    assert images.shape == pixels.shape
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[:, DOWN:, RIGHT:], pixels[:, :-DOWN, :-RIGHT])
    assert not images[:, :DOWN].any()
    assert not images[:, :, :RIGHT].any()


def test_ink_in_the_last_row_and_the_last_two_columns_is_lost_to_the_second_look():
    image = np.ones((1, 10, 12), np.uint8)
    assert moved(image).sum() == (10 - DOWN) * (12 - RIGHT)


def test_it_is_moved_by_other_than_whole_strides():
    # By a whole one, a network sees the same again, but for the borders.
    assert RIGHT % COLUMN_STRIDE == COLUMN_STRIDE // 2


def test_only_images_that_it_is_not_sure_of_are_looked_at_again(model, images, once, twice):
    found = predicted(model, images.pixels, SURE)
    unsure = once.confidences < SURE
    assert 0.02 < unsure.mean() < 0.2
    for of in (lambda p: p.sums, lambda p: p.confidences, lambda p: p.readings.count_probs):
        np.testing.assert_array_equal(of(found)[~unsure], of(once)[~unsure])
        np.testing.assert_allclose(of(found)[unsure], of(twice)[unsure], atol=1e-5)
    for name in ("digits", "digit_x"):
        expected = np.where(
            unsure[:, None], getattr(twice.readings, name), getattr(once.readings, name)
        )
        np.testing.assert_array_equal(getattr(found.readings, name), expected)
    assert (found.sums != once.sums).any()


def test_what_is_said_then_is_the_mean_of_two_opinions(model, images, twice):
    pixels = images.pixels[:200]
    with torch.inference_mode():
        sums, counts = zip(*(_probs(model, seen) for seen in (pixels, moved(pixels))), strict=True)
    mean = (sums[0] + sums[1]) / 2
    np.testing.assert_array_equal(twice.sums[:200], mean.argmax(axis=1))
    np.testing.assert_allclose(twice.confidences[:200], mean.max(axis=1), atol=1e-4)
    expected = (counts[0] + counts[1]) / 2
    np.testing.assert_allclose(twice.readings.count_probs[:200], expected, atol=1e-4)


def _probs(model: SavedModel, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    network = model.network
    images = to_input(torch.tensor(pixels), model.pixel_scale)
    logits = network(images) / model.temperature
    return (
        network.predicted_log_probs(logits, None).exp().numpy(),
        network.count_probs(logits, None).numpy(),
    )


def test_so_more_images_are_right(model, images, once, twice):
    right, right_twice, right_of_few = (
        np.count_nonzero(found.sums == images.digit_sums)
        for found in (once, twice, predicted(model, images.pixels, model.cascade_below))
    )
    assert right < right_of_few <= right_twice


def test_the_digits_add_up_and_stand_where_they_were_put(images, twice):
    readings = twice.readings
    is_read = readings.digits >= 0
    sums = np.where(is_read, readings.digits, 0).sum(axis=1)
    np.testing.assert_array_equal(sums, twice.sums)
    np.testing.assert_array_equal(is_read, readings.digit_x >= 0)
    is_right = (readings.digits[:, :4] == images.digits).all(axis=1) & (is_read.sum(axis=1) == 4)
    assert is_right.mean() > 0.97
    off = readings.digit_x[is_right, :4] - (images.left_x[is_right] + 13.5)
    assert abs(np.median(off)) <= 1
    assert np.quantile(abs(off), 0.95) <= 5


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), num_digits=st.sampled_from([None, 3]))
def test_of_any_two_looks_the_digits_add_up_to_the_means_sum(model, seed, num_digits):
    """Also where the mean's most probable sum is that of neither look."""
    network, generator = model.network, torch.Generator().manual_seed(seed)
    first, second = (
        network.posterior(4 * torch.randn(8, 12, 11, generator=generator), num_digits)
        for _ in range(2)
    )
    mean = mean_of_looks(network, first, second, num_digits)
    sums = mean.sum_log_probs.argmax(dim=1)
    np.testing.assert_array_equal(mean.digits.clamp(min=0).sum(dim=1), sums)
    np.testing.assert_allclose(mean.sum_log_probs.exp().sum(dim=1), 1, atol=1e-4)
    of_each = [of.sum_log_probs.gather(1, sums[:, None]).squeeze(1) for of in (first, second)]
    chosen = torch.where((of_each[1] > of_each[0])[:, None, None], second.logits, first.logits)
    digits, places = network.read_digits(chosen, sums, num_digits)
    np.testing.assert_array_equal(mean.digits, digits)
    is_moved = (of_each[1] > of_each[0])[:, None] & (places >= 0)
    np.testing.assert_array_equal(
        mean.digit_x, torch.where(is_moved, (places - RIGHT).clamp(min=0), places)
    )


@pytest.mark.parametrize("num_digits", [None, 4])
def test_both_back_ends_say_the_same_of_both_looks(model, images, num_digits):
    pytest.importorskip("openvino")
    pixels = images.pixels[:300]
    torchs, openvinos = (
        predicted(model, pixels, ALWAYS, backend=backend, num_digits=num_digits)
        for backend in ("torch", "openvino")
    )
    np.testing.assert_array_equal(openvinos.sums, torchs.sums)
    np.testing.assert_allclose(openvinos.confidences, torchs.confidences, atol=1e-3)
    np.testing.assert_array_equal(openvinos.readings.digits, torchs.readings.digits)
    np.testing.assert_array_equal(openvinos.readings.digit_x, torchs.readings.digit_x)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_neither_batches_nor_threads_make_a_difference(model, images, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    pixels = images.pixels[:150]
    expected = predicted(model, pixels, SURE, backend=backend)
    for batch_size in (1, 3, 64, 200):
        found = predicted(model, pixels, SURE, backend=backend, batch_size=batch_size)
        np.testing.assert_array_equal(found.sums, expected.sums)
        np.testing.assert_allclose(found.confidences, expected.confidences, atol=1e-4)
    found = predicted(model, pixels, SURE, backend=backend, num_threads=3)
    np.testing.assert_array_equal(found.confidences, expected.confidences)
    np.testing.assert_array_equal(found.readings.digit_x, expected.readings.digit_x)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_an_image_alone_is_predicted_as_among_others(model, images, once, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    unsure = np.flatnonzero(once.confidences < SURE)[:5]
    among = predicted(model, images.pixels, SURE, backend=backend)
    for number in unsure:
        alone = predicted(model, images.pixels[number : number + 1], SURE, backend=backend)
        assert alone.sums[0] == among.sums[number]
        np.testing.assert_allclose(alone.confidences[0], among.confidences[number], atol=1e-4)


def test_the_columns_that_are_shown_are_those_of_the_look_whose_digits_are_read(
    model, images, once
):
    pixels = images.pixels[once.confidences < SURE]
    by_looking = TorchPredictor(replace(model, cascade_below=ALWAYS), batch_size=4)
    sums = by_looking.predict(pixels).sums
    rows = np.arange(len(pixels))
    with torch.inference_mode():
        first, second = (
            model.network(to_input(torch.tensor(seen), model.pixel_scale)) / model.temperature
            for seen in (pixels, moved(pixels))
        )
        of_first, of_second = (
            model.network.predicted_log_probs(logits, None).numpy()[rows, sums]
            for logits in (first, second)
        )
    by_second = of_second > of_first
    assert 0 < by_second.sum() < len(rows)
    expected = np.where(by_second[:, None, None], second.softmax(2), first.softmax(2))
    np.testing.assert_allclose(by_looking.column_probs(pixels), expected, atol=1e-4)


def test_a_network_that_reads_no_digits_may_look_twice_too(images):
    torch.manual_seed(0)
    network = BaselineNetwork(BaselineConfig()).eval()
    model = SavedModel("baseline", network, 1 / 255, 1.0, "some", "0" * 64)
    pixels = images.pixels[:20]
    found = predicted(model, pixels, ALWAYS)
    with torch.inference_mode():
        probs = [
            network(to_input(torch.tensor(seen), 1 / 255)).softmax(dim=1)
            for seen in (pixels, moved(pixels))
        ]
    np.testing.assert_array_equal(found.sums, (probs[0] + probs[1]).argmax(dim=1))
    assert found.readings is None


def test_rows_of_a_posterior_are_taken_and_put_back():
    rng = torch.Generator().manual_seed(0)
    whole, other = (
        Posterior(torch.rand(6, 3, 2, generator=rng), torch.rand(6, 5, generator=rng))
        for _ in range(2)
    )
    rows = torch.tensor([4, 1])
    found = whole.with_rows(rows, other.of_rows(rows))
    for name in ("logits", "sum_log_probs"):
        expected = getattr(whole, name).clone()
        expected[rows] = getattr(other, name)[rows]
        assert torch.equal(getattr(found, name), expected)
    assert found.digits is None
    halves = [whole.of_rows(torch.arange(0, 2)), whole.of_rows(torch.arange(2, 6))]
    assert torch.equal(Posterior.joined(halves).logits, whole.logits)
