import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.archive.reader import Rows
from digitsum.evaluation.examples import NUM_EXAMPLES, Examples
from digitsum.evaluation.metrics import SumMetrics, count_pairs
from digitsum.model.outputs import DigitReadings, Predictions

NUM_CLASSES = 37
sums = st.integers(0, NUM_CLASSES - 1)
pairs = st.lists(st.tuples(sums, sums), max_size=60)


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
        readings = DigitReadings(digits, places, np.full((len(read), 6), 1 / 6, np.float32))
    confidences = [0.5] * len(sums) if confidences is None else confidences
    return Predictions(np.array(sums, np.int16), np.array(confidences, np.float32), readings)


def metrics_of(rows: Rows, predictions: Predictions) -> SumMetrics:
    return SumMetrics.of(rows, predictions, NUM_CLASSES)


def confusion_of(values: list[tuple[int, int]]) -> np.ndarray:
    true = np.array([pair[0] for pair in values], np.int64)
    predicted = np.array([pair[1] for pair in values], np.int64)
    return count_pairs(true, predicted, NUM_CLASSES)


def digits_of(metrics: SumMetrics) -> tuple[int, int]:
    return metrics.num_with_digits, metrics.num_digits_right


def in_json(figures: dict) -> dict:
    return json.loads(json.dumps(figures, allow_nan=False))


@given(pairs)
def test_count_pairs_random(values):
    expected = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for true, predicted in values:
        expected[true, predicted] += 1
    np.testing.assert_array_equal(confusion_of(values), expected)
    assert confusion_of(values).dtype == np.int64


@given(pairs, st.integers(0, 5))
def test_figures_random(values, num_rejected):
    metrics = SumMetrics(confusion_of(values), num_rejected)
    num_images = len(values) + num_rejected
    assert metrics.num_images == num_images
    if num_images:
        errors = [abs(true - predicted) for true, predicted in values]
        assert metrics.accuracy == pytest.approx(errors.count(0) / num_images)
        assert metrics.accuracy_within_1 == pytest.approx(
            (errors.count(0) + errors.count(1)) / num_images
        )
        if values:
            assert metrics.mean_absolute_error == pytest.approx(sum(errors) / len(errors))


def test_metrics_of_rejected_rows():
    # The predictions of rejected rows, of no image, happen to be right, and wrong.
    rows = rows_of([3, 4, 5, 6], errors=[0, 2])
    predictions = predictions_of([3, 4, 9, 9], confidences=[1, 0.5, 1, 0.5])
    metrics, examples = metrics_of(rows, predictions), Examples.of(rows, predictions)
    assert (metrics.num_rejected, metrics.num_images, metrics.accuracy) == (2, 4, 0.25)
    assert int(metrics.confusion.sum()) == 2
    assert metrics.confusion[4, 4] == metrics.confusion[6, 9] == 1
    assert metrics.confidences.levels.sum(axis=0).tolist() == [2, 1]
    assert [example.image_id for example in examples.hits] == ["image-001"]
    assert [example.image_id for example in examples.misses] == ["image-003"]


def test_metrics_of_only_rejected_rows():
    rows = rows_of([3, 4], errors=[0, 1], digits=[[3], [4]])
    metrics = metrics_of(rows, predictions_of([3, 4], read=[[3], [4]]))
    assert metrics.num_images == metrics.num_rejected == 2
    assert metrics.accuracy == metrics.accuracy_within_1 == 0
    assert digits_of(metrics) == (0, 0)
    figures = in_json(metrics.figures())
    assert figures["accuracy"] == figures["accuracy_within_1"] == 0
    assert figures["accuracy_high"] > 0.5
    for name in ("mean_absolute_error", "calibration_error", "digits_accuracy", "accuracy_at_50"):
        assert figures[name] is None


def test_digits_right_in_order():
    true = [[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3], [0, 0], [0, 0], [], [7]]
    read = [[1, 2, 3], [3, 2, 1], [1, 5], [1, 2, 3, 0], [0, 0], [0], [], [6]]
    metrics = metrics_of(
        rows_of(list(map(sum, true)), digits=true), predictions_of(list(map(sum, read)), read=read)
    )
    assert digits_of(metrics) == (8, 3)
    assert metrics.digits_accuracy == pytest.approx(3 / 8)
    assert metrics.accuracy == pytest.approx(7 / 8)


@pytest.mark.parametrize(
    ("true", "read", "errors", "expected"),
    [
        ([[3], [4], [5]], [[3], [4], [9]], (0, 2), (1, 1)),
        ([[3], None, [5]], [[3], [4], [5]], (), (2, 2)),
        (None, [[3], [4], [5]], (), (0, 0)),
        ([[3], [4], [5]], None, (), (0, 0)),
        (None, None, (), (0, 0)),
    ],
    ids=["rejected rows", "a null", "none known", "none read", "neither"],
)
def test_digits_counted(true, read, errors, expected):
    rows = rows_of([3, 4, 5], errors=errors, digits=true)
    metrics = metrics_of(rows, predictions_of([3, 4, 5], read=read))
    assert digits_of(metrics) == expected
    assert math.isnan(metrics.digits_accuracy) == (expected == (0, 0))


images = st.lists(
    st.tuples(
        st.lists(st.integers(0, 9), max_size=3),  # true digits
        st.lists(st.integers(0, 9), max_size=3),  # digits read
        st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        st.booleans(),  # rejected
    ),
    max_size=40,
)


def evaluate_images(made: list, first: int = 0) -> tuple[SumMetrics, Examples]:
    true, read = [row[0] for row in made], [row[1] for row in made]
    errors = [number for number, row in enumerate(made) if row[3]]
    rows = rows_of(list(map(sum, true)), errors=errors, digits=true, first=first)
    predictions = predictions_of(
        list(map(sum, read)), confidences=[row[2] for row in made], read=read
    )
    return metrics_of(rows, predictions), Examples.of(rows, predictions)


@settings(max_examples=50)
@given(images, st.integers(0, 40))
def test_metrics_add_up(made, cut):
    whole, examples = evaluate_images(made)
    one, some = evaluate_images(made[:cut])
    other, others = evaluate_images(made[cut:], first=len(made[:cut]))
    for total in (one + other, other + one):
        np.testing.assert_array_equal(total.confusion, whole.confusion)
        np.testing.assert_array_equal(total.confidences.levels, whole.confidences.levels)
        np.testing.assert_allclose(total.confidences.bins, whole.confidences.bins, rtol=1e-12)
        assert total.num_rejected == whole.num_rejected
        assert digits_of(total) == digits_of(whole)
    for total in (some + others, others + some):
        assert [hit.image_id for hit in total.hits] == [hit.image_id for hit in examples.hits]
        assert [miss.image_id for miss in total.misses] == [
            miss.image_id for miss in examples.misses
        ]


@settings(max_examples=50)
@given(images)
def test_metrics_of_random_images(made):
    metrics, examples = evaluate_images(made)
    scored = [row for row in made if not row[3]]
    num_right = sum(sum(true) == sum(read) for true, read, _, _ in scored)
    assert (metrics.num_images, metrics.num_rejected) == (len(made), len(made) - len(scored))
    assert int(np.trace(metrics.confusion)) == num_right
    exact = sum(true == read for true, read, _, _ in scored)
    assert digits_of(metrics) == (len(scored), exact)
    assert len(examples.hits) == min(num_right, NUM_EXAMPLES)
    assert len(examples.misses) == min(len(scored) - num_right, NUM_EXAMPLES)


@pytest.mark.parametrize(
    ("num_right", "num_images", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (9500, 10_000, 0.9456, 0.9541),
        (5 * 10**8, 10**9, 0.49997, 0.50003),
    ],
)
def test_accuracy_interval_wilson(num_right, num_images, low, high):
    confusion = np.diag([num_right, 0])
    metrics = SumMetrics(confusion, num_rejected=num_images - num_right)
    assert metrics.accuracy_interval == pytest.approx((low, high), abs=5e-5)


def test_figures_in_json():
    rows = rows_of([1, 2, 3, 4, 5], errors=[4], digits=[[1], [2], [3], [4], [5]])
    read = [[1], [2], [3], [9], [5]]
    confidences = [0.875, 0.875, 0.875, 0.5, 1]
    metrics = metrics_of(rows, predictions_of([1, 2, 3, 9, 5], confidences=confidences, read=read))
    assert in_json(metrics.figures()) == {
        "accuracy": 0.6,
        "accuracy_low": pytest.approx(0.2307, abs=1e-4),
        "accuracy_high": pytest.approx(0.8824, abs=1e-4),
        "images": 5,
        "mean_absolute_error": 1.25,
        "accuracy_within_1": 0.6,
        "rejected": 1,
        "calibration_error": pytest.approx((3 * 0.125 + 0.5) / 4),
        "digits_accuracy": 0.75,
        "accuracy_at_50": pytest.approx(1),
        "accuracy_at_80": pytest.approx(3 / 3.2),
        "accuracy_at_90": pytest.approx(3 / 3.6),
        "accuracy_at_95": pytest.approx(3 / 3.8),
        "accuracy_at_99": pytest.approx(3 / 3.96),
    }


def test_figures_of_no_images():
    figures = in_json(SumMetrics.empty(NUM_CLASSES).figures())
    assert figures.pop("images") == figures.pop("rejected") == 0
    assert set(figures.values()) == {None}
