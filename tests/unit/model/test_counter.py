import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from digitsum.errors import InputError
from digitsum.model.counter import COLUMN_STRIDE, CounterConfig, CounterNetwork
from digitsum.options import ImageShape


@pytest.fixture(scope="module")
def default_network() -> CounterNetwork:
    torch.manual_seed(0)
    return CounterNetwork(CounterConfig()).eval()


@pytest.fixture(scope="module")
def network(make_counter) -> CounterNetwork:
    return make_counter()


@pytest.fixture(scope="module")
def some_logits() -> Tensor:
    """Logits (30, 12, 11), different in every image."""
    logits = 2 * torch.randn(30, 12, 11, generator=torch.Generator().manual_seed(0))
    logits[:, :, 0] += torch.linspace(0, 9, 30).unsqueeze(1)
    return logits


def sure_logits(emitted: dict[int, int], num_columns: int = 12, logit: float = 30) -> Tensor:
    """Logits (1, columns, 11) of columns that clearly emit the given digits, or blank."""
    logits = torch.full((1, num_columns, 11), -float(logit))
    logits[:, :, 0] = logit
    for column, digit in emitted.items():
        logits[0, column, 0] = -logit
        logits[0, column, 1 + digit] = logit
    return logits


@pytest.mark.parametrize(
    ("height", "width", "num_columns"),
    [(8, 8, 2), (8, 9, 3), (9, 11, 3), (16, 48, 12), (23, 49, 13), (28, 50, 13), (40, 51, 13)],
)
def test_forward_one_column_per_4_pixels(make_counter, height, width, num_columns):
    network = make_counter(height=height, width=width)
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, height, width)).shape == (2, num_columns, 11)
        wider = network(torch.zeros(2, 1, height, width + 40))
    assert wider.shape == (2, num_columns + 10, 11)


def test_forward_at_most_20_mflop(default_network):
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        assert default_network(torch.zeros(1, 1, 40, 168)).shape == (1, 42, 11)
    assert 1e6 < counted.get_total_flops() <= 20e6


@pytest.mark.parametrize("known_count", [None, 1, 3, 7, 12])
def test_posterior_is_consistent(network, some_logits, known_count):
    posterior = network.posterior(some_logits, known_count)
    max_digits = known_count or network.config.max_digits
    assert posterior.sum_log_probs.shape == (30, 9 * max_digits + 1)
    assert posterior.count_probs.shape == (30, max_digits + 1)
    torch.testing.assert_close(posterior.sum_log_probs.exp().sum(dim=1), torch.ones(30))
    sums = posterior.digits.clamp(min=0).sum(dim=1)
    assert torch.equal(sums, posterior.sum_log_probs.argmax(dim=1))
    assert torch.equal(posterior.digits < 0, posterior.digit_x < 0)
    counts, total = (posterior.digits >= 0).sum(dim=1), posterior.count_probs.sum(dim=1)
    if known_count is None:
        assert len(counts.unique()) > 2
        assert ((total > 0) & (total <= 1 + 1e-5)).all()  # there may be more digits
    else:
        assert (counts == known_count).all()
        torch.testing.assert_close(posterior.count_probs[:, known_count], torch.ones(30))
        assert (posterior.count_probs[:, :known_count] == 0).all()


@pytest.mark.parametrize(("known_count", "counts"), [(None, (0, 5)), (3, (3, 3))])
def test_posterior_agrees_with_training(network, some_logits, known_count, counts):
    logits = some_logits[:, :5]  # no more columns than max_digits
    trained = network.sum_log_probs(logits, *counts).log_softmax(dim=1)
    posterior = network.posterior(logits, known_count)
    predicted = posterior.sum_log_probs
    torch.testing.assert_close(predicted.exp(), trained.exp(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(posterior.count_probs.sum(dim=1), torch.ones(30))


@pytest.mark.parametrize("offset", [0, 6])
def test_digit_x_is_the_column_less_the_offset(make_counter, offset):
    network = make_counter(digit_offset=offset)
    posterior = network.posterior(sure_logits({0: 3, 5: 0, 11: 7}, logit=9), None)
    assert float(posterior.sum_log_probs[0, 10].exp()) == pytest.approx(1, abs=1e-2)
    assert float(posterior.count_probs[0, 3]) == pytest.approx(1, abs=1e-2)
    assert posterior.digits.tolist() == [[3, 0, 7] + 9 * [-1]]
    expected = [0, 5 * COLUMN_STRIDE - offset, 11 * COLUMN_STRIDE - offset]
    assert posterior.digit_x.tolist() == [expected + 9 * [-1]]


def test_eval_treats_images_separately(make_counter):
    network = make_counter().train()
    network.head.weight.data *= 30
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
def test_every_parameter_gets_a_gradient(make_counter, counts, with_pull):
    network = make_counter().train()
    network.head.weight.data *= 10
    logits = network(torch.rand(8, 1, 16, 48))
    sums = torch.arange(8)
    loss = -network.sum_log_probs(logits, *counts).gather(1, sums.unsqueeze(1)).mean()
    if with_pull:
        loss = loss + network.pull(logits, sums, 2 if counts == (2, 2) else None)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_pull_is_0_at_the_true_sum_and_count(network):
    logits = sure_logits({1: 4, 4: 8}, num_columns=6, logit=50)
    for known_count, pull_on_count in ((None, 0), (2, 0), (3, 0.3)):
        for digit_sum, pull_on_sum in ((12, 0), (15, 0.02 * 3**2)):
            pull = network.pull(logits, torch.tensor([digit_sum]), known_count)
            assert float(pull) == pytest.approx(pull_on_count + pull_on_sum, abs=1e-6)


def test_learns_to_add_from_sums_alone(make_counter):
    generator = torch.Generator().manual_seed(0)
    glyphs = torch.zeros(4, 8, 8)
    glyphs[:, 1:7, 1:7] = (torch.rand(4, 6, 6, generator=generator) > 0.5).float()

    def draw(num_images: int) -> tuple[Tensor, Tensor]:
        digits = torch.randint(4, (num_images, 2), generator=generator)
        return glyphs[digits].permute(0, 2, 1, 3).reshape(-1, 1, 8, 16), digits.sum(dim=1)

    network = make_counter(height=8, width=16, row_channels=16, column_channels=16).train()
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
def test_untrained_expects_1_to_8_digits(in_training):
    torch.manual_seed(1)
    network = CounterNetwork(CounterConfig()).train(in_training)
    with torch.inference_mode():
        symbols = network(torch.rand(4, 1, 40, 168)).softmax(dim=2)
    expected = symbols[:, :, 1:].sum(dim=(1, 2))
    assert ((expected > 1) & (expected < 8)).all()


def test_shift_of_4_pixels_is_one_column(default_network):
    images = torch.rand(2, 1, 40, 168)
    shifted = images.roll(COLUMN_STRIDE, dims=3)
    with torch.inference_mode():
        before, after = default_network(images), default_network(shifted)
    # A column sees 6 columns on either side, fewer near the borders.
    inside = slice(8, -8)
    torch.testing.assert_close(after[:, 1:][:, inside], before[:, :-1][:, inside])
    assert not torch.allclose(after[:, inside], before[:, inside])


def test_column_is_centred_on_its_pixel(default_network):
    images = torch.zeros(1, 1, 40, 168)
    changed = images.clone()
    changed[:, :, :, 20 * COLUMN_STRIDE] = 1
    with torch.inference_mode():
        difference = (default_network(changed) - default_network(images)).abs().sum(dim=2)[0]
    reach = difference.nonzero().flatten()
    assert reach.min() + reach.max() == 2 * 20


def test_check_shape(network):
    for width in (16, 24, 48, 200, 4096):
        network.check_shape(ImageShape(16, width), "archive")
    for height, width in ((15, 48), (17, 48), (40, 168), (16, 15), (16, 4097)):
        with pytest.raises(InputError, match=rf"a/b\.parquet: images are {height}x{width}"):
            network.check_shape(ImageShape(height, width), "a/b.parquet")


@pytest.mark.parametrize(
    ("width", "most"), [(16, 4), (17, 5), (48, 12), (168, 42), (256, 64), (4096, 64)]
)
def test_check_known_count(network, width, most):
    shape = ImageShape(16, width)
    for known_count in (1, 2, most):
        network.check_known_count(known_count, shape)
    for known_count in (-1, 0, most + 1):
        with pytest.raises(
            InputError, match=rf"--known-count {known_count}: .*16x{width} .*1 to {most}"
        ):
            network.check_known_count(known_count, shape)


def test_posterior_of_a_digit_in_every_column(network):
    logits = torch.randn(3, 10, 11, generator=torch.Generator().manual_seed(0))
    network.check_known_count(10, ImageShape(40, 40))
    posterior = network.posterior(logits, 10)
    assert posterior.digit_x.tolist() == [list(range(0, 40, 4))] * 3
    assert not posterior.sum_log_probs.isnan().any()
