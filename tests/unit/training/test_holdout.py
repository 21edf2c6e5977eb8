import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.training.archives import held_out

ROWS = np.arange(50_000)
# Of the first 60 rows of shard-00000.parquet, a fifth, seed 0: a resumed run depends on them.
FIRST_HELD_OUT = [0, 1, 7, 11, 17, 24, 27, 32, 33, 36, 39, 43, 47, 50, 53, 54, 56, 59]
seeds = st.integers(0, 2**64)
shards = st.text(max_size=20)


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**70])
def test_about_the_fraction_of_the_rows_is_held_out(fraction, seed):
    for shard in ("shard-00000.parquet", "day=1/ä.parquet"):
        share = held_out(shard, ROWS, fraction, seed).mean()
        # Five standard deviations of a fair draw.
        assert abs(share - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / len(ROWS))


def test_the_held_out_rows_are_spread_over_the_shard():
    held = held_out("shard-00000.parquet", ROWS, 0.2, 0)
    for part in np.split(held, 50):
        assert abs(part.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 1000)
    together = (held[1:] & held[:-1]).mean()
    assert abs(together - 0.04) < 5 * np.sqrt(0.04 * 0.96 / len(ROWS))


@given(shards, seeds, st.integers(0, 2**40), st.integers(1, 500), st.data())
def test_how_rows_come_in_batches_makes_no_difference(shard, seed, first, num_rows, data):
    rows = first + np.arange(num_rows)
    whole = held_out(shard, rows, 0.3, seed)
    cut = data.draw(st.integers(0, num_rows))
    parts = [held_out(shard, part, 0.3, seed) for part in (rows[:cut], rows[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    backwards = held_out(shard, rows[::-1], 0.3, seed)
    np.testing.assert_array_equal(backwards[::-1], whole)
    assert whole.dtype == np.bool_
    assert whole.shape == rows.shape


@given(shards, seeds)
def test_a_larger_fraction_holds_out_the_same_rows_and_more(shard, seed):
    rows = np.arange(1000)
    fewer, more = (held_out(shard, rows, fraction, seed) for fraction in (0.2, 0.4))
    assert more[fewer].all()
    assert more.sum() > fewer.sum()


def test_the_same_rows_are_held_out_on_every_machine_and_in_every_version():
    held = np.flatnonzero(held_out("shard-00000.parquet", np.arange(60), 0.2, 0))
    assert held.tolist() == FIRST_HELD_OUT


def test_seeds_and_shards_hold_out_different_rows():
    base = held_out("a.parquet", ROWS, 0.5, 0)
    for shard, seed in (("a.parquet", 1), ("a.parquet", 12345), ("b.parquet", 0)):
        agreement = (held_out(shard, ROWS, 0.5, seed) == base).mean()
        assert abs(agreement - 0.5) < 5 * np.sqrt(0.25 / len(ROWS))


def test_the_split_of_a_seed_is_not_that_of_another_moved_by_a_few_rows():
    base = held_out("a.parquet", ROWS, 0.5, 0)
    for seed in (1, 2, 3):
        other = held_out("a.parquet", ROWS, 0.5, seed)
        for distance in (1, 2, 3):
            assert (other[:-distance] == base[distance:]).mean() < 0.6


def test_no_rows_give_no_rows():
    assert held_out("a.parquet", ROWS[:0], 0.2, 0).shape == (0,)
