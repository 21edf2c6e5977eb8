from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from digitsum.archive.location import Location, locate
from digitsum.archive.reading import Rows
from digitsum.archive.scores import (
    SCORES_SCHEMA,
    PartSource,
    part_path,
    read_part_source,
)
from digitsum.errors import InputError
from digitsum.model.predictor import Predictions
from digitsum.scoring.commit import (
    check_committed,
    commit_part,
    committed_parts,
    complete,
    scored_rows,
)

MODEL = "a" * 64
OTHER_MODEL = "b" * 64
FIRST = PartSource(MODEL, "day=1/a.parquet", "size=1 mtime_ns=2 rows=9", 0, 5)
SECOND = PartSource(MODEL, "day=1/a.parquet", "size=1 mtime_ns=2 rows=9", 5, 4)
THIRD = PartSource(MODEL, "b.parquet", "size=3 mtime_ns=4 rows=2", 0, 2)


@pytest.fixture
def scores(tmp_path) -> Location:
    return locate(str(tmp_path / "scores"))


@pytest.fixture
def files(tmp_path, content) -> Callable[[], list[str]]:
    """List all files below the scores, hidden ones too."""
    return lambda: list(content(tmp_path / "scores"))


def current(scores) -> str:
    return scores.join("CURRENT").read_bytes().decode().strip()


def rows_of(num_rows: int, *rejected: int, first: int = 0) -> tuple[Rows, Predictions]:
    numbers = np.arange(first, first + num_rows)
    errors = {row: f"image {row} is null" for row in rejected}
    ids = pa.array([f"image-{number}" for number in numbers], pa.string())
    rows = Rows(first, ids, np.zeros((num_rows, 1, 1), np.uint8), errors, None)
    return rows, Predictions(numbers.astype(np.int16), (numbers / 16).astype(np.float32))


def table_of(num_rows: int, *rejected: int, first: int = 0) -> pa.Table:
    return scored_rows(*rows_of(num_rows, *rejected, first=first))


def test_scores_have_the_schema_of_the_format():
    for table in (table_of(3), table_of(3, 1), table_of(3, 0, 1, 2), table_of(0)):
        assert table.schema.equals(SCORES_SCHEMA)


def test_a_scored_row_has_a_sum_and_no_error_and_a_rejected_one_the_reverse():
    assert table_of(3, 1, first=7).to_pylist() == [
        {
            "image_id": "image-7",
            "predicted_sum": 7,
            "confidence": 0.4375,
            "digits": None,
            "digit_x": None,
            "count_probabilities": None,
            "error": None,
        },
        {
            "image_id": "image-8",
            "predicted_sum": None,
            "confidence": None,
            "digits": None,
            "digit_x": None,
            "count_probabilities": None,
            "error": "image 1 is null",
        },
        {
            "image_id": "image-9",
            "predicted_sum": 9,
            "confidence": 0.5625,
            "digits": None,
            "digit_x": None,
            "count_probabilities": None,
            "error": None,
        },
    ]


def test_where_no_row_is_rejected_no_error_is_written_and_where_all_are_no_sum():
    assert table_of(3)["error"].null_count == 3
    assert table_of(3)["predicted_sum"].null_count == 0
    assert table_of(3, 0, 1, 2)["error"].null_count == 0
    assert table_of(3, 0, 1, 2)["predicted_sum"].null_count == 3
    assert table_of(3, 0, 1, 2)["confidence"].null_count == 3


def test_a_committed_part_holds_all_rows_in_order_and_names_its_source(scores, files):
    num_rejected = commit_part(scores, [table_of(2, 1), table_of(3, 0, first=2)], FIRST)
    assert num_rejected == 2
    assert files() == [part_path(FIRST)]
    part = scores.join(part_path(FIRST))
    table = pq.read_table(pa.BufferReader(part.read_bytes()))
    assert table["image_id"].to_pylist() == [f"image-{row}" for row in range(5)]
    assert table["predicted_sum"].to_pylist() == [0, None, None, 3, 4]
    assert table.schema.equals(SCORES_SCHEMA)
    assert read_part_source(part) == FIRST


@pytest.mark.parametrize("num_rows", [[4], [6], [2, 2], [5, 1], [0], []], ids=str)
def test_with_other_rows_than_promised_nothing_is_committed(scores, files, num_rows):
    with pytest.raises(InputError, match=r"day=1/a\.parquet"):
        commit_part(scores, [table_of(rows) for rows in num_rows], FIRST)
    assert files() == []


def test_with_other_rows_than_promised_the_part_before_stays(scores, content, tmp_path):
    commit_part(scores, [table_of(5)], FIRST)
    before = content(tmp_path)
    with pytest.raises(InputError, match="run again"):
        commit_part(scores, [table_of(4)], FIRST)
    assert content(tmp_path) == before


def test_a_chunk_that_fails_while_it_is_scored_commits_nothing(scores, files):
    def failing() -> Iterator[pa.Table]:
        yield table_of(3)
        raise InputError("the shard cannot be read after row 3.")

    with pytest.raises(InputError, match="after row 3"):
        commit_part(scores, failing(), FIRST)
    assert files() == []


def test_a_chunk_that_is_committed_twice_is_one_part_the_last(scores, files):
    commit_part(scores, [table_of(5)], FIRST)
    assert commit_part(scores, [table_of(5, 4)], FIRST) == 1
    assert files() == [part_path(FIRST)]
    part = pq.read_table(pa.BufferReader(scores.join(part_path(FIRST)).read_bytes()))
    assert part["error"].to_pylist() == [None] * 4 + ["image 4 is null"]


def test_before_anything_is_scored_no_part_is_committed(scores, files):
    assert committed_parts(scores, MODEL) == {}
    assert files() == []


def test_committed_parts_are_found_with_their_sources_each_models_apart(scores):
    other = PartSource(OTHER_MODEL, "b.parquet", THIRD.fingerprint, 0, 2)
    for source in (FIRST, SECOND, THIRD, other):
        commit_part(scores, [table_of(source.num_rows)], source)
    expected = {part_path(source): source for source in (FIRST, SECOND, THIRD)}
    assert committed_parts(scores, MODEL) == expected
    assert committed_parts(scores, OTHER_MODEL) == {part_path(other): other}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-5],
        lambda data: data[: len(data) // 2],
        lambda data: b"not Parquet at all",
        lambda data: data[:-20] + b"\xff" * 12 + data[-8:],
    ],
    ids=["empty", "cut at the end", "cut in the middle", "no Parquet", "footer overwritten"],
)
def test_a_part_that_cannot_be_read_is_found_without_a_source(scores, damage):
    commit_part(scores, [table_of(5)], FIRST)
    commit_part(scores, [table_of(2)], THIRD)
    path = Path(scores.join(part_path(FIRST)).path)
    path.write_bytes(damage(path.read_bytes()))
    assert committed_parts(scores, MODEL) == {part_path(FIRST): None, part_path(THIRD): THIRD}


def test_parquet_of_other_tools_is_found_without_a_source(scores, write_parquet):
    directory = Path(scores.path) / f"model={MODEL[:16]}"
    write_parquet(directory / "foreign.parquet", {"a": [1]})
    assert committed_parts(scores, MODEL) == {f"{directory.name}/foreign.parquet": None}


def test_hidden_files_and_what_is_no_parquet_are_no_parts(scores):
    commit_part(scores, [table_of(2)], THIRD)
    part = Path(scores.join(part_path(THIRD)).path)
    hidden = [".tmp-0123", ".tmp-0123.parquet", "_backup.parquet", "notes.txt", "rows.parquet.bak"]
    for name in hidden:
        (part.parent / name).write_bytes(part.read_bytes())
    assert committed_parts(scores, MODEL) == {part_path(THIRD): THIRD}


@pytest.mark.parametrize("directory", ["_old", ".trash"])
def test_files_in_hidden_directories_are_no_parts(scores, directory):
    commit_part(scores, [table_of(2)], THIRD)
    part = Path(scores.join(part_path(THIRD)).path)
    (part.parent / directory).mkdir()
    (part.parent / directory / part.name).write_bytes(part.read_bytes())
    assert committed_parts(scores, MODEL) == {part_path(THIRD): THIRD}


def test_completing_removes_what_is_gone_and_points_at_the_model(scores, files):
    for source in (FIRST, SECOND, THIRD):
        commit_part(scores, [table_of(source.num_rows)], source)
    complete(scores, MODEL, [part_path(SECOND)])
    assert sorted(files()) == sorted(["CURRENT", part_path(FIRST), part_path(THIRD)])
    assert current(scores) == f"model={MODEL[:16]}"


def test_completing_for_another_model_moves_the_pointer_and_keeps_the_parts(scores, files):
    other = PartSource(OTHER_MODEL, "b.parquet", THIRD.fingerprint, 0, 2)
    commit_part(scores, [table_of(2)], THIRD)
    complete(scores, MODEL, [])
    commit_part(scores, [table_of(2)], other)
    assert current(scores) == f"model={MODEL[:16]}"
    complete(scores, OTHER_MODEL, [])
    assert current(scores) == f"model={OTHER_MODEL[:16]}"
    assert sorted(files()) == sorted(["CURRENT", part_path(THIRD), part_path(other)])


def test_scores_of_which_no_run_was_completed_name_no_model(scores, files):
    commit_part(scores, [table_of(2)], THIRD)
    assert files() == [part_path(THIRD)]


def test_the_scores_are_one_data_set_for_other_tools(scores, tmp_path):
    for source in (FIRST, SECOND, THIRD):
        commit_part(scores, [table_of(source.num_rows, first=source.first_row)], source)
    (tmp_path / "scores" / f"model={MODEL[:16]}" / ".tmp-0123").write_bytes(b"half")
    complete(scores, MODEL, [])
    found = ds.dataset(str(tmp_path / "scores" / current(scores)), format="parquet")
    expected = [f"image-{row}" for row in range(9)] + ["image-0", "image-1"]
    assert sorted(found.to_table()["image_id"].to_pylist()) == sorted(expected)


def test_parts_that_are_not_there_after_a_run_are_missed(scores):
    commit_part(scores, [table_of(2)], THIRD)
    check_committed(scores, [THIRD])
    with pytest.raises(InputError, match="1 of 2 parts"):
        check_committed(scores, [THIRD, FIRST])
