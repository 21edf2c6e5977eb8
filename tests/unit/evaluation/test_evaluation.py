import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.evaluation.calibration import Certainty
from digitsum.evaluation.metrics import Evaluation, count_pairs

NUM_CLASSES = 10
sums = st.integers(0, NUM_CLASSES - 1)
pairs = st.lists(st.tuples(sums, sums), max_size=60)


def confusion_of(values: list[tuple[int, int]]) -> np.ndarray:
    true = np.array([pair[0] for pair in values], np.int64)
    predicted = np.array([pair[1] for pair in values], np.int64)
    return count_pairs(true, predicted, NUM_CLASSES)


@given(pairs)
def test_the_confusion_matrix_counts_every_pair_under_its_sums(values):
    expected = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for true, predicted in values:
        expected[true, predicted] += 1
    confusion = confusion_of(values)
    np.testing.assert_array_equal(confusion, expected)
    assert confusion.dtype == np.int64


@given(pairs, st.integers(0, 5))
def test_figures_are_those_of_a_loop_over_the_images_with_rejected_ones_wrong(values, rejected):
    evaluation = Evaluation(confusion_of(values), rejected)
    num_images = len(values) + rejected
    assert evaluation.num_images == num_images
    if num_images:
        right = [true == predicted for true, predicted in values] + [False] * rejected
        near = [abs(true - predicted) <= 1 for true, predicted in values] + [False] * rejected
        assert evaluation.accuracy == pytest.approx(sum(right) / num_images)
        assert evaluation.accuracy_within_1 == pytest.approx(sum(near) / num_images)
    if values:
        errors = [abs(true - predicted) for true, predicted in values]
        assert evaluation.mean_absolute_error == pytest.approx(sum(errors) / len(errors))


@given(st.lists(pairs, max_size=4), st.permutations(range(4)))
def test_the_matrices_of_parts_add_up_to_that_of_the_whole_in_any_order(parts, order):
    shuffled = [parts[index] for index in order if index < len(parts)]
    total = sum((confusion_of(part) for part in shuffled), np.zeros((NUM_CLASSES,) * 2, np.int64))
    np.testing.assert_array_equal(total, confusion_of([pair for part in parts for pair in part]))


def test_nothing_evaluated_has_no_accuracy():
    evaluation = Evaluation(np.zeros((19, 19), np.int64), 0)
    assert evaluation.num_images == 0
    assert math.isnan(evaluation.accuracy)
    assert math.isnan(evaluation.accuracy_within_1)
    assert math.isnan(evaluation.mean_absolute_error)


def test_where_all_images_are_rejected_none_is_right():
    evaluation = Evaluation(np.zeros((19, 19), np.int64), 4)
    assert evaluation.num_images == 4
    assert evaluation.accuracy == 0
    assert evaluation.accuracy_within_1 == 0


def test_the_figures_are_what_json_holds():
    confidences, right = np.array([0.7, 0.5, 0.05], np.float32), np.array([True, False, False])
    evaluation = Evaluation(
        confusion_of([(3, 3), (3, 4), (9, 5)]),
        num_rejected=1,
        certainty=Certainty.of(confidences, right),
        num_strings=4,
        num_strings_right=3,
    )
    assert json.loads(json.dumps(evaluation.to_json(), allow_nan=False)) == {
        "accuracy": 0.25,
        "accuracy_low": pytest.approx(0.0456, abs=1e-4),
        "accuracy_high": pytest.approx(0.6994, abs=1e-4),
        "images": 4,
        "mean_absolute_error": pytest.approx(5 / 3),
        "accuracy_within_1": 0.5,
        "rejected": 1,
        "calibration_error": pytest.approx((0.3 + 0.5 + 0.05) / 3),
        "digits_accuracy": 0.75,
        "accuracy_at_50": pytest.approx(1 / 1.5),
        "accuracy_at_80": pytest.approx(1 / 2.4),
        "accuracy_at_90": pytest.approx(1 / 2.7),
        "accuracy_at_95": pytest.approx(1 / 2.85),
        "accuracy_at_99": pytest.approx(1 / 2.97),
    }


@pytest.mark.parametrize("rejected", [0, 4])
def test_figures_that_do_not_exist_are_still_json(rejected):
    evaluation = Evaluation(np.zeros((19, 19), np.int64), rejected)
    figures = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert figures["images"] == figures["rejected"] == rejected
    for name in ("mean_absolute_error", "calibration_error", "digits_accuracy", "accuracy_at_80"):
        assert figures[name] is None
