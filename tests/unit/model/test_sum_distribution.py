import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from digitsum.model.sum_distribution import (
    NUM_SYMBOLS,
    count_probs,
    known_count_log_probs,
    log_probs_by_count,
    sum_log_probs,
    sum_probs,
)

# Four of the 200 columns hold a digit each.
NUM_COLUMNS = 200
PLACES = {20: 3, 80: 1, 81: 9, 190: 0}
NEVER = -1e30
"""Log of 0 in the reference: unlike -inf it has a gradient."""

seeds = st.integers(0, 2**32 - 1)


def few_columns(max_columns: int = 3) -> st.SearchStrategy[np.ndarray]:
    """Logits, float64 (columns, 11), whose odds are all within e^20."""
    shapes = st.integers(1, max_columns).map(lambda columns: (columns, NUM_SYMBOLS))
    return shapes.flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=st.floats(-9, 9)))


def random_logits(*shape: int, scale: float = 2.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, NUM_SYMBOLS, dtype=torch.float64, generator=generator)


def symbols(logits: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Log probabilities of symbols, of one image or of several."""
    logits = torch.as_tensor(logits)
    return (logits if logits.ndim == 3 else logits.unsqueeze(0)).log_softmax(dim=2)


def padded(by_count: list[torch.Tensor]) -> torch.Tensor:
    """One tensor (b, counts, sums) of a list by count, -inf if a count has no such sum."""
    num_sums = by_count[-1].shape[1]
    return torch.stack(
        [
            torch.nn.functional.pad(part, (0, num_sums - part.shape[1]), value=-torch.inf)
            for part in by_count
        ],
        dim=1,
    )


@functools.cache
def emissions(num_columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every emission of the columns, symbols (11**columns, columns), with its count and sum."""
    symbol = np.indices((NUM_SYMBOLS,) * num_columns).reshape(num_columns, -1).T
    return symbol, (symbol > 0).sum(axis=1), (symbol - 1).clip(min=0).sum(axis=1)


def enumerated(logits: np.ndarray) -> np.ndarray:
    """Probabilities, (columns + 1, sums), as sums over every possible emission."""
    num_columns = len(logits)
    symbol, counts, sums = emissions(num_columns)
    log_probs = symbols(logits)[0].numpy()[np.arange(num_columns), symbol].sum(axis=1)
    num_sums = 9 * num_columns + 1
    cells = np.bincount(
        counts * num_sums + sums, np.exp(log_probs), minlength=(num_columns + 1) * num_sums
    )
    return cells.reshape(num_columns + 1, num_sums)


def column_by_column(logits: torch.Tensor, max_count: int) -> torch.Tensor:
    """Log probabilities, (b, max_count + 1, sums), adding one column at a time, in logarithms."""
    log_probs = symbols(logits.double())
    state = torch.full((len(logits), max_count + 1, 9 * max_count + 1), NEVER, dtype=torch.float64)
    state[:, 0, 0] = 0
    for column in log_probs.unbind(dim=1):
        ways = [state + column[:, 0, None, None]]
        for digit in range(10):
            shifted = torch.nn.functional.pad(
                state[:, :-1, : state.shape[2] - digit], (digit, 0, 1, 0), value=NEVER
            )
            ways.append(shifted + column[:, 1 + digit, None, None])
        state = torch.stack(ways).logsumexp(dim=0)
    return state


@settings(max_examples=40)
@given(few_columns())
def test_log_probs_by_count_adds_up_emissions(logits):
    expected = enumerated(logits)
    by_count = log_probs_by_count(symbols(logits), len(logits))
    assert [part.shape for part in by_count] == [(1, 9 * k + 1) for k in range(len(logits) + 1)]
    for count, log_probs in enumerate(by_count):
        np.testing.assert_allclose(
            log_probs[0].exp().numpy(), expected[count, : 9 * count + 1], rtol=1e-9
        )


@settings(max_examples=50)
@given(seeds, st.integers(1, 60), st.floats(0, 4))
def test_count_is_poisson_binomial(seed, num_columns, scale):
    logits = random_logits(num_columns, scale=scale, seed=seed).clamp(-9, 9)
    expected = np.ones(1)
    for blank in symbols(logits)[0, :, 0].exp().numpy():
        expected = np.convolve(expected, [blank, 1 - blank])
    max_count = min(num_columns, 8)
    by_count = log_probs_by_count(symbols(logits), max_count)
    counts = [float(part.exp().sum()) for part in by_count]
    np.testing.assert_allclose(counts, expected[: max_count + 1], rtol=1e-7, atol=1e-280)


@pytest.mark.parametrize(("num_columns", "blank"), [(20, 0.0), (42, 3.0), (100, 5.0)])
def test_log_probs_by_count_is_numpys_fft(num_columns, blank):
    max_count = min(num_columns, 30)
    logits = random_logits(num_columns)
    logits[:, 0] += blank
    probs = symbols(logits)[0].exp().numpy()
    num_counts, num_sums = num_columns + 1, 9 * num_columns + 1
    z = np.exp(-2j * np.pi * np.arange(num_counts) / num_counts)
    x = np.exp(-2j * np.pi * np.outer(np.arange(num_sums), np.arange(10)) / num_sums)
    transformed = np.ones((num_counts, num_sums), complex)
    for column in probs:
        transformed *= column[0] + z[:, None] * (x @ column[1:])
    expected = np.fft.ifft2(transformed).real[: max_count + 1, : 9 * max_count + 1]
    shown = padded(log_probs_by_count(symbols(logits), max_count))[0].exp().numpy()
    np.testing.assert_allclose(shown, expected, atol=1e-14)


def test_image_alone_and_in_a_batch():
    logits = random_logits(6, 30).float()
    logits[2] *= 5
    logits[3, :, 0] += 12
    together = padded(log_probs_by_count(symbols(logits), 8))
    for n, image in enumerate(logits):
        alone = padded(log_probs_by_count(symbols(image), 8))[0]
        torch.testing.assert_close(together[n], alone, rtol=1e-5, atol=1e-5)
    assert padded(log_probs_by_count(symbols(logits[:0]), 8)).shape == (0, 9, 73)


@settings(max_examples=40)
@given(few_columns(), st.data())
def test_sum_log_probs_of_a_range(logits, data):
    least = data.draw(st.integers(0, len(logits)))
    most = data.draw(st.integers(max(least, 1), len(logits)))
    by_count = log_probs_by_count(symbols(logits), len(logits))
    expected = enumerated(logits)[least : most + 1, : 9 * most + 1].sum(axis=0)
    log_probs = sum_log_probs(by_count, least, most)
    assert log_probs.shape == (1, 9 * most + 1)
    np.testing.assert_allclose(log_probs[0].exp().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("counts", [(1, 1), (3, 3), (0, 3), (1, 2), (2, 3), (9, 9)])
def test_gradients_are_derivatives(counts):
    def log_probs(logits: torch.Tensor) -> torch.Tensor:
        by_count = log_probs_by_count(logits.log_softmax(dim=2), counts[1])
        return sum_log_probs(by_count, *counts)[:, 30 if counts == (9, 9) else 0 : 50]

    logits = random_logits(1, counts[1] + 2).requires_grad_()
    assert torch.autograd.gradcheck(log_probs, (logits,), eps=1e-6, atol=1e-6)


def test_more_digits_than_columns():
    logits = random_logits(2, 3).float().requires_grad_()
    by_count = log_probs_by_count(logits.log_softmax(dim=2), 6)
    with pytest.raises(ValueError, match="max_count is 0"):
        log_probs_by_count(logits, 0)
    for count in (4, 5, 6):
        assert (by_count[count] == -torch.inf).all()
    assert sum(part.detach().exp().sum(dim=1) for part in by_count).allclose(torch.ones(2))
    for counts in ((0, 6), (3, 3), (4, 6), (6, 6)):
        log_probs = sum_log_probs(by_count, *counts)
        assert not log_probs.isnan().any()
        log_probs[:, 12].sum().backward(retain_graph=True)
    assert logits.grad.isfinite().all()


def test_20_digits_are_exact():
    logits = random_logits(1, 40)
    logits[:, :, 0] += 2
    expected = column_by_column(logits, 20)[0]
    for dtype, error in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        for count, part in enumerate(log_probs_by_count(symbols(logits.to(dtype)), 20)):
            assert part.dtype == dtype
            shown = part[0].double()
            torch.testing.assert_close(
                shown, expected[count, : 9 * count + 1], rtol=error / 10, atol=error
            )


def background(blank: float, noise: float = 0.5) -> torch.Tensor:
    """Logits (1, 200, 11) of columns that emit blank, with more or less noise."""
    logits = random_logits(1, NUM_COLUMNS, scale=noise)
    logits[:, :, 0] += blank
    return logits


def with_digits(logits: torch.Tensor, at_digit: float, at_others: float) -> torch.Tensor:
    """Let four columns show a digit."""
    for column, digit in PLACES.items():
        logits[:, column] = at_others
        logits[:, column, 1 + digit] = at_digit
    return logits


REGIMES = {
    "near blank": background(9),
    "nearer blank": background(25),
    "hardly anything but blanks": background(80),
    "half blank": background(2.3),
    "as untrained": background(4.5, 0.1),
    "no blanks": background(-5),
    "all columns confident digits": background(-15, 0.1),
    "noise": background(0, 6.0).clamp(-9, 9),
    "clear digits": with_digits(background(8), 8, -8),
    "confident digits": with_digits(background(10), 9.5, -9.5),
    "digits, and blanks beyond doubt": with_digits(background(60), 9.5, -9.5),
}
# Some sums are far off: 8 nines on a blank image have a log P of -200 to -700.
CELLS = [(4, 13), (3, 13), (8, 72), (1, 0), (5, 40)]


@pytest.fixture(scope="module")
def trained() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Log probabilities, (regimes, counts, sums), and gradients, (cells, regimes, columns, 11).

    By the module in float32, as in training, and column by column in float64.
    """
    results = []
    for dtype in (torch.float32, torch.float64):
        logits = torch.cat(list(REGIMES.values())).float().to(dtype).requires_grad_()
        if dtype == torch.float32:
            log_probs = padded(log_probs_by_count(logits.log_softmax(dim=2), 8))
        else:
            log_probs = column_by_column(logits, 8)
        assert log_probs.dtype == dtype
        gradients = [
            torch.autograd.grad(log_probs[:, count, s].sum(), logits, retain_graph=True)[0]
            for count, s in CELLS
        ]
        results.append((log_probs.detach().double(), torch.stack(gradients).double()))
    return results


@pytest.mark.parametrize("regime", range(len(REGIMES)), ids=list(REGIMES))
def test_training_is_exact(regime, trained):
    shown, expected = (log_probs[regime] for log_probs, _ in trained)
    is_possible = expected > NEVER / 2
    assert shown[is_possible].isfinite().all()
    # Sums of 200 log probabilities, in float32.
    torch.testing.assert_close(shown[is_possible], expected[is_possible], rtol=2e-6, atol=1e-4)
    assert (shown[~is_possible] == -torch.inf).all()
    gradients, expected = (gradients[:, regime] for _, gradients in trained)
    assert gradients.isfinite().all()
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5)


# Products of a few large odds are far from the final ones until many small odds enter, and vice
# versa.
# Products of a few large odds are far from the final ones until many small odds enter, and vice
# versa.
@pytest.mark.parametrize(
    ("dtype", "num_columns", "others", "max_count", "num_clear"),
    [
        *((torch.float32, 42, others, 8, n) for others in (-14, -20, -25, -60) for n in (1, 4, 8)),
        *((torch.float64, 100, -40, n, n // 2) for n in (8, 9, 20, 40, 64)),
    ],
)
@pytest.mark.parametrize("clear_first", [True, False])
def test_odds_stay_in_range(dtype, num_columns, others, max_count, num_clear, clear_first):
    logits = torch.full((1, num_columns, NUM_SYMBOLS), float(others), dtype=dtype)
    logits[:, :, 0] = 0
    logits[:, :num_clear, 4] = 19.5
    logits = logits if clear_first else logits.flip(1)
    shown = padded(log_probs_by_count(symbols(logits), max_count))
    assert not shown.isnan().any()
    assert (shown < torch.inf).all()
    assert float(shown[0, num_clear, 3 * num_clear].exp()) == pytest.approx(1, abs=2e-3)
    known = known_count_log_probs(symbols(logits.float()), max_count)  # more than are clear
    torch.testing.assert_close(known.exp().sum(), torch.tensor(1.0))


@pytest.mark.parametrize("logit", [11.0, 15.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sure_digits_have_their_probability(logit, dtype):
    logits = with_digits(background(2 * logit), logit, -logit)
    logits[:, list(PLACES), 0] = -logit
    shown = padded(log_probs_by_count(symbols(logits.to(dtype)), 8))
    expected = column_by_column(logits, 8)[0].exp()
    error = 1e-5 if dtype == torch.float32 else 1e-8
    assert float(sum_probs(symbols(logits.float()), 100)[0, 13]) == pytest.approx(1, abs=1e-3)
    assert float(count_probs(symbols(logits.float()), 8)[0, 4]) == pytest.approx(1, abs=1e-3)
    assert float(shown[0, 4, 13].exp()) == pytest.approx(float(expected[4, 13]), abs=error)
    assert float(shown.exp().sum()) == pytest.approx(1, abs=error)


def gradient_of(logits: torch.Tensor, count: int, digit_sum: int) -> torch.Tensor:
    logits = logits.float().requires_grad_()
    by_count = log_probs_by_count(logits.log_softmax(dim=2), 8)
    assert by_count[count][0, digit_sum].isfinite()
    return torch.autograd.grad(by_count[count][0, digit_sum], logits)[0][0]


@pytest.mark.parametrize("logit", [11.0, 15.0, 30.0])
def test_gradients_of_sure_digits(logit):
    logits = with_digits(background(2 * logit), logit, -logit)
    right, wrong = gradient_of(logits, 4, 13), gradient_of(logits, 4, 36)
    assert right.isfinite().all()
    assert right.abs().max() < 1e-6
    assert wrong.isfinite().all()
    assert wrong[20, 1 + 9] > 0.5
    assert wrong[20, 1 + 3] < -0.5


@settings(max_examples=40)
@given(few_columns())
def test_fourier_adds_up_emissions(logits):
    expected = enumerated(logits)
    for shown, probs in (
        (sum_probs(symbols(logits), 9 * len(logits)), expected.sum(axis=0)),
        (count_probs(symbols(logits), len(logits)), expected.sum(axis=1)),
    ):
        assert shown.shape == (1, len(probs))
        assert (shown >= 0).all()
        np.testing.assert_allclose(shown[0].numpy(), probs, atol=1e-14)


@pytest.mark.parametrize("max_count", [1, 2, 7, 8])
def test_fourier_agrees_with_convolution(max_count):
    # No more columns than are counted, an even and an odd number of them.
    assert sum_probs(symbols(random_logits(0, max_count)), 9).shape == (0, 10)
    logits = random_logits(5, max_count)
    by_count = log_probs_by_count(symbols(logits), max_count)
    sums = sum_log_probs(by_count, 0, max_count).exp()
    torch.testing.assert_close(
        sum_probs(symbols(logits), 9 * logits.shape[1]), sums, rtol=0, atol=1e-14
    )
    counts = torch.stack([part.exp().sum(dim=1) for part in by_count], dim=1)
    torch.testing.assert_close(
        count_probs(symbols(logits), logits.shape[1]), counts, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("num_columns", [1, 42, 201, 1024])
def test_fourier_has_the_precision_of_1(num_columns):
    logits = random_logits(3, num_columns)
    logits[0, :, 0] += 5
    logits[1, :, 0] += 40
    logits[2] *= 15
    probs = symbols(logits).exp().numpy()
    sum_polynomials = probs[:, :, 1:].copy()
    sum_polynomials[:, :, 0] += probs[:, :, 0]  # blank adds 0, as the digit 0 does
    count_polynomials = np.stack([probs[:, :, 0], 1 - probs[:, :, 0]], axis=2)
    for shown, polynomials in (
        (sum_probs(symbols(logits.float()), 9 * num_columns), sum_polynomials),
        (count_probs(symbols(logits.float()), num_columns), count_polynomials),
    ):
        expected = np.stack([functools.reduce(np.convolve, image) for image in polynomials])
        assert shown.dtype == torch.float32
        assert (shown >= 0).all()
        np.testing.assert_allclose(shown, expected, rtol=0, atol=3e-5)
        torch.testing.assert_close(shown.sum(dim=1), torch.ones(3), rtol=0, atol=3e-4)


@pytest.mark.parametrize("num_columns", [1, 2, 7, 65, 130])
def test_fourier_of_fewer_and_more_sums(num_columns):
    logits = random_logits(4, num_columns)
    whole = sum_probs(symbols(logits), 9 * num_columns)
    assert whole.shape == (4, 9 * num_columns + 1)
    torch.testing.assert_close(sum_probs(symbols(logits), 5), whole[:, :6], rtol=0, atol=1e-14)
    more = sum_probs(symbols(logits), 9 * num_columns + 30)
    torch.testing.assert_close(more[:, :-30], whole, rtol=0, atol=1e-14)
    assert (more[:, -30:] == 0).all()
