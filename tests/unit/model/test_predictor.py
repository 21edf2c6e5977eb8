import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import SavedModel

CONFIG = BaselineConfig(height=16, width=24, num_digits=2)
# Images of large bright and dark blocks, so that they differ in what the network makes of them.
BLOCKS = np.random.default_rng(0).integers(2, size=(50, 4, 6), dtype=np.uint8) * 255
PIXELS = np.kron(BLOCKS, np.ones((1, 4, 4), np.uint8))


@pytest.fixture(params=["torch", "openvino"])
def predictor_of(request):
    """Give what makes a predictor of a model, by each back-end in turn."""
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return partial(make_predictor, backend=request.param)


@pytest.fixture
def model() -> SavedModel:
    torch.manual_seed(0)
    network = BaselineNetwork(CONFIG).eval()
    with torch.no_grad():  # make the sums differ from image to image, and clearly
        network.fc2.weight *= 40
        network.fc2.bias -= network(torch.tensor(PIXELS).unsqueeze(1) / 255).mean(dim=0)
    return SavedModel("baseline", network, 1 / 255, 1.0, "model", "0" * 64)


@pytest.fixture
def always_warned() -> Iterator[None]:
    """Make torch warn every time, not only the first in this process, and warnings errors."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(before)


def reference(model: SavedModel) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and confidences by a plain forward pass over all images at once."""
    network = copy.deepcopy(model.network).eval()
    images = torch.tensor(PIXELS).unsqueeze(1).float() * model.pixel_scale
    with torch.inference_mode():
        probabilities = torch.softmax(network(images) / model.temperature, dim=1)
    return probabilities.argmax(dim=1).numpy(), probabilities.amax(dim=1).numpy()


def test_predictions_are_those_of_a_plain_forward_pass(predictor_of, model):
    sums, confidences = reference(model)
    assert len(set(sums)) > 3
    predictions = predictor_of(model, batch_size=64).predict(PIXELS)
    np.testing.assert_array_equal(predictions.sums, sums)
    np.testing.assert_allclose(predictions.confidences, confidences, rtol=1e-4)
    assert predictions.sums.dtype == np.int16
    assert predictions.confidences.dtype == np.float32


@pytest.mark.parametrize("batch_size", [1, 7, 49, 50, 51])
def test_the_batch_size_makes_no_difference(predictor_of, model, batch_size):
    sums, confidences = reference(model)
    predictions = predictor_of(model, batch_size=batch_size).predict(PIXELS)
    np.testing.assert_array_equal(predictions.sums, sums)
    np.testing.assert_allclose(predictions.confidences, confidences, rtol=1e-4)


def test_a_network_in_training_mode_predicts_without_dropout(predictor_of, model):
    sums, _ = reference(model)
    model.network.train()
    np.testing.assert_array_equal(predictor_of(model, batch_size=64).predict(PIXELS).sums, sums)


def test_pixels_are_scaled_as_the_bundle_says(predictor_of, model):
    other = replace(model, pixel_scale=1 / 16)
    sums, confidences = reference(other)
    assert not np.allclose(confidences, reference(model)[1])
    predictions = predictor_of(other, batch_size=64).predict(PIXELS)
    np.testing.assert_array_equal(predictions.sums, sums)
    np.testing.assert_allclose(predictions.confidences, confidences, rtol=1e-4)


def test_a_temperature_changes_the_confidences_as_the_bundle_says_and_not_the_sums(
    predictor_of, model
):
    other = replace(model, temperature=2.5)
    sums, confidences = reference(other)
    assert (confidences < reference(model)[1]).all()
    predictions = predictor_of(other, batch_size=64).predict(PIXELS)
    np.testing.assert_array_equal(predictions.sums, sums)
    np.testing.assert_array_equal(predictions.sums, reference(model)[0])
    np.testing.assert_allclose(predictions.confidences, confidences, rtol=1e-4)


@pytest.mark.usefixtures("always_warned")
def test_read_only_pixels_as_parquet_gives_them_cause_no_warning(predictor_of, model):
    pixels = np.frombuffer(PIXELS.tobytes(), np.uint8).reshape(PIXELS.shape)
    with pytest.raises(UserWarning, match="not writable"):
        torch.from_numpy(pixels)
    predictions = predictor_of(model, batch_size=16).predict(pixels)
    np.testing.assert_array_equal(predictions.sums, reference(model)[0])
    np.testing.assert_array_equal(pixels, PIXELS)


def test_other_warnings_are_not_swallowed(predictor_of, model):
    predictor = predictor_of(model, batch_size=16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predictor.predict(PIXELS[:1])
        warnings.warn("somebody else's", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["somebody else's"]


def test_no_images_give_no_predictions(predictor_of, model):
    predictions = predictor_of(model, batch_size=16).predict(PIXELS[:0])
    assert predictions.sums.shape == predictions.confidences.shape == (0,)
    assert predictions.sums.dtype == np.int16
    assert predictions.confidences.dtype == np.float32


def test_predicting_leaves_no_gradients_behind(predictor_of, model):
    predictor_of(model, batch_size=16).predict(PIXELS)
    assert all(parameter.grad is None for parameter in model.network.parameters())
