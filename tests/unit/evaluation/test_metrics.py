import json
import math

import numpy as np
import pytest
from factories import make_predictions, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.archive.reader import Rows
from digitsum.errors import InputError, TooManyRejectedError
from digitsum.evaluation.examples import NUM_EXAMPLES, Examples
from digitsum.evaluation.metrics import (
    EVALUATION_FILE,
    Evaluation,
    SumMetrics,
    read_evaluation,
    write_evaluation,
)
from digitsum.manifest import Origin
from digitsum.model.outputs import Predictions
from digitsum.storage.location import locate

NUM_CLASSES = 37
digits = st.lists(st.integers(0, 9), max_size=3)
confidences = st.sampled_from([0.0, 0.25, 0.5, 1.0])
# True digits, digits read, and whether the image is rejected.
images = st.lists(st.tuples(digits, digits, confidences, st.booleans()), max_size=40)


def metrics_of(rows: Rows, predictions: Predictions) -> SumMetrics:
    return SumMetrics.of(rows, predictions, NUM_CLASSES)


def digits_of(metrics: SumMetrics) -> tuple[int, int]:
    return metrics.num_with_digits, metrics.num_digits_right


def in_json(figures: dict) -> dict:
    return json.loads(json.dumps(figures, allow_nan=False))


def evaluate_images(made: list, first: int = 0) -> tuple[SumMetrics, Examples]:
    true, read = [row[0] for row in made], [row[1] for row in made]
    errors = [number for number, row in enumerate(made) if row[3]]
    rows = make_rows(list(map(sum, true)), errors=errors, digits=true, first=first)
    predictions = make_predictions(list(map(sum, read)), [row[2] for row in made], read=read)
    return metrics_of(rows, predictions), Examples.of(rows, predictions)


def ids(examples: tuple) -> list[str]:
    return [example.image_id for example in examples]


@settings(max_examples=50)
@given(images)
def test_metrics_of_random_images(made):
    metrics, examples = evaluate_images(made)
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    errors, hits, misses = [], [], []
    for row, (true, read, confidence, is_rejected) in enumerate(made):
        if not is_rejected:
            confusion[sum(true), sum(read)] += 1
            errors.append(abs(sum(true) - sum(read)))
            (misses if errors[-1] else hits).append((-confidence, f"image-{row:03d}"))
    np.testing.assert_array_equal(metrics.confusion, confusion)
    assert metrics.confusion.dtype == np.int64
    assert (metrics.num_images, metrics.num_rejected) == (len(made), len(made) - len(errors))
    assert metrics.confidences.levels.sum(axis=0).tolist() == [len(errors), len(hits)]
    exact = sum(true == read for true, read, _, is_rejected in made if not is_rejected)
    assert digits_of(metrics) == (len(errors), exact)
    if made:
        within_1 = errors.count(0) + errors.count(1)
        assert metrics.accuracy == pytest.approx(len(hits) / len(made))
        assert metrics.accuracy_within_1 == pytest.approx(within_1 / len(made))
    if errors:
        assert metrics.mean_absolute_error == pytest.approx(np.mean(errors))
    assert ids(examples.hits) == [image_id for _, image_id in hits][:NUM_EXAMPLES]
    assert ids(examples.misses) == [image_id for _, image_id in sorted(misses)][:NUM_EXAMPLES]


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
        assert ids(total.hits) == ids(examples.hits)
        assert ids(total.misses) == ids(examples.misses)


def test_metrics_of_only_rejected_rows():
    rows = make_rows([3, 4], errors=[0, 1], digits=[[3], [4]])
    metrics = metrics_of(rows, make_predictions([3, 4], read=[[3], [4]]))
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
    rows = make_rows(list(map(sum, true)), digits=true)
    metrics = metrics_of(rows, make_predictions(list(map(sum, read)), read=read))
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
    rows = make_rows([3, 4, 5], errors=errors, digits=true)
    metrics = metrics_of(rows, make_predictions([3, 4, 5], read=read))
    assert digits_of(metrics) == expected
    assert math.isnan(metrics.digits_accuracy) == (expected == (0, 0))


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
    rows = make_rows([1, 2, 3, 4, 5], errors=[4], digits=[[1], [2], [3], [4], [5]])
    read = [[1], [2], [3], [9], [5]]
    confidences = [0.875, 0.875, 0.875, 0.5, 1]
    metrics = metrics_of(rows, make_predictions([1, 2, 3, 9, 5], confidences, read=read))
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


def evaluation_of(metrics: SumMetrics) -> Evaluation:
    return Evaluation(
        archive="a",
        model="m",
        model_digest="d" * 64,
        known_count=4,
        metrics=metrics,
        num_shards=4,
        unread_shards={"a.parquet": "no Parquet"},
        unread_chunks={"b.parquet, rows from 0 on": "damaged"},
        origin=Origin(command=["digitsum"], versions={"torch": "2"}),
    )


@settings(max_examples=20)
@given(images)
def test_write_evaluation_round_trip(tmp_path_factory, made):
    directory = locate(str(tmp_path_factory.mktemp("evaluation")))
    metrics, _ = evaluate_images(made)
    written = evaluation_of(metrics)
    write_evaluation(written, directory)
    read = read_evaluation(directory)
    assert read.to_json() == written.to_json()
    np.testing.assert_equal(as_values(read), as_values(written))


def as_values(evaluation: Evaluation) -> dict:
    metrics = vars(evaluation.metrics) | {"confidences": vars(evaluation.metrics.confidences)}
    return vars(evaluation) | {"metrics": metrics}


def test_read_evaluation_of_other_version(tmp_path):
    write_evaluation(evaluation_of(SumMetrics.empty(2)), locate(str(tmp_path)))
    record = json.loads((tmp_path / EVALUATION_FILE).read_text())
    (tmp_path / EVALUATION_FILE).write_text(json.dumps(record | {"version": 99}))
    with pytest.raises(InputError, match="is of version 99, but this digitsum reads version 1"):
        read_evaluation(locate(str(tmp_path)))


@pytest.mark.parametrize(("allowed", "what"), [(0.24, "1 of 4 shards"), (0.1, "5 of 25 images")])
def test_check_rejected_names_what(allowed, what):
    evaluation = evaluation_of(SumMetrics(np.diag([0, 20]), num_rejected=5))
    evaluation.check_rejected(0.25)
    with pytest.raises(TooManyRejectedError, match=what) as caught:
        evaluation.check_rejected(allowed)
    assert "the first is a.parquet: no Parquet" in str(caught.value)
