import numpy as np
import pytest
import torch
from torch import Tensor

from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.training.calibration import calibrate, fit_temperature
from digitsum.training.config import TrainConfig

CONFIG = CounterConfig(
    height=16,
    width=32,
    num_digits=2,
    max_digits=3,
    stem_channels=4,
    body_channels=6,
    row_channels=8,
    column_channels=10,
    num_mixers=1,
)
# What so few images leave unsure, and the search's own half a per cent.
TOLERANCE = 0.08


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def baseline() -> BaselineNetwork:
    return BaselineNetwork(BaselineConfig(height=8, width=8, num_digits=2))


@pytest.fixture(scope="module")
def counter() -> CounterNetwork:
    torch.manual_seed(0)
    return CounterNetwork(CONFIG).eval()


@pytest.fixture(scope="module")
def of_baseline() -> tuple[Tensor, Tensor]:
    """Logits of 4,000 images, and sums drawn from just the probabilities that they say."""
    logits = 1.5 * torch.randn(4000, 19, generator=generator())
    return logits, logits.softmax(dim=1).multinomial(1, generator=generator(1)).squeeze(1)


@pytest.fixture(scope="module")
def of_counter() -> tuple[Tensor, Tensor]:
    """The same of about 2,500 images of 5 columns, of which none holds more than 3 digits."""
    logits = 2 * torch.randn(2600, 5, 11, generator=generator())
    logits[:, :, 0] += 4
    probs = logits.softmax(dim=2).flatten(0, 1)
    symbols = probs.multinomial(1, generator=generator(1)).reshape(-1, 5)
    can_be = (symbols > 0).sum(dim=1) <= CONFIG.max_digits
    return logits[can_be], (symbols - 1).clamp(min=0).sum(dim=1)[can_be]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_the_temperature_of_a_baseline_is_found_again(baseline, of_baseline, temperature):
    logits, sums = of_baseline
    found = fit_temperature(baseline, logits * temperature, sums)
    assert found == pytest.approx(temperature, rel=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_a_counter_is_found_again(counter, of_counter, temperature):
    logits, sums = of_counter
    assert len(sums) > 2000
    found = fit_temperature(counter, logits * temperature, sums)
    assert found == pytest.approx(temperature, rel=TOLERANCE)


def test_no_temperature_near_the_one_found_has_less_loss(baseline, of_baseline):
    logits, sums = of_baseline
    logits = 2 * logits

    def loss(temperature: float) -> float:
        log_probs = (logits.double() / temperature).log_softmax(dim=1)
        return -float(log_probs.gather(1, sums.unsqueeze(1)).mean())

    found = fit_temperature(baseline, logits, sums)
    assert loss(found) <= min(loss(0.98 * found), loss(1.02 * found))


def test_the_logits_stay_as_they_are(baseline, of_baseline):
    logits, sums = of_baseline
    before = logits.clone()
    fit_temperature(baseline, logits, sums)
    assert torch.equal(logits, before)


def test_what_can_never_be_too_sure_is_cooled_to_the_lower_bound(baseline):
    sums = torch.arange(500) % 19
    logits = 0.1 * torch.nn.functional.one_hot(sums, 19)
    assert fit_temperature(baseline, logits, sums) == pytest.approx(0.25, rel=0.01)


def test_what_can_never_be_unsure_enough_is_heated_to_the_upper_bound(baseline):
    sums = torch.arange(500) % 19
    logits = 30.0 * torch.nn.functional.one_hot((sums + 1) % 19, 19)
    assert fit_temperature(baseline, logits, sums) == pytest.approx(8, rel=0.01)


def clear_images(num_images: int, *, at_digit: float, at_others: float) -> Tensor:
    """Logits of images of 8 columns, each with the digits 1, 1, 1 first."""
    logits = torch.full((num_images, 8, 11), at_others)
    logits[:, 3:, 0] = at_digit
    logits[:, :3, 1 + 1] = at_digit
    return logits


def test_one_image_beyond_hope_makes_less_sure_and_not_surer():
    """Of 1,000 images one is wrong, whose true sum is nearly impossible: 9 is so for all of it."""
    network = CounterNetwork(CounterConfig(height=16, width=32, num_digits=3, max_digits=3))
    logits = clear_images(1000, at_digit=8, at_others=-8)
    logits[0, :, 2:] -= 200
    logits[0, :3, 1 + 1] += 200
    sums = torch.full((1000,), 3)
    sums[0] = 27
    assert fit_temperature(network, logits, sums) > 1


def test_images_that_are_surely_right_are_not_made_unsure():
    network = CounterNetwork(CounterConfig(height=16, width=32, num_digits=3, max_digits=8))
    logits = clear_images(200, at_digit=30, at_others=-30)
    assert fit_temperature(network, logits, torch.full((200,), 3)) <= 1


@pytest.mark.parametrize("num_images", [1, 1200])
def test_calibrating_fits_the_logits_of_all_images_at_the_recipes_scale(counter, num_images):
    pixels = np.random.default_rng(0).integers(256, size=(num_images, 16, 32), dtype=np.uint8)
    pixels.setflags(write=False)
    sums = np.random.default_rng(1).integers(19, size=num_images)
    config = TrainConfig(out="models/counter", pixel_scale=1 / 16)
    with torch.inference_mode():
        logits = counter(torch.tensor(pixels).unsqueeze(1) / 16)
    expected = fit_temperature(counter, logits, torch.tensor(sums))
    calibration = calibrate(counter, pixels, sums, config)
    assert calibration.images == num_images
    assert calibration.temperature == pytest.approx(expected, rel=0.01)
    assert 0.25 <= calibration.temperature <= 8
    assert isinstance(calibration.temperature, float)


def test_calibrating_leaves_the_network_as_it_was(counter):
    before = {name: tensor.clone() for name, tensor in counter.state_dict().items()}
    pixels = np.zeros((3, 16, 32), np.uint8)
    calibrate(counter, pixels, np.array([1, 2, 3]), TrainConfig(out="models/counter"))
    for name, tensor in counter.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in counter.parameters())
