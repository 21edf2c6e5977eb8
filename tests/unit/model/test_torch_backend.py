from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import make_model

from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.outputs import Posterior, Predictions
from digitsum.model.torch_backend import TorchPredictor

NUM_COLUMNS, MAX_DIGITS = 12, 5


@pytest.fixture(scope="module")
def predictor(block_model) -> TorchPredictor:
    return TorchPredictor(block_model, batch_size=16)


@pytest.fixture(scope="module")
def predictions(predictor, block_images) -> Predictions:
    return predictor.predict(block_images)


@pytest.fixture(scope="module")
def posterior(block_model, block_images) -> Posterior:
    """The network's own posterior, of all images at once."""
    network = block_model.network
    with torch.inference_mode():
        return network.posterior(network(torch.tensor(block_images).unsqueeze(1) / 255), None)


def test_predict_types_and_shapes(predictions):
    readings = predictions.readings
    assert readings.digits.shape == readings.digit_x.shape == (50, NUM_COLUMNS)
    assert readings.count_probs.shape == (50, MAX_DIGITS + 1)
    arrays = (predictions.sums, predictions.confidences, readings.digits, readings.digit_x)
    assert [a.dtype for a in arrays] == [np.int16, np.float32, np.int8, np.int16]
    assert readings.count_probs.dtype == np.float32
    # The images differ enough to test with.
    assert len(np.unique(predictions.sums)) > 5
    assert len(np.unique((readings.digits >= 0).sum(axis=1))) > 1
    assert ((predictions.confidences > 0) & (predictions.confidences <= 1 + 1e-6)).all()
    for places in readings.digit_x:
        x = places[places >= 0]
        assert (np.diff(x) > 0).all()
        assert set(x.tolist()) <= set(range(0, 48, 4))


@pytest.mark.parametrize("known_count", [None, 1, 2, 5, 7])
def test_predict_is_the_networks_posterior(block_model, posterior, block_images, known_count):
    predictor = TorchPredictor(block_model, batch_size=16, known_count=known_count)
    predictions = predictor.predict(block_images)
    expected = block_model.network.posterior(posterior.logits, known_count)
    np.testing.assert_array_equal(predictions.sums, expected.sum_log_probs.argmax(dim=1))
    np.testing.assert_array_equal(predictions.readings.digits, expected.digits)
    np.testing.assert_array_equal(predictions.readings.digit_x, expected.digit_x)
    np.testing.assert_allclose(
        predictions.readings.count_probs, expected.count_probs, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_column_probs(block_model, posterior, block_images, temperature):
    model = replace(block_model, temperature=temperature)
    probs = TorchPredictor(model, batch_size=16).column_probs(block_images)
    assert probs.shape == (50, NUM_COLUMNS, 11)
    assert probs.dtype == np.float32
    expected = (posterior.logits / temperature).softmax(dim=2)
    np.testing.assert_allclose(probs, expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("known_count", [None, 3])
def test_no_images(block_model, block_images, known_count):
    predictor = TorchPredictor(block_model, batch_size=16, known_count=known_count)
    predictions = predictor.predict(block_images[:0])
    assert predictions.sums.shape == predictions.confidences.shape == (0,)
    readings = predictions.readings
    assert readings.digits.shape == readings.digit_x.shape == (0, NUM_COLUMNS)
    assert readings.count_probs.shape == (0, (known_count or MAX_DIGITS) + 1)
    assert readings.digits.dtype == np.int8
    assert predictor.column_probs(block_images[:0]).shape == (0, NUM_COLUMNS, 11)


def test_explain(predictor, predictions, block_images):
    for image in range(6):
        explanation = predictor.explain(block_images[image])
        is_read = predictions.readings.digits[image] >= 0
        for name in ("digits", "digit_x"):
            expected = getattr(predictions.readings, name)[image][is_read]
            assert getattr(explanation, name) == tuple(expected.tolist())
        probs = predictor.column_probs(block_images[image : image + 1])[0]
        np.testing.assert_allclose(explanation.column_probs, probs, rtol=1e-4, atol=1e-7)


def test_network_without_columns(block_images):
    network = BaselineNetwork(BaselineConfig(height=16, width=48, num_digits=2))
    predictor = TorchPredictor(make_model(network), batch_size=16)
    assert predictor.predict(block_images).readings is None
    assert predictor.column_probs(block_images) is None
    assert predictor.explain(block_images[0]) is None
