"""The judge of flatness, on figures whose slope is known."""

import numpy as np
import pytest
from flatness import FEWEST_ROUNDS, WARM_UP_ROUNDS, Verdict, judge


def noisy(slope, num_rounds, noise=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return 300 + slope * np.arange(num_rounds) + rng.normal(0, noise, num_rounds)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_rounds", [12, 40, 400])
def test_a_leak_grows_and_noise_does_not(seed, num_rounds):
    assert judge(noisy(3.0, num_rounds, seed=seed), 0.5).verdict is Verdict.GROWS
    assert judge(noisy(0.0, num_rounds, seed=seed), 0.5).verdict is Verdict.FLAT
    assert judge(noisy(0.4, num_rounds, seed=seed), 0.5).verdict is Verdict.FLAT


def test_of_many_rounds_a_leak_is_seen_that_few_do_not_show():
    assert judge(noisy(0.7, 12), 0.5).verdict is Verdict.FLAT
    assert judge(noisy(0.7, 12), 0.5).high > 0.7
    assert judge(noisy(0.7, 200), 0.5).verdict is Verdict.GROWS


def test_a_file_that_every_third_round_leaves_open_is_seen():
    assert judge([40 + n // 3 for n in range(60)], 0.2).verdict is Verdict.GROWS


def test_what_fills_up_in_the_first_rounds_is_no_leak():
    assert judge([100, 300, 400, *[450] * 9], 0.5).verdict is Verdict.FLAT
    filling = [300 * (1 - 0.5**n) for n in range(60)]
    assert judge(filling, 0.5).verdict is Verdict.FLAT


def test_rounds_that_stand_out_do_not_count():
    values = noisy(0.0, 60)
    values[[20, 40, 55, 59]] += 500
    assert judge(values, 0.5).verdict is Verdict.FLAT
    values = noisy(2.0, 60)
    values[[20, 40, 55, 59]] -= 500
    assert judge(values, 0.5).verdict is Verdict.GROWS


def test_what_shrinks_is_flat():
    assert judge(noisy(-3.0, 60), 0.5).verdict is Verdict.FLAT


def test_nothing_at_all_is_flat_and_anything_grows_where_nothing_may():
    assert judge([0.0] * 20, 0.0).verdict is Verdict.FLAT
    assert judge([*range(20)], 0.0).verdict is Verdict.GROWS


def test_too_few_rounds_are_not_judged():
    enough = WARM_UP_ROUNDS + FEWEST_ROUNDS
    for num_rounds in range(enough):
        judged = judge([50.0 * n for n in range(num_rounds)], 0.5)
        assert judged.verdict is Verdict.UNKNOWN, num_rounds
    assert judge([50.0 * n for n in range(enough)], 0.5).verdict is Verdict.GROWS
