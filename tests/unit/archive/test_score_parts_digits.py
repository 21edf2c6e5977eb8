import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.reader import Rows
from digitsum.archive.score_parts import (
    DIGEST_CHARACTERS,
    SCORES_SCHEMA,
    Part,
    PartSource,
    known_count_digest,
    model_directory,
    part_path,
)
from digitsum.model.outputs import DigitReadings, Predictions
from digitsum.scoring.commit import commit_part, committed_parts, complete, scored_rows
from digitsum.storage.location import locate

DIGEST = "0123456789abcdef" * 4
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
    return scored_rows(rows, predictions)


def test_a_row_holds_its_digits_their_places_and_how_probable_each_count_is():
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


def test_no_digits_read_are_an_empty_list_and_not_null():
    table = scored([[], [5], []])
    assert table["digits"].to_pylist() == [[], [5], []]
    assert table["digit_x"].to_pylist() == [[], [10], []]
    assert table["digits"].null_count == table["digit_x"].null_count == 0
    assert table["count_probabilities"].to_pylist()[0] == [0.75, 0.25, 0, 0, 0, 0]


def test_the_first_column_is_a_place_like_any_other():
    assert scored([[0, 4]], x=[[0, 167]])["digit_x"].to_pylist() == [[0, 167]]


def test_a_rejected_row_has_null_and_leaves_the_others_as_they_are():
    table = scored([[1, 2], [3, 4], [5]], 1)
    assert table["digits"].to_pylist() == [[1, 2], None, [5]]
    assert table["digit_x"].to_pylist() == [[10, 20], None, [10]]
    assert [row is None for row in table["count_probabilities"].to_pylist()] == [False, True, False]
    assert table["predicted_sum"].to_pylist() == [3, None, 5]


def test_where_all_rows_are_rejected_every_list_is_null():
    table = scored([[1], [2, 3]], 0, 1)
    for name in COLUMNS:
        assert table[name].null_count == 2


digits_read = st.lists(st.lists(st.integers(0, 9), max_size=WIDTH), max_size=20)


@given(digits_read, st.sets(st.integers(0, 19)))
def test_lists_are_as_long_as_digits_were_read_whatever_is_rejected(read, rejected):
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


def test_a_model_that_reads_no_digits_leaves_the_columns_null():
    rows = Rows(0, pa.array(["a", "b"]), np.zeros((2, 1, 1), np.uint8), {1: "null"}, None)
    predictions = Predictions(np.array([3, 4], np.int16), np.array([1, 1], np.float32))
    table = scored_rows(rows, predictions)
    assert table.schema.equals(SCORES_SCHEMA)
    for name in COLUMNS:
        assert table[name].null_count == 2


def test_a_part_holds_the_digits_of_all_its_batches(tmp_path):
    source = PartSource(DIGEST, "a.parquet", "", 0, 4)
    scores = locate(str(tmp_path))
    said = commit_part(scores, [scored([[1, 2], []], 0), scored([[9], [8, 8, 8]])], source)
    assert said == Part(source, 1)
    part = pq.read_table(pa.BufferReader(scores.join(part_path(source)).read_bytes()))
    assert part["digits"].to_pylist() == [None, [], [9], [8, 8, 8]]
    assert part["digit_x"].to_pylist() == [None, [], [10], [10, 20, 30]]
    assert part.schema.equals(SCORES_SCHEMA)


def test_a_model_that_is_told_nothing_has_its_own_digest():
    assert known_count_digest(DIGEST, None) == DIGEST
    assert model_directory(DIGEST) == f"model={DIGEST[:DIGEST_CHARACTERS]}"


def test_what_a_model_is_told_stands_in_its_directorys_name():
    assert (
        model_directory(known_count_digest(DIGEST, 4))
        == f"model={DIGEST[:DIGEST_CHARACTERS]}-digits4"
    )
    assert model_directory(known_count_digest(DIGEST, 12)).endswith("-digits12")


told = st.tuples(
    st.sampled_from([DIGEST, DIGEST[::-1], "f" * 64]), st.one_of(st.none(), st.integers(1, 64))
)


@given(told, told)
def test_models_and_what_they_are_told_lie_apart(one, other):
    digests = known_count_digest(*one), known_count_digest(*other)
    assert (digests[0] == digests[1]) == (one == other)
    directories = [model_directory(digest) for digest in digests]
    assert (directories[0] == directories[1]) == (one == other)
    paths = [part_path(PartSource(digest, "a.parquet", "", 0, 5)) for digest in digests]
    assert (paths[0] == paths[1]) == (one == other)


def test_the_parts_of_a_model_told_otherwise_are_not_its_own(tmp_path):
    scores = locate(str(tmp_path))
    sources = [
        PartSource(known_count_digest(DIGEST, num_digits), "a.parquet", "", 0, 1)
        for num_digits in (None, 1, 11)
    ]
    for source in sources:
        commit_part(scores, [scored([[1]])], source)
    for source in sources:
        found = committed_parts(scores, source.model_digest, {})
        assert found.by_path == {part_path(source): Part(source, 0)}
    complete(scores, sources[2].model_digest)
    current = scores.join("CURRENT").read_bytes().decode().strip()
    assert part_path(sources[2]).startswith(f"{current}/")
    assert not any(part_path(source).startswith(f"{current}/") for source in sources[:2])
