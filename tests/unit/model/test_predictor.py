import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from factories import make_model

from digitsum.errors import InputError
from digitsum.model import predictor as predictor_module
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import SavedModel
from digitsum.model.torch_backend import TorchPredictor


@pytest.fixture(params=["torch", "openvino"])
def predictor_of(request):
    """Give what makes a predictor of a model, by each back-end in turn."""
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return partial(make_predictor, backend=request.param, batch_size=16)


@pytest.fixture(scope="module")
def pixels(block_images) -> np.ndarray:
    return np.ascontiguousarray(block_images[:, :, :24])


@pytest.fixture
def model(pixels) -> SavedModel:
    """A model whose sums differ from image to image, and clearly."""
    torch.manual_seed(0)
    network = BaselineNetwork(BaselineConfig(height=16, width=24, num_digits=2)).eval()
    with torch.no_grad():
        network.fc2.weight *= 40
        network.fc2.bias -= network(torch.tensor(pixels).unsqueeze(1) / 255).mean(dim=0)
    return make_model(network)


@pytest.fixture
def strict_warnings() -> Iterator[None]:
    """Make torch warn every time, not only once a process, and warnings errors."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(before)


def forward(model: SavedModel, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and confidences by a plain forward pass over all images at once."""
    network = copy.deepcopy(model.network).eval()
    images = torch.tensor(pixels).unsqueeze(1).float() * model.pixel_scale
    with torch.inference_mode():
        probs = torch.softmax(network(images) / model.temperature, dim=1)
    return probs.argmax(dim=1).numpy(), probs.amax(dim=1).numpy()


@pytest.mark.parametrize(
    "change", [{}, {"pixel_scale": 1 / 16}, {"temperature": 2.5}], ids=["", "scale", "temperature"]
)
def test_predict_is_a_plain_forward_pass(predictor_of, model, pixels, change):
    changed = replace(model, **change)
    sums, confidences = forward(changed, pixels)
    predictions = predictor_of(changed).predict(pixels)
    np.testing.assert_array_equal(predictions.sums, sums)
    np.testing.assert_allclose(predictions.confidences, confidences, rtol=1e-4)
    assert predictions.sums.dtype == np.int16
    assert predictions.confidences.dtype == np.float32
    plain_sums, plain_confidences = forward(model, pixels)
    assert len(set(plain_sums)) > 3
    assert change == {} or not np.allclose(confidences, plain_confidences)


def test_predict_without_dropout(predictor_of, model, pixels):
    sums, _ = forward(model, pixels)
    model.network.train()
    np.testing.assert_array_equal(predictor_of(model).predict(pixels).sums, sums)


@pytest.mark.usefixtures("strict_warnings")
def test_predict_read_only_pixels(predictor_of, model, pixels):
    read_only = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape)
    with pytest.raises(UserWarning, match="not writable"):
        torch.from_numpy(read_only)
    predictions = predictor_of(model).predict(read_only)
    np.testing.assert_array_equal(predictions.sums, forward(model, pixels)[0])
    np.testing.assert_array_equal(read_only, pixels)
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_other_warnings_are_not_swallowed(predictor_of, model, pixels):
    predictor = predictor_of(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predictor.predict(pixels[:1])
        warnings.warn("somebody else's", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["somebody else's"]


def test_predict_refuses_nan(make_counter, block_images):
    """Finite weights may overflow. (OpenVINO's ReLU turns NaN into 0, so it predicts some sum.)"""
    model = make_model(make_counter())
    with torch.no_grad():
        for weights in model.network.parameters():
            weights *= 1e30
    predictor = make_predictor(replace(model, pixel_scale=1.0), backend="torch")
    with pytest.raises(InputError, match="the model predicts NaN"):
        predictor.predict(np.full_like(block_images[:3], 255))


def test_choice_of_back_end(block_model, monkeypatch):
    openvino_backend = pytest.importorskip("digitsum.model.openvino_backend")
    assert isinstance(make_predictor(block_model), openvino_backend.OpenVinoPredictor)
    assert isinstance(make_predictor(block_model, backend="torch"), TorchPredictor)
    with pytest.raises(InputError, match=r"--backend openvino: .* not on GPUs"):
        make_predictor(block_model, backend="openvino", device="cuda")
    monkeypatch.setattr(predictor_module.platform, "machine", lambda: "aarch64")
    assert isinstance(make_predictor(block_model), TorchPredictor)
    with pytest.raises(InputError, match="pip install openvino"):
        make_predictor(block_model, backend="openvino")
    monkeypatch.setattr(predictor_module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(predictor_module, "find_spec", lambda name: None)
    assert isinstance(make_predictor(block_model), TorchPredictor)
