import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.model.outputs import Predictions, Readings
from digitsum.model.prediction_stats import CONFIDENCE_EDGES, Distributions
from digitsum.scoring.drift import (
    LEAST_IMAGES,
    MAX_INDEX,
    MAX_P_VALUE,
    Shift,
    drift_sentence,
    find_shift,
    find_shifts,
)

counts = st.lists(st.integers(0, 400), min_size=1, max_size=40).map(tuple)


def predictions(sums, confidences, digits_of=None) -> Predictions:
    readings = None
    if digits_of is not None:
        probs = np.eye(9, dtype=np.float32)[list(digits_of)]
        nothing = np.zeros((len(sums), 0))
        readings = Readings(nothing.astype(np.int8), nothing.astype(np.int16), probs)
    return Predictions(np.array(sums, np.int16), np.array(confidences, np.float32), readings)


def test_predictions_are_counted_by_sum_confidence_and_number_of_digits():
    found = Distributions.of(predictions([3, 0, 3], [0.2, 0.5, 1.0], [4, 4, 2]))
    assert found.sums == (1, 0, 0, 2)
    assert found.confidences == (1, 1, *[0] * (len(CONFIDENCE_EDGES) - 2), 1)
    assert found.digit_counts == (0, 0, 1, 0, 2)
    assert found.num_images == 3


def test_a_model_that_does_not_count_digits_has_no_counts_of_them():
    assert Distributions.of(predictions([3], [0.5])).digit_counts == ()


def test_no_images_are_counted_as_none():
    none = Distributions.of(predictions([], [], []))
    assert (none + Distributions((1,), (1,), (1,))).num_images == 1
    assert none.num_images == 0


def test_rejected_rows_can_be_left_out():
    found = predictions([1, 2, 3], [0.1, 0.2, 0.3], [1, 2, 3])
    kept = found.without({1: "cannot be decoded"})
    assert Distributions.of(kept).sums == (0, 1, 0, 1)
    assert Distributions.of(kept).digit_counts == (0, 1, 0, 1)
    assert found.without({}) is found


@given(counts, counts, counts)
def test_counts_of_parts_add_up(one, two, three):
    a, b = Distributions(one, two, ()), Distributions(two, three, one)
    assert (a + b).num_images == a.num_images + b.num_images
    assert a + b == b + a
    assert Distributions.from_json((a + b).to_json()) == a + b


@pytest.mark.parametrize(
    "found", [None, 7, {}, {"sums": [1]}, {"sums": [1], "confidences": [-1], "digit_counts": []}]
)
def test_what_is_no_distribution_is_none(found):
    assert Distributions.from_json(found) is None


def test_the_index_is_that_of_its_formula():
    found, reference = (600, 400), (500, 500)
    expected = 0.1 * math.log(0.6 / 0.5) - 0.1 * math.log(0.4 / 0.5)
    assert find_shift("sums", found, reference).index == pytest.approx(expected, rel=0.01)


@given(counts)
def test_the_same_distribution_is_no_shift(found):
    shift = find_shift("sums", found, found)
    assert shift.index == pytest.approx(0, abs=1e-12)
    assert shift.p_value == pytest.approx(1)


@given(counts, counts)
def test_a_shift_has_an_index_and_a_probability_whatever_the_counts(found, reference):
    shift = find_shift("sums", found, reference)
    assert 0 <= shift.index < math.inf
    assert 0 <= shift.p_value <= 1


@given(st.integers(0, 10_000))
def test_samples_of_one_distribution_are_hardly_ever_drift(seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(rng.integers(2, 40), 1.0))
    found = rng.multinomial(rng.integers(LEAST_IMAGES, 3000), probs)
    reference = rng.multinomial(5000, probs)
    shift = find_shift("sums", tuple(found.tolist()), tuple(reference.tolist()))
    assert not (shift.index > MAX_INDEX and shift.p_value < MAX_P_VALUE / 100)


def test_a_trifle_in_many_images_and_a_chance_in_few_are_no_drift():
    many = find_shift("sums", (520_000, 480_000), (500_000, 500_000))
    few = find_shift("sums", (12, 18), (17, 13))
    assert many.p_value < MAX_P_VALUE
    assert many.index < MAX_INDEX
    assert not many.is_drift
    assert not few.is_drift


def test_large_and_certain_is_drift():
    shift = find_shift("confidences", (300, 700), (700, 300))
    assert shift.is_drift
    assert "the confidences have drifted" in shift.sentence()


def test_too_few_images_are_not_judged():
    reference = Distributions((5000,), (5000,), (5000,))
    few = Distributions((LEAST_IMAGES - 1,), (LEAST_IMAGES - 1,), ())
    assert find_shifts(few, reference) == ()
    assert "not judged" in drift_sentence(())


def test_a_quantity_that_one_side_lacks_is_left_out():
    reference = Distributions((5000,), (5000,), (5000,))
    found = Distributions((200,), (200,), ())
    assert [shift.quantity for shift in find_shifts(found, reference)] == ["sums", "confidences"]


def test_the_sentence_names_what_drifted_only_if_something_did():
    calm, wild = Shift("sums", 0.01, 0.5), Shift("digit_counts", 1.5, 1e-9)
    assert drift_sentence((calm, wild)).startswith("drift: the numbers of digits have drifted")
    assert "sums" not in drift_sentence((calm, wild))
    assert drift_sentence((calm,)).startswith("no drift: the predicted sums are as expected")
