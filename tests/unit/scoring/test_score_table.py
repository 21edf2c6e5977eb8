import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.reader import Rows
from digitsum.archive.score_parts import SCORES_SCHEMA
from digitsum.model.outputs import DigitReadings, Predictions
from digitsum.scoring.worker import score_table

WIDTH = 5  # the most digits that are read
COLUMNS = ("digits", "digit_x", "count_probabilities")


def scored(read: list[list[int]], *rejected: int, x: list[list[int]] | None = None) -> pa.Table:
    """Return the scores of images on which these digits were read, at x 10, 20, ..."""
    digits = np.full((len(read), WIDTH), -1, np.int8)
    places = np.full((len(read), WIDTH), -1, np.int16)
    count_probs = np.zeros((len(read), WIDTH + 1), np.float32)
    for row, values in enumerate(read):
        digits[row, : len(values)] = values
        at = x[row] if x else [10 * (place + 1) for place in range(len(values))]
        places[row, : len(values)] = at
        count_probs[row, len(values)] = 0.75
        count_probs[row, (len(values) + 1) % (WIDTH + 1)] = 0.25
    rows = Rows(
        0,
        pa.array([f"image-{row}" for row in range(len(read))], pa.string()),
        np.zeros((len(read), 1, 1), np.uint8),
        dict.fromkeys(rejected, "image is null"),
        None,
    )
    sums = np.array([sum(values) for values in read], np.int16)
    predictions = Predictions(
        sums, np.full(len(read), 0.5, np.float32), DigitReadings(digits, places, count_probs)
    )
    return score_table(rows, predictions)


def test_score_table_digits():
    assert scored([[3, 0, 9], [7]]).to_pylist() == [
        {
            "image_id": "image-0",
            "predicted_sum": 12,
            "confidence": 0.5,
            "digits": [3, 0, 9],
            "digit_x": [10, 20, 30],
            "count_probabilities": [0, 0, 0, 0.75, 0.25, 0],
            "error": None,
        },
        {
            "image_id": "image-1",
            "predicted_sum": 7,
            "confidence": 0.5,
            "digits": [7],
            "digit_x": [10],
            "count_probabilities": [0, 0.75, 0.25, 0, 0, 0],
            "error": None,
        },
    ]


def test_score_table_no_digits_read():
    table = scored([[], [5], []])
    assert table["digits"].to_pylist() == [[], [5], []]
    assert table["digit_x"].to_pylist() == [[], [10], []]
    assert table["digits"].null_count == table["digit_x"].null_count == 0
    assert table["count_probabilities"].to_pylist()[0] == [0.75, 0.25, 0, 0, 0, 0]


def test_score_table_digit_at_0():
    assert scored([[0, 4]], x=[[0, 167]])["digit_x"].to_pylist() == [[0, 167]]


def test_score_table_rejected_row():
    table = scored([[1, 2], [3, 4], [5]], 1)
    assert table["digits"].to_pylist() == [[1, 2], None, [5]]
    assert table["digit_x"].to_pylist() == [[10, 20], None, [10]]
    assert [row is None for row in table["count_probabilities"].to_pylist()] == [False, True, False]
    assert table["predicted_sum"].to_pylist() == [3, None, 5]


def test_score_table_all_rejected():
    table = scored([[1], [2, 3]], 0, 1)
    for name in COLUMNS:
        assert table[name].null_count == 2


digits_read = st.lists(st.lists(st.integers(0, 9), max_size=WIDTH), max_size=20)


@given(digits_read, st.sets(st.integers(0, 19)))
def test_score_table_any_digits(read, rejected):
    rejected = {row for row in rejected if row < len(read)}
    table = scored(read, *rejected)
    assert table.schema.equals(SCORES_SCHEMA)
    table.validate(full=True)
    rows = table.to_pylist()
    assert len(rows) == len(read)
    for number, (row, values) in enumerate(zip(rows, read, strict=True)):
        if number in rejected:
            assert [row[name] for name in COLUMNS] == [None] * 3
        else:
            assert row["digits"] == values
            assert sum(row["digits"]) == row["predicted_sum"]
            assert len(row["digit_x"]) == len(values)
            assert len(row["count_probabilities"]) == WIDTH + 1
            assert sum(row["count_probabilities"]) == pytest.approx(1)


def test_score_table_without_readings():
    rows = Rows(0, pa.array(["a", "b"]), np.zeros((2, 1, 1), np.uint8), {1: "null"}, None)
    predictions = Predictions(np.array([3, 4], np.int16), np.array([1, 1], np.float32))
    table = score_table(rows, predictions)
    assert table.schema.equals(SCORES_SCHEMA)
    for name in COLUMNS:
        assert table[name].null_count == 2
