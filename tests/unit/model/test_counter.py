from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from digitsum.errors import InputError
from digitsum.model.counter import COLUMN_STRIDE, CounterConfig, CounterNetwork
from digitsum.model.registry import build_network, network_sizes
from digitsum.model.saved_model import load_model, save_model
from digitsum.options import ImageShape

SMALL = {
    "height": 16,
    "width": 48,
    "num_digits": 2,
    "max_digits": 5,
    "stem_channels": 4,
    "body_channels": 6,
    "row_channels": 8,
    "column_channels": 10,
    "num_mixers": 1,
    "digit_offset": 0,
}


def small_network(*, seed: int = 0, spread: float = 1.0, **sizes: int) -> CounterNetwork:
    """An untrained network in evaluation mode; a greater spread makes it surer of what it says."""
    torch.manual_seed(seed)
    network = CounterNetwork(CounterConfig(**(SMALL | sizes))).eval()
    with torch.no_grad():
        network.head.weight *= spread
    return network


@pytest.fixture(scope="module")
def default_network() -> CounterNetwork:
    torch.manual_seed(0)
    return CounterNetwork(CounterConfig()).eval()


@pytest.fixture(scope="module")
def some_logits() -> Tensor:
    """Logits (30, 12, 11) of which no two images' are alike."""
    logits = 2 * torch.randn(30, 12, 11, generator=torch.Generator().manual_seed(0))
    logits[:, :, 0] += torch.linspace(0, 9, 30).unsqueeze(1)
    return logits


@pytest.mark.parametrize(
    ("height", "width", "num_columns"),
    [(8, 8, 2), (8, 9, 3), (9, 11, 3), (16, 48, 12), (23, 49, 13), (28, 50, 13), (40, 51, 13)],
)
def test_every_four_pixels_begun_are_a_column(height, width, num_columns):
    network = small_network(height=height, width=width)
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, height, width)).shape == (2, num_columns, 11)
        wider = network(torch.zeros(2, 1, height, width + 40))
    assert wider.shape == (2, num_columns + 10, 11)


def test_an_image_of_the_default_size_takes_no_more_than_20_million_operations(default_network):
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        assert default_network(torch.zeros(1, 1, 40, 168)).shape == (1, 42, 11)
    assert 1e6 < counted.get_total_flops() <= 20e6


@pytest.mark.parametrize(
    "sizes",
    [
        {"height": 7},
        {"height": 49},
        {"width": 15},
        {"width": 4097},
        {"num_digits": 0},
        {"num_digits": -1},
        {"num_digits": 6},
        {"max_digits": 1},
        {"max_digits": 65},
        {"stem_channels": 0},
        {"body_channels": -1},
        {"row_channels": 1025},
        {"column_channels": 0},
        {"num_mixers": -1},
        {"num_mixers": 17},
    ],
    ids=str,
)
def test_sizes_out_of_bounds_are_refused_with_their_value(sizes):
    (value,) = sizes.values()
    with pytest.raises(InputError, match=str(value)):
        CounterConfig(**(SMALL | sizes))


@pytest.mark.parametrize(
    "sizes",
    [
        {"height": 8},
        {"height": 48},
        {"width": 16},
        {"width": 4096},
        {"num_digits": 1},
        {"num_digits": 5},
        {"max_digits": 2},
        {"max_digits": 64},
        {"stem_channels": 1},
        {"column_channels": 1024},
        {"num_mixers": 0},
        {"num_mixers": 16},
    ],
    ids=str,
)
def test_sizes_at_the_bounds_are_taken(sizes):
    config = CounterConfig(**(SMALL | sizes))
    assert {name: getattr(config, name) for name in sizes} == sizes
    assert config.shape == ImageShape(config.height, config.width)


@pytest.mark.parametrize("num_digits", [None, 1, 3, 7, 12])
def test_the_posterior_is_one_of_sums_and_of_counts(some_logits, num_digits):
    posterior = small_network().posterior(some_logits, num_digits)
    max_digits = num_digits or SMALL["max_digits"]
    assert posterior.sum_log_probs.shape == (30, 9 * max_digits + 1)
    assert posterior.count_probs.shape == (30, max_digits + 1)
    torch.testing.assert_close(posterior.sum_log_probs.exp().sum(dim=1), torch.ones(30))
    counted = posterior.count_probs.sum(dim=1)
    if num_digits is None:  # there may be more digits than it tells apart
        assert (counted <= 1 + 1e-5).all()
        assert (counted > 0).all()
    else:
        torch.testing.assert_close(counted, torch.ones(30))


def test_counts_that_columns_can_have_are_all_told_apart(some_logits):
    posterior = small_network().posterior(some_logits[:, :5], None)
    torch.testing.assert_close(posterior.count_probs.sum(dim=1), torch.ones(30))


@pytest.mark.parametrize("num_digits", [None, 1, 3, 7])
def test_the_digits_add_up_to_the_most_probable_sum(some_logits, num_digits):
    posterior = small_network().posterior(some_logits, num_digits)
    sums = posterior.digits.clamp(min=0).sum(dim=1)
    assert torch.equal(sums, posterior.sum_log_probs.argmax(dim=1))
    assert torch.equal(posterior.digits < 0, posterior.digit_x < 0)
    counts = (posterior.digits >= 0).sum(dim=1)
    if num_digits is None:
        assert len(counts.unique()) > 2
    else:
        assert (counts == num_digits).all()


@pytest.mark.parametrize("num_digits", [1, 3, 12])
def test_a_known_count_is_certain(some_logits, num_digits):
    counts = small_network().posterior(some_logits, num_digits).count_probs
    torch.testing.assert_close(counts[:, num_digits], torch.ones(30))
    assert (counts[:, :num_digits] == 0).all()


def test_digits_stand_on_the_pixels_of_their_columns(some_logits):
    logits = torch.zeros(1, 12, 11)
    logits[:, :, 0] = 9
    for column, digit in ((0, 3), (5, 0), (11, 7)):
        logits[0, column, 1 + digit] = 18
    posterior = small_network().posterior(logits, None)
    assert posterior.digits.tolist() == [[3, 0, 7] + 9 * [-1]]
    assert posterior.digit_x.tolist() == [[0, 5 * COLUMN_STRIDE, 11 * COLUMN_STRIDE] + 9 * [-1]]


def test_the_posterior_agrees_with_what_training_makes_probable(some_logits):
    network = small_network()
    for num_digits, counts in ((None, (0, 5)), (3, (3, 3))):
        logits = some_logits[:, :5]  # no more columns than digits that are told apart
        trained = network.sum_log_probs(logits, *counts).log_softmax(dim=1)
        predicted = network.posterior(logits, num_digits).sum_log_probs
        torch.testing.assert_close(predicted.exp(), trained.exp(), rtol=1e-4, atol=1e-6)


def test_digits_beyond_doubt_are_read_without_a_doubt():
    network = small_network(max_digits=8)
    logits = torch.full((1, 42, 11), -30.0)
    logits[:, :, 0] = 30
    for column, digit in ((5, 3), (15, 1), (25, 9), (35, 0)):
        logits[0, column, 0] = -30
        logits[0, column, 1 + digit] = 30
    posterior = network.posterior(logits, None)
    assert posterior.digits.tolist() == [[3, 1, 9, 0] + 38 * [-1]]
    assert float(posterior.sum_log_probs[0, 13].exp()) == pytest.approx(1, abs=1e-3)
    assert float(posterior.count_probs[0, 4]) == pytest.approx(1, abs=1e-3)


def test_in_evaluation_every_image_is_on_its_own():
    network = small_network(spread=30).train()
    images = torch.rand(7, 1, 16, 48)
    for _ in range(20):
        network(images)
    network.eval()
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image.unsqueeze(0)) for image in images])
        backwards = network(images.flip(0)).flip(0)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together, backwards)
    assert together.std(dim=0).mean() > 1e-3


@pytest.mark.parametrize("with_pull", [True, False])
@pytest.mark.parametrize("counts", [(2, 2), (1, 3)])
def test_every_parameter_gets_a_gradient(counts, with_pull):
    network = small_network(spread=10).train()
    logits = network(torch.rand(8, 1, 16, 48))
    sums = torch.arange(8)
    loss = -network.sum_log_probs(logits, *counts).gather(1, sums.unsqueeze(1)).mean()
    if with_pull:
        loss = loss + network.pull(logits, sums, 2 if counts == (2, 2) else None)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_the_pull_is_nothing_where_expected_sum_and_count_are_true():
    logits = torch.full((1, 6, 11), -50.0)
    logits[0, :, 0] = 50
    for column, digit in ((1, 4), (4, 8)):
        logits[0, column, 0] = -50
        logits[0, column, 1 + digit] = 50
    pull = small_network().pull
    assert float(pull(logits, torch.tensor([12]), 2)) == pytest.approx(0, abs=1e-6)
    assert float(pull(logits, torch.tensor([12]), None)) == pytest.approx(0, abs=1e-6)
    off_by_sum = float(pull(logits, torch.tensor([15]), None))
    assert off_by_sum > 0
    assert float(pull(logits, torch.tensor([15]), 2)) == pytest.approx(off_by_sum)
    assert float(pull(logits, torch.tensor([15]), 3)) > off_by_sum


def test_a_network_learns_to_add_from_sums_alone():
    generator = torch.Generator().manual_seed(0)
    glyphs = torch.zeros(4, 8, 8)
    glyphs[:, 1:7, 1:7] = (torch.rand(4, 6, 6, generator=generator) > 0.5).float()

    def draw(num_images: int) -> tuple[Tensor, Tensor]:
        digits = torch.randint(4, (num_images, 2), generator=generator)
        return glyphs[digits].permute(0, 2, 1, 3).reshape(-1, 1, 8, 16), digits.sum(dim=1)

    network = small_network(height=8, width=16, row_channels=16, column_channels=16).train()
    images, sums = draw(300)
    with torch.inference_mode():
        guessed = network.posterior(network.eval()(images), None).sum_log_probs.argmax(dim=1)
    assert (guessed == sums).float().mean() < 0.5
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=1e-2)
    num_steps = 120
    for step in range(num_steps):
        x, y = draw(48)
        logits = network(x)
        loss = -network.sum_log_probs(logits, 2, 2).gather(1, y.unsqueeze(1)).mean()
        loss = loss + max(0.0, 1 - 2 * step / num_steps) * network.pull(logits, y, 2)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
    with torch.inference_mode():
        posterior = network.eval().posterior(network(images), None)
    assert (posterior.sum_log_probs.argmax(dim=1) == sums).float().mean() > 0.9
    assert (posterior.count_probs.argmax(dim=1) == 2).float().mean() > 0.9


@pytest.mark.parametrize("in_training", [True, False])
def test_an_untrained_network_expects_1_to_8_digits(in_training):
    for seed in range(2):
        torch.manual_seed(seed)
        network = CounterNetwork(CounterConfig()).train(in_training)
        with torch.inference_mode():
            symbols = network(torch.rand(4, 1, 40, 168)).softmax(dim=2)
        expected = symbols[:, :, 1:].sum(dim=(1, 2))
        assert ((expected > 1) & (expected < 8)).all()


def test_what_moves_by_four_pixels_is_read_one_column_further(default_network):
    images = torch.rand(2, 1, 40, 168)
    moved = images.roll(COLUMN_STRIDE, dims=3)
    with torch.inference_mode():
        before, after = default_network(images), default_network(moved)
    # A column sees 6 columns on either side; at the borders, the image ends.
    inside = slice(8, -8)
    torch.testing.assert_close(after[:, 1:][:, inside], before[:, :-1][:, inside])
    assert not torch.allclose(after[:, inside], before[:, inside])


def test_a_column_sees_what_is_around_its_pixel(default_network):
    """The column that changes most is that whose pixel column 4 c is changed."""
    images = torch.zeros(1, 1, 40, 168)
    changed = images.clone()
    changed[:, :, :, 20 * COLUMN_STRIDE] = 1
    with torch.inference_mode():
        difference = (default_network(changed) - default_network(images)).abs().sum(dim=2)[0]
    reach = difference.nonzero().flatten()
    assert reach.min() + reach.max() == 2 * 20


@pytest.mark.parametrize("width", [16, 24, 48, 200, 4096])
def test_images_of_its_height_and_any_width_are_taken(width):
    small_network().check_shape(ImageShape(16, width), "archive")


@pytest.mark.parametrize(("height", "width"), [(15, 48), (17, 48), (40, 168), (16, 15), (16, 4097)])
def test_images_of_another_height_or_too_narrow_or_wide_are_refused(height, width):
    with pytest.raises(InputError, match=rf"a/b\.parquet: images are {height}x{width}"):
        small_network().check_shape(ImageShape(height, width), "a/b.parquet")


@pytest.mark.parametrize(
    ("width", "most"), [(16, 4), (17, 5), (48, 12), (168, 42), (256, 64), (4096, 64)]
)
def test_as_many_digits_can_be_told_as_an_image_has_columns_up_to_64(width, most):
    network, shape = small_network(), ImageShape(16, width)
    for num_digits in (1, 2, most):
        network.check_num_digits(num_digits, shape)
    for num_digits in (-1, 0, most + 1):
        with pytest.raises(
            InputError, match=rf"--known-count {num_digits}: .*16x{width} .*1 to {most}"
        ):
            network.check_num_digits(num_digits, shape)


def test_so_many_digits_as_can_be_told_are_read():
    logits = torch.randn(3, 10, 11, generator=torch.Generator().manual_seed(0))
    network = small_network(height=40, width=40)
    network.check_num_digits(10, ImageShape(40, 40))
    posterior = network.posterior(logits, 10)
    assert posterior.digit_x.tolist() == [list(range(0, 40, 4))] * 3
    assert not posterior.sum_log_probs.isnan().any()


def test_the_sizes_of_a_built_counter_are_those_it_was_built_from():
    network = build_network("counter", SMALL)
    assert isinstance(network, CounterNetwork)
    assert network_sizes(network) == SMALL
    assert network.config == CounterConfig(**SMALL)


def test_a_loaded_counter_gives_the_very_outputs_of_the_saved_one(tmp_path: Path):
    network = small_network().train()
    for _ in range(3):  # so that the normalizations have statistics of their own
        network(torch.rand(8, 1, 16, 48))
    uri = str(tmp_path / "model")
    digest = save_model(
        uri,
        "counter",
        network.eval(),
        metrics={},
        card="# A card\n",
        pixel_scale=1 / 255,
        temperature=1.25,
    )
    model = load_model(uri)
    assert model.network_name == "counter"
    assert model.network.config == CounterConfig(**SMALL)
    assert (model.temperature, model.pixel_scale) == (1.25, 1 / 255)
    assert (model.digest, model.uri) == (digest, uri)
    assert model.shape == ImageShape(16, 48)
    assert not model.network.training
    images = torch.rand(5, 1, 16, 48)
    with torch.inference_mode():
        assert torch.equal(model.network(images), network(images))


def test_another_temperature_is_another_model(tmp_path: Path):
    digests = {
        save_model(
            str(tmp_path / str(temperature)),
            "counter",
            small_network(),
            metrics={},
            card="",
            pixel_scale=1 / 255,
            temperature=temperature,
        )
        for temperature in (1.0, 1.25)
    }
    assert len(digests) == 2


def test_digits_stand_left_of_their_columns_by_the_offset_and_within_the_image():
    network = small_network(digit_offset=6)
    logits = torch.zeros(1, 12, 11)
    logits[:, :, 0] = 20
    for column, digit in ((0, 3), (5, 1)):
        logits[0, column, 1 + digit] = 40
    assert network.posterior(logits, None).digit_x.tolist() == [
        [0, 5 * COLUMN_STRIDE - 6] + 10 * [-1]
    ]
