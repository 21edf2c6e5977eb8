import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.evaluation.calibration import CALIBRATION_BINS, ConfidenceCounts

Images = list[tuple[float, bool]]
images = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), max_size=60)
# Confidences whose log odds are whole twentieths of a nat: no two of them share a level.
graded = st.integers(-80, 80).map(lambda step: 1 / (1 + math.exp(-step / 20)))
graded_images = st.lists(st.tuples(graded, st.booleans()), min_size=1, max_size=60)


def counts_of(rows: Images) -> ConfidenceCounts:
    confidences, is_right = [row[0] for row in rows], [row[1] for row in rows]
    return ConfidenceCounts.of(np.array(confidences, np.float32), np.array(is_right, bool))


def assert_equal(one: ConfidenceCounts, other: ConfidenceCounts) -> None:
    np.testing.assert_allclose(one.bins, other.bins, rtol=1e-12)
    np.testing.assert_array_equal(one.levels, other.levels)


def plain_calibration_error(rows: Images) -> float:
    bins = {}
    for confidence, is_right in rows:
        number = min(int(float(np.float32(confidence)) * CALIBRATION_BINS), CALIBRATION_BINS - 1)
        bins.setdefault(number, []).append((float(np.float32(confidence)), is_right))
    gaps = [sum(right - confidence for confidence, right in rows) for rows in bins.values()]
    return sum(map(abs, gaps)) / len(rows) if rows else math.nan


def plain_accuracy_at(rows: Images, coverage: float) -> float:
    groups = {}
    for confidence, is_right in rows:
        groups.setdefault(confidence, []).append(is_right)
    wanted = left = coverage * len(rows)
    num_right = 0.0
    for confidence in sorted(groups, reverse=True):
        part = min(1.0, left / len(groups[confidence]))
        num_right += part * sum(groups[confidence])
        left -= part * len(groups[confidence])
    return num_right / wanted


@given(images)
def test_calibration_error_random(rows):
    expected = pytest.approx(plain_calibration_error(rows), abs=1e-9, nan_ok=True)
    assert counts_of(rows).calibration_error == expected


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([(0.75, True)] * 3 + [(0.75, False)] + [(0.25, True)] + [(0.25, False)] * 3, 0),
        ([(1.0, True)] * 5 + [(0.0, False)] * 4, 0),
        ([(1.0, False)] * 7, 1),
        ([(0.0, True)] * 7, 1),
        ([(0.50, True), (0.50, False)], 0),  # errors of one bin cancel
        ([(0.25, True), (0.75, False)], 0.75),  # and those of two do not
    ],
)
def test_calibration_error_known(rows, error):
    assert counts_of(rows).calibration_error == pytest.approx(error)


@given(images)
def test_counts_every_image_once(rows):
    counts = counts_of(rows)
    num_right = sum(is_right for _, is_right in rows)
    assert counts.bins[:, :2].sum(axis=0).tolist() == [len(rows), num_right]
    assert counts.levels.sum(axis=0).tolist() == [len(rows), num_right]
    assert (counts.bins.dtype, counts.levels.dtype) == (np.float64, np.int64)


@given(images, st.integers(0, 60))
def test_counts_add_up(rows, cut):
    whole = counts_of(rows)
    assert_equal(counts_of(rows[:cut]) + counts_of(rows[cut:]), whole)
    assert_equal(whole + ConfidenceCounts.empty(), whole)
    assert_equal(ConfidenceCounts.empty() + whole, whole)


@pytest.mark.parametrize(
    ("rows", "accuracies"),
    [
        (
            [(0.6, False)] * 5 + [(0.99, True)] * 3 + [(0.9, False)] * 2,
            {0.1: 1, 0.3: 1, 0.5: 3 / 5, 0.8: 3 / 8, 1.0: 3 / 10},
        ),
        (  # at 0.5 the first image, and 1.5 of four of which one is right
            [(0.9, True), (0.8, True), (0.8, False), (0.8, False), (0.8, False)],
            {0.2: 1, 0.5: (1 + 1.5 / 4) / 2.5},
        ),
        ([(0.5, True), (0.5, False)], {0.01: 0.5}),
        (
            [(1 - 1e-6, True), (1 - 1e-5, False), (1 - 1e-4, True), (1 - 1e-3, False)],
            {0.25: 1, 0.5: 1 / 2, 0.75: 2 / 3, 1: 1 / 2},
        ),
        ([(0.0, False), (1.0, True), (0.5, False), (0.999, False)], {0.25: 1, 0.75: 1 / 3}),
    ],
    ids=["most confident first", "equal, in proportion", "less than one", "near 1", "0 and 1"],
)
def test_accuracy_at_known(rows, accuracies):
    counts = counts_of(rows)
    assert {part: counts.accuracy_at(part) for part in accuracies} == pytest.approx(accuracies)


@given(graded_images, st.floats(0.01, 1))
def test_accuracy_at_random(rows, coverage):
    counts = counts_of(rows)
    assert counts.accuracy_at(coverage) == pytest.approx(plain_accuracy_at(rows, coverage))
    accuracy = sum(is_right for _, is_right in rows) / len(rows)
    assert counts.accuracy_at(1.0) == pytest.approx(accuracy)


def test_figures_without_images():
    counts = counts_of([])
    assert_equal(counts, ConfidenceCounts.empty())
    assert math.isnan(counts.calibration_error)
    assert math.isnan(counts.accuracy_at(0.5))
    assert math.isnan(counts.accuracy_at(1.0))
    assert math.isnan(counts_of([(0.5, True)]).accuracy_at(0))
    assert [len(values) for values in counts.curve()] == [0, 0]


def test_confidences_0_and_1():
    counts = counts_of([(0.0, False), (1.0, True), (0.5, False), (0.999, False)])
    assert counts.levels[0].tolist() == [1, 0]
    assert counts.levels[-1].tolist() == [1, 1]
    assert counts.bins[0].tolist() == [1, 0, 0]
    assert counts.bins[-1, 0] == 2


@pytest.mark.parametrize("confidence", [-1e-7, 1 + 1e-6, 2.0])
def test_confidences_beyond_0_and_1_clipped(confidence):
    clipped = min(max(confidence, 0.0), 1.0)
    assert_equal(counts_of([(confidence, True)]), counts_of([(clipped, True)]))


@given(graded_images)
def test_curve_random(rows):
    counts = counts_of(rows)
    coverages, accuracies = counts.curve()
    assert (np.diff(coverages) >= 0).all()
    assert coverages[0] > 0
    assert coverages[-1] == 1
    assert set(np.rint(coverages * len(rows))) == {
        float(sum(other >= confidence for other, _ in rows)) for confidence, _ in rows
    }
    for coverage, accuracy in [*zip(coverages[::100], accuracies[::100], strict=True)]:
        assert counts.accuracy_at(coverage) == pytest.approx(accuracy)
    assert accuracies[-1] == pytest.approx(counts.accuracy_at(1.0))
