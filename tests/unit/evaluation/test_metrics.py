import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.archive.reader import Rows
from digitsum.evaluation.examples import NUM_EXAMPLES
from digitsum.evaluation.metrics import Evaluation, EvaluationTotals, wilson_interval
from digitsum.model.outputs import Predictions, Readings

NUM_CLASSES = 37


def rows_of(true, *, errors=(), digits=None, first=0) -> Rows:
    ids = pa.array([f"image-{first + row:03d}" for row in range(len(true))], pa.string())
    pixels = np.full((len(true), 2, 3), 9, np.uint8)
    reasons = dict.fromkeys(errors, "image is null")
    return Rows(first, ids, pixels, reasons, np.array(true, np.int64), digits)


def predictions_of(sums, *, confidences=None, read=None) -> Predictions:
    readings = None
    if read is not None:
        digits = np.full((len(read), 5), -1, np.int8)
        for row, values in enumerate(read):
            digits[row, : len(values)] = values
        places = np.where(digits >= 0, 10, -1).astype(np.int16)
        readings = Readings(digits, places, np.full((len(read), 6), 1 / 6, np.float32))
    return Predictions(
        np.array(sums, np.int16),
        np.array([0.5] * len(sums) if confidences is None else confidences, np.float32),
        readings,
    )


def counted(rows: Rows, predictions: Predictions) -> EvaluationTotals:
    totals = EvaluationTotals(NUM_CLASSES)
    totals.count(rows, predictions)
    return totals


def strings(totals: EvaluationTotals) -> tuple[int, int]:
    evaluation = totals.evaluation()
    return evaluation.num_strings, evaluation.num_strings_right


def test_nothing_counted_is_an_evaluation_of_no_images():
    evaluation = EvaluationTotals(NUM_CLASSES).evaluation()
    assert evaluation.num_images == evaluation.num_strings == 0
    assert math.isnan(evaluation.accuracy)


def test_hits_misses_and_confidences_are_counted():
    totals = counted(
        rows_of([3, 4, 5, 6]), predictions_of([3, 4, 6, 9], confidences=[0.9, 0.8, 0.7, 0.6])
    )
    evaluation = totals.evaluation()
    assert evaluation.accuracy == 0.5
    assert evaluation.accuracy_within_1 == 0.75
    assert evaluation.certainty.accuracy_at(0.5) == pytest.approx(1)
    assert [example.image_id for example in totals.hits] == ["image-000", "image-001"]
    assert [example.image_id for example in totals.worst_misses] == ["image-002", "image-003"]


def test_rejected_rows_are_neither_hits_nor_misses_nor_counted_as_confident():
    # The rejected rows' predictions, of no image, happen to be right, and wrong.
    totals = counted(
        rows_of([3, 4, 5, 6], errors=[0, 2]),
        predictions_of([3, 4, 9, 9], confidences=[1, 0.5, 1, 0.5]),
    )
    evaluation = totals.evaluation()
    assert evaluation.num_rejected == 2
    assert evaluation.num_images == 4
    assert evaluation.accuracy == 0.25
    assert int(evaluation.confusion.sum()) == 2
    assert evaluation.confusion[4, 4] == evaluation.confusion[6, 9] == 1
    assert evaluation.certainty.levels.sum(axis=0).tolist() == [2, 1]
    assert [example.image_id for example in totals.hits] == ["image-001"]
    assert [example.image_id for example in totals.worst_misses] == ["image-003"]


def test_where_all_rows_are_rejected_nothing_else_is_counted():
    totals = counted(
        rows_of([3, 4], errors=[0, 1], digits=[[3], [4]]),
        predictions_of([3, 4], read=[[3], [4]]),
    )
    evaluation = totals.evaluation()
    assert evaluation.num_images == evaluation.num_rejected == 2
    assert evaluation.accuracy == 0
    assert strings(totals) == (0, 0)
    assert totals.hits == totals.worst_misses == []


def test_digits_are_right_where_all_are_right_and_in_order():
    true = [[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3], [0, 0], [0, 0], [], [7]]
    read = [[1, 2, 3], [3, 2, 1], [1, 5], [1, 2, 3, 0], [0, 0], [0], [], [6]]
    totals = counted(
        rows_of([sum(digits) for digits in true], digits=true),
        predictions_of([sum(digits) for digits in read], read=read),
    )
    assert strings(totals) == (8, 3)
    assert totals.evaluation().digits_accuracy == pytest.approx(3 / 8)
    assert totals.evaluation().accuracy == pytest.approx(7 / 8)


def test_digits_of_rejected_rows_are_not_compared():
    totals = counted(
        rows_of([3, 4, 5], errors=[0, 2], digits=[[3], [4], [5]]),
        predictions_of([3, 4, 5], read=[[3], [4], [9]]),
    )
    assert strings(totals) == (1, 1)


@pytest.mark.parametrize(
    ("true", "read"), [(None, [[3], [4]]), ([[3], [4]], None), (None, None)], ids=str
)
def test_without_true_digits_or_without_digits_read_there_are_none_to_compare(true, read):
    totals = counted(rows_of([3, 4], digits=true), predictions_of([3, 4], read=read))
    assert strings(totals) == (0, 0)
    assert math.isnan(totals.evaluation().digits_accuracy)
    assert totals.evaluation().accuracy == 1


def test_images_whose_digits_are_null_are_not_among_those_of_known_digits():
    totals = counted(
        rows_of([3, 4, 5], digits=[[3], None, [5]]),
        predictions_of([3, 4, 5], read=[[3], [4], [5]]),
    )
    assert strings(totals) == (2, 2)


def test_only_shards_with_true_digits_are_compared_by_digits():
    totals = counted(rows_of([3, 4], digits=[[3], [4]]), predictions_of([3, 4], read=[[3], [4]]))
    totals.add(counted(rows_of([5], first=2), predictions_of([5], read=[[5]])))
    assert strings(totals) == (2, 2)
    assert totals.evaluation().num_images == 3


images = st.lists(
    st.tuples(
        st.lists(st.integers(0, 9), max_size=3),  # true digits
        st.lists(st.integers(0, 9), max_size=3),  # digits read
        st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        st.booleans(),  # rejected
    ),
    max_size=40,
)


def counted_images(made: list, first: int = 0) -> EvaluationTotals:
    true, read = [row[0] for row in made], [row[1] for row in made]
    errors = [number for number, row in enumerate(made) if row[3]]
    return counted(
        rows_of([sum(digits) for digits in true], errors=errors, digits=true, first=first),
        predictions_of(
            [sum(digits) for digits in read], confidences=[row[2] for row in made], read=read
        ),
    )


def all_of(totals: EvaluationTotals) -> tuple:
    evaluation = totals.evaluation()
    return (
        evaluation.confusion.tolist(),
        evaluation.num_rejected,
        strings(totals),
        evaluation.certainty.levels.tolist(),
        [example.image_id for example in totals.hits],
        [(example.image_id, example.confidence) for example in totals.worst_misses],
    )


@settings(max_examples=50)
@given(images, st.integers(0, 40))
def test_adding_two_counts_is_counting_both(made, cut):
    whole = counted_images(made)
    one, other = counted_images(made[:cut]), counted_images(made[cut:], first=len(made[:cut]))
    together = EvaluationTotals(NUM_CLASSES)
    for part in (other, one):
        together.add(part)
    assert all_of(together) == all_of(whole)
    one.add(other)
    assert all_of(one) == all_of(whole)
    np.testing.assert_allclose(
        one.evaluation().certainty.bins, whole.evaluation().certainty.bins, rtol=1e-12
    )


@settings(max_examples=50)
@given(images)
def test_figures_are_those_of_a_loop_over_the_images(made):
    totals = counted_images(made)
    scored = [row for row in made if not row[3]]
    right = [sum(true) == sum(read) for true, read, _, _ in scored]
    evaluation = totals.evaluation()
    assert evaluation.num_images == len(made)
    assert evaluation.num_rejected == len(made) - len(scored)
    if made:
        assert evaluation.accuracy == pytest.approx(sum(right) / len(made))
    assert strings(totals) == (len(scored), sum(true == read for true, read, _, _ in scored))
    assert len(totals.hits) == min(sum(right), NUM_EXAMPLES)
    assert len(totals.worst_misses) == min(len(scored) - sum(right), NUM_EXAMPLES)


@pytest.mark.parametrize(
    ("right", "num", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (1, 1, 0.2065, 1.0),
        (9500, 10_000, 0.9456, 0.9541),
    ],
)
def test_intervals_are_wilsons(right, num, low, high):
    assert wilson_interval(right, num) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**7), st.data())
def test_an_interval_lies_within_0_and_1_and_about_the_fraction(num, data):
    right = data.draw(st.one_of(st.integers(0, num), st.sampled_from([0, num])))
    low, high = wilson_interval(right, num)
    assert 0 <= low < high <= 1
    assert low <= right / num + 1e-12
    assert high >= right / num - 1e-12


@given(st.integers(1, 1000), st.data())
def test_the_interval_of_the_wrong_ones_is_the_mirrored_one(num, data):
    right = data.draw(st.integers(0, num))
    low, high = wilson_interval(right, num)
    assert wilson_interval(num - right, num) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_more_images_make_the_interval_narrower_and_none_make_none():
    widths = [high - low for low, high in (wilson_interval(n // 2, n) for n in (2, 20, 200, 2000))]
    assert widths == sorted(widths, reverse=True)
    assert all(math.isnan(value) for value in wilson_interval(0, 0))


def figures_of(evaluation: Evaluation) -> dict:
    return json.loads(json.dumps(evaluation.to_json(), allow_nan=False))


def test_the_figures_are_what_json_holds():
    totals = counted(
        rows_of([1, 2, 3, 4, 5], errors=[4], digits=[[1], [2], [3], [4], [5]]),
        predictions_of(
            [1, 2, 3, 9, 5], confidences=[0.875] * 4 + [1], read=[[1], [2], [3], [9], [5]]
        ),
    )
    low, high = wilson_interval(3, 5)
    assert figures_of(totals.evaluation()) == {
        "accuracy": 0.6,
        "accuracy_low": pytest.approx(low),
        "accuracy_high": pytest.approx(high),
        "images": 5,
        "mean_absolute_error": 1.25,
        "accuracy_within_1": 0.6,
        "rejected": 1,
        "calibration_error": pytest.approx(0.125),
        "digits_accuracy": 0.75,
        "accuracy_at_50": pytest.approx(0.75),
        "accuracy_at_80": pytest.approx(0.75),
        "accuracy_at_90": pytest.approx(0.75),
        "accuracy_at_95": pytest.approx(0.75),
        "accuracy_at_99": pytest.approx(0.75),
    }


def test_figures_that_do_not_exist_are_null():
    figures = figures_of(EvaluationTotals(NUM_CLASSES).evaluation())
    assert figures.pop("images") == 0
    assert figures.pop("rejected") == 0
    assert set(figures.values()) == {None}


def test_where_all_are_rejected_only_the_figures_of_scored_images_are_null():
    figures = figures_of(counted(rows_of([3], errors=[0]), predictions_of([3])).evaluation())
    assert figures["accuracy"] == figures["accuracy_within_1"] == 0
    assert figures["accuracy_high"] > 0.5
    for name in ("mean_absolute_error", "calibration_error", "digits_accuracy", "accuracy_at_50"):
        assert figures[name] is None
