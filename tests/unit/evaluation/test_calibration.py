import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.evaluation.calibration import CALIBRATION_BINS, Certainty

confidences = st.floats(0, 1, width=32)
images = st.lists(st.tuples(confidences, st.booleans()), max_size=60)
# Confidences whose log odds are whole twentieths of a nat: no two of them are too near.
graded = st.integers(-80, 80).map(lambda step: 1 / (1 + math.exp(-step / 20)))
graded_images = st.lists(st.tuples(graded, st.booleans()), min_size=1, max_size=60)


def certainty_of(rows: list[tuple[float, bool]]) -> Certainty:
    return Certainty.of(
        np.array([confidence for confidence, _ in rows], np.float32),
        np.array([right for _, right in rows], bool),
    )


def plain_calibration_error(rows: list[tuple[float, bool]]) -> float:
    bins = {}
    for confidence, right in rows:
        number = min(int(float(np.float32(confidence)) * CALIBRATION_BINS), CALIBRATION_BINS - 1)
        bins.setdefault(number, []).append((float(np.float32(confidence)), right))
    error = 0.0
    for rows_in_bin in bins.values():
        accuracy = sum(right for _, right in rows_in_bin) / len(rows_in_bin)
        confidence = sum(confidence for confidence, _ in rows_in_bin) / len(rows_in_bin)
        error += len(rows_in_bin) / len(rows) * abs(accuracy - confidence)
    return error


def plain_accuracy_at(rows: list[tuple[float, bool]], coverage: float) -> float:
    groups = {}
    for confidence, right in rows:
        groups.setdefault(confidence, []).append(right)
    wanted = left = coverage * len(rows)
    num_right = 0.0
    for confidence in sorted(groups, reverse=True):
        part = min(1.0, left / len(groups[confidence]))
        num_right += part * sum(groups[confidence])
        left -= part * len(groups[confidence])
    return num_right / wanted


@given(images)
def test_the_calibration_error_is_that_of_a_loop_over_the_bins(rows):
    error = certainty_of(rows).calibration_error
    if rows:
        assert error == pytest.approx(plain_calibration_error(rows), abs=1e-9)
    else:
        assert math.isnan(error)


@given(images)
def test_every_image_is_counted_once_in_bins_and_levels(rows):
    certainty = certainty_of(rows)
    right = sum(right for _, right in rows)
    assert certainty.bins[:, :2].sum(axis=0).tolist() == [len(rows), right]
    assert certainty.levels.sum(axis=0).tolist() == [len(rows), right]
    assert certainty.bins.dtype == np.float64
    assert certainty.levels.dtype == np.int64


def test_a_model_that_is_right_as_often_as_it_says_has_no_error():
    rows = [(0.75, True)] * 3 + [(0.75, False)] + [(0.25, True)] + [(0.25, False)] * 3
    assert certainty_of(rows).calibration_error == 0
    assert certainty_of([(1.0, True)] * 5 + [(0.0, False)] * 4).calibration_error == 0


def test_a_model_that_is_sure_and_always_wrong_has_the_greatest_error():
    assert certainty_of([(1.0, False)] * 7).calibration_error == 1
    assert certainty_of([(0.0, True)] * 7).calibration_error == 1


def test_errors_of_a_bin_cancel_and_those_of_two_bins_do_not():
    same_bin = [(0.50, True), (0.50, False)]
    assert certainty_of(same_bin).calibration_error == 0
    two_bins = [(0.25, True), (0.75, False)]
    assert certainty_of(two_bins).calibration_error == pytest.approx(0.75)


@given(images, st.integers(0, 60))
def test_the_counts_of_parts_add_up_to_those_of_the_whole(rows, cut):
    whole, parts = certainty_of(rows), certainty_of(rows[:cut]) + certainty_of(rows[cut:])
    np.testing.assert_allclose(parts.bins, whole.bins, rtol=1e-12)
    np.testing.assert_array_equal(parts.levels, whole.levels)
    assert parts.calibration_error == pytest.approx(whole.calibration_error, nan_ok=True)
    assert parts.accuracy_at(0.5) == pytest.approx(whole.accuracy_at(0.5), nan_ok=True)


@given(images)
def test_adding_no_images_changes_nothing(rows):
    certainty = certainty_of(rows)
    for same in (certainty + Certainty.empty(), Certainty.empty() + certainty):
        np.testing.assert_array_equal(same.bins, certainty.bins)
        np.testing.assert_array_equal(same.levels, certainty.levels)


def test_the_most_confident_images_come_first():
    rows = [(0.6, False)] * 5 + [(0.99, True)] * 3 + [(0.9, False)] * 2
    certainty = certainty_of(rows)
    assert certainty.accuracy_at(0.1) == pytest.approx(1)
    assert certainty.accuracy_at(0.3) == pytest.approx(1)
    assert certainty.accuracy_at(0.5) == pytest.approx(3 / 5)
    assert certainty.accuracy_at(0.8) == pytest.approx(3 / 8)
    assert certainty.accuracy_at(1.0) == pytest.approx(3 / 10)


def test_images_of_equal_confidence_count_in_proportion():
    certainty = certainty_of([(0.9, True), (0.8, True), (0.8, False), (0.8, False), (0.8, False)])
    assert certainty.accuracy_at(0.2) == pytest.approx(1)
    # The first image, and 1.5 of four of which one is right.
    assert certainty.accuracy_at(0.5) == pytest.approx((1 + 1.5 / 4) / 2.5)
    assert certainty_of([(0.5, True), (0.5, False)]).accuracy_at(0.01) == pytest.approx(0.5)


@given(graded_images, st.floats(0.01, 1))
def test_the_accuracy_at_a_coverage_is_that_of_a_loop_from_the_most_confident(rows, coverage):
    expected = plain_accuracy_at(rows, coverage)
    assert certainty_of(rows).accuracy_at(coverage) == pytest.approx(expected)


@given(images.filter(bool))
def test_all_images_have_the_accuracy_of_all(rows):
    accuracy = sum(right for _, right in rows) / len(rows)
    assert certainty_of(rows).accuracy_at(1.0) == pytest.approx(accuracy)


def test_no_images_have_no_figures():
    for certainty in (Certainty.empty(), certainty_of([])):
        assert math.isnan(certainty.calibration_error)
        assert math.isnan(certainty.accuracy_at(0.5))
        assert math.isnan(certainty.accuracy_at(1.0))
        coverages, accuracies = certainty.curve()
        assert len(coverages) == len(accuracies) == 0


def test_no_part_of_the_images_has_no_accuracy():
    assert math.isnan(certainty_of([(0.5, True)]).accuracy_at(0))


def test_confidences_of_exactly_0_and_1_are_the_least_and_the_greatest():
    certainty = certainty_of([(0.0, False), (1.0, True), (0.5, False), (0.999, False)])
    assert certainty.accuracy_at(0.25) == pytest.approx(1)
    assert certainty.accuracy_at(0.75) == pytest.approx(1 / 3)
    assert certainty.levels[0].tolist() == [1, 0]
    assert certainty.levels[-1].tolist() == [1, 1]
    assert certainty.bins[0].tolist() == [1, 0, 0]
    assert certainty.bins[-1, 0] == 2


@pytest.mark.parametrize("confidence", [-1e-7, 1 + 1e-6, 2.0])
def test_what_rounding_makes_of_0_and_1_is_taken_for_them(confidence):
    expected = certainty_of([(min(max(confidence, 0.0), 1.0), True)])
    certainty = certainty_of([(confidence, True)])
    np.testing.assert_array_equal(certainty.bins, expected.bins)
    np.testing.assert_array_equal(certainty.levels, expected.levels)


def test_confidences_near_1_are_told_apart():
    rows = [(1 - 1e-6, True), (1 - 1e-5, False), (1 - 1e-4, True), (1 - 1e-3, False)]
    certainty = certainty_of(rows)
    accuracies = [certainty.accuracy_at(coverage) for coverage in (0.25, 0.5, 0.75, 1)]
    assert accuracies == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])


@given(graded_images)
def test_the_curve_rises_to_all_images_and_holds_the_accuracy_at_each_coverage(rows):
    certainty = certainty_of(rows)
    coverages, accuracies = certainty.curve()
    assert (np.diff(coverages) >= 0).all()
    assert coverages[0] > 0
    assert coverages[-1] == 1
    assert set(np.rint(coverages * len(rows))) == {
        float(sum(other >= confidence for other, _ in rows)) for confidence, _ in rows
    }
    for coverage, accuracy in zip(coverages[::100], accuracies[::100], strict=True):
        assert certainty.accuracy_at(coverage) == pytest.approx(accuracy)
    assert accuracies[-1] == pytest.approx(certainty.accuracy_at(1.0))
