import numpy as np
import pytest
from flatness import FEWEST_ROUNDS, WARM_UP_ROUNDS, Verdict, judge


def noisy(slope, num_rounds, noise=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return 300 + slope * np.arange(num_rounds) + rng.normal(0, noise, num_rounds)


def with_outliers(slope, change):
    values = noisy(slope, 60)
    values[[20, 40, 55, 59]] += change
    return values


@pytest.mark.parametrize("num_rounds", [12, 40, 400])
def test_judge_leak_and_noise(num_rounds):
    for seed in range(20):
        assert judge(noisy(3.0, num_rounds, seed=seed), 0.5).verdict is Verdict.GROWS
        assert judge(noisy(0.0, num_rounds, seed=seed), 0.5).verdict is Verdict.FLAT
        assert judge(noisy(0.4, num_rounds, seed=seed), 0.5).verdict is Verdict.FLAT


def test_judge_slow_leak_needs_rounds():
    assert judge(noisy(0.7, 12), 0.5).verdict is Verdict.FLAT
    assert judge(noisy(0.7, 12), 0.5).high > 0.7
    assert judge(noisy(0.7, 200), 0.5).verdict is Verdict.GROWS


@pytest.mark.parametrize(
    ("values", "tolerance", "verdict"),
    [
        ([40 + n // 3 for n in range(60)], 0.2, Verdict.GROWS),  # a file every third round
        ([100, 300, 400, *[450] * 9], 0.5, Verdict.FLAT),  # filled up in the first rounds
        ([300 * (1 - 0.5**n) for n in range(60)], 0.5, Verdict.FLAT),
        (with_outliers(0.0, 500), 0.5, Verdict.FLAT),
        (with_outliers(2.0, -500), 0.5, Verdict.GROWS),
        (noisy(-3.0, 60), 0.5, Verdict.FLAT),
        ([0.0] * 20, 0.0, Verdict.FLAT),
        ([*range(20)], 0.0, Verdict.GROWS),
    ],
    ids=["third", "filled", "filling", "outliers", "grows-outliers", "shrinks", "zero", "any"],
)
def test_judge_values(values, tolerance, verdict):
    assert judge(values, tolerance).verdict is verdict


def test_judge_too_few_rounds():
    enough = WARM_UP_ROUNDS + FEWEST_ROUNDS
    for num_rounds in range(enough):
        judged = judge([50.0 * n for n in range(num_rounds)], 0.5)
        assert judged.verdict is Verdict.UNKNOWN, num_rounds
    assert judge([50.0 * n for n in range(enough)], 0.5).verdict is Verdict.GROWS
