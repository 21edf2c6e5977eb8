from dataclasses import replace

import numpy as np
import pytest
import torch

from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.explain import explain
from digitsum.model.outputs import Predictions
from digitsum.model.saved_model import SavedModel
from digitsum.model.torch_backend import TorchPredictor

CONFIG = CounterConfig(
    height=16,
    width=48,
    num_digits=2,
    max_digits=5,
    stem_channels=4,
    body_channels=6,
    row_channels=8,
    column_channels=10,
    num_mixers=1,
)
NUM_IMAGES, NUM_COLUMNS = 40, 12
# Images of large bright and dark blocks, so that they differ in what the network makes of them.
BLOCKS = np.random.default_rng(0).integers(2, size=(NUM_IMAGES, 4, 12), dtype=np.uint8) * 255
PIXELS = np.kron(BLOCKS, np.ones((1, 4, 4), np.uint8))


@pytest.fixture(scope="module")
def network() -> CounterNetwork:
    torch.manual_seed(0)
    network = CounterNetwork(CONFIG).eval()
    images = torch.tensor(PIXELS).unsqueeze(1) / 255
    with torch.no_grad():  # make the readings differ from image to image, and clearly
        for _ in range(20):
            network.train()(images)
        network.eval().head.weight *= 2200
        network.head.bias -= network(images).mean(dim=(0, 1))
        network.head.bias[0] += 8
    return network


@pytest.fixture(scope="module")
def model(network) -> SavedModel:
    return SavedModel("counter", network, 1 / 255, 1.0, "models/counter", "0" * 64)


@pytest.fixture(scope="module")
def predictions(model) -> Predictions:
    return TorchPredictor(model, batch_size=64).predict(PIXELS)


def test_readings_come_in_small_types_and_in_their_shapes(predictions):
    readings = predictions.readings
    assert readings.digits.shape == readings.digit_x.shape == (NUM_IMAGES, NUM_COLUMNS)
    assert readings.count_probs.shape == (NUM_IMAGES, CONFIG.max_digits + 1)
    assert readings.digits.dtype == np.int8
    assert readings.digit_x.dtype == np.int16
    assert readings.count_probs.dtype == np.float32
    assert predictions.sums.dtype == np.int16
    assert predictions.confidences.dtype == np.float32
    # The images are worth testing with.
    assert len(np.unique(predictions.sums)) > 5
    assert len(np.unique((readings.digits >= 0).sum(axis=1))) > 1


def test_readings_add_up_to_the_sums_and_stand_in_the_image(predictions):
    readings = predictions.readings
    is_read = readings.digits >= 0
    np.testing.assert_array_equal(
        np.where(is_read, readings.digits, 0).sum(axis=1), predictions.sums
    )
    np.testing.assert_array_equal(is_read, readings.digit_x >= 0)
    assert (readings.digits[~is_read] == -1).all()
    assert readings.digits.max() <= 9
    for places, some in zip(readings.digit_x, is_read, strict=True):
        x = places[some]
        assert (np.diff(x) > 0).all()
        assert (x < 48).all()
        assert (x % 4 == 0).all()
    assert (readings.count_probs.sum(axis=1) <= 1 + 1e-5).all()
    assert (predictions.confidences > 0).all()
    assert (predictions.confidences <= 1 + 1e-6).all()


def test_readings_are_those_of_the_network_itself(network, predictions):
    with torch.inference_mode():
        posterior = network.posterior(network(torch.tensor(PIXELS).unsqueeze(1) / 255), None)
    np.testing.assert_array_equal(predictions.sums, posterior.sum_log_probs.argmax(dim=1))
    np.testing.assert_array_equal(predictions.readings.digits, posterior.digits)
    np.testing.assert_array_equal(predictions.readings.digit_x, posterior.digit_x)
    np.testing.assert_allclose(
        predictions.readings.count_probs, posterior.count_probs, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("num_digits", [None, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 39, 40])
def test_the_batch_size_makes_no_difference(model, batch_size, num_digits):
    whole = TorchPredictor(model, batch_size=64, num_digits=num_digits).predict(PIXELS)
    parts = TorchPredictor(model, batch_size=batch_size, num_digits=num_digits).predict(PIXELS)
    np.testing.assert_array_equal(parts.sums, whole.sums)
    np.testing.assert_allclose(parts.confidences, whole.confidences, rtol=1e-3)
    np.testing.assert_array_equal(parts.readings.digits, whole.readings.digits)
    np.testing.assert_array_equal(parts.readings.digit_x, whole.readings.digit_x)
    np.testing.assert_allclose(
        parts.readings.count_probs, whole.readings.count_probs, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("num_digits", [1, 2, 5, 7])
def test_so_many_digits_as_are_known_to_be_there_are_read(model, num_digits):
    known = TorchPredictor(model, batch_size=16, num_digits=num_digits).predict(PIXELS)
    read, blank = known.readings.digits[:, :num_digits], known.readings.digits[:, num_digits:]
    assert (read >= 0).all()
    assert (blank == -1).all()
    np.testing.assert_array_equal(read.sum(axis=1), known.sums)
    expected = np.zeros((NUM_IMAGES, num_digits + 1))
    expected[:, num_digits] = 1
    np.testing.assert_allclose(known.readings.count_probs, expected, atol=1e-6)


def test_a_higher_temperature_makes_less_sure_but_orders_what_columns_emit_alike(model):
    predictors = [
        TorchPredictor(replace(model, temperature=temperature), batch_size=16)
        for temperature in (0.5, 1.0, 4.0)
    ]
    confidences = [predictor.predict(PIXELS).confidences for predictor in predictors]
    assert confidences[0].mean() > confidences[1].mean() > confidences[2].mean()
    probs = [predictor.column_probs(PIXELS) for predictor in predictors]
    assert probs[0].max(axis=2).mean() > probs[1].max(axis=2).mean() > probs[2].max(axis=2).mean()
    logs = [np.log(part.astype(np.float64)) for part in probs]
    # Of two symbols, the one that is more probable at one temperature is so at another.
    order = np.argsort(logs[1], axis=2)
    for log_probs in (logs[0], logs[2]):
        assert (np.diff(np.take_along_axis(log_probs, order, axis=2), axis=2) >= -1e-4).all()
    np.testing.assert_allclose(
        (logs[2] - logs[2][:, :, :1]) * 4, logs[1] - logs[1][:, :, :1], rtol=1e-3, atol=1e-3
    )


def test_what_columns_emit_are_probabilities_of_11_symbols(model, network):
    probs = TorchPredictor(model, batch_size=16).column_probs(PIXELS[:3])
    assert probs.shape == (3, NUM_COLUMNS, 11)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=2), 1, rtol=1e-5)
    with torch.inference_mode():
        expected = network(torch.tensor(PIXELS[:3]).unsqueeze(1) / 255).softmax(dim=2)
    np.testing.assert_allclose(probs, expected, rtol=1e-3, atol=1e-6)


def test_images_of_another_width_are_read_too(model):
    predictor = TorchPredictor(model, batch_size=16)
    wide = np.tile(PIXELS[:2], (1, 1, 2))
    assert predictor.predict(wide).readings.digits.shape == (2, 2 * NUM_COLUMNS)
    assert predictor.column_probs(wide).shape == (2, 2 * NUM_COLUMNS, 11)
    assert predictor.predict(PIXELS[:2, :, :16]).readings.digits.shape == (2, 4)


@pytest.mark.parametrize("num_digits", [None, 3])
def test_no_images_give_no_readings(model, num_digits):
    predictor = TorchPredictor(model, batch_size=16, num_digits=num_digits)
    predictions = predictor.predict(PIXELS[:0])
    assert predictions.sums.shape == predictions.confidences.shape == (0,)
    assert predictions.readings.digits.shape == (0, NUM_COLUMNS)
    assert predictions.readings.digit_x.shape == (0, NUM_COLUMNS)
    assert predictions.readings.count_probs.shape == (0, (num_digits or CONFIG.max_digits) + 1)
    assert predictions.readings.digits.dtype == np.int8
    assert predictor.column_probs(PIXELS[:0]).shape == (0, NUM_COLUMNS, 11)


def test_an_image_is_explained_by_what_was_read_on_it(model, predictions):
    predictor = TorchPredictor(model, batch_size=16)
    for n in range(6):
        explanation = explain(predictor, PIXELS[n])
        digits = predictions.readings.digits[n]
        assert explanation.digits == tuple(digits[digits >= 0].tolist())
        assert explanation.digit_x == tuple(predictions.readings.digit_x[n][digits >= 0].tolist())
        np.testing.assert_allclose(
            explanation.column_probs,
            predictor.column_probs(PIXELS[n : n + 1])[0],
            rtol=1e-4,
            atol=1e-7,
        )


def test_a_network_without_columns_has_no_readings_and_no_explanation():
    network = BaselineNetwork(BaselineConfig(height=16, width=48, num_digits=2)).eval()
    model = SavedModel("baseline", network, 1 / 255, 1.0, "models/baseline", "0" * 64)
    predictor = TorchPredictor(model, batch_size=16)
    assert predictor.predict(PIXELS).readings is None
    assert predictor.column_probs(PIXELS) is None
    assert explain(predictor, PIXELS[0]) is None


def test_predicting_leaves_no_gradients_and_the_pixels_as_they_were(model, network):
    pixels = PIXELS.copy()
    predictor = TorchPredictor(model, batch_size=16)
    predictor.predict(pixels)
    predictor.column_probs(pixels)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert all(parameter.grad is None for parameter in network.parameters())
