from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from digitsum.archive.reader import Rows
from digitsum.archive.score_parts import (
    SCORES_SCHEMA,
    Part,
    PartSource,
    part_path,
    read_part,
)
from digitsum.archive.shards import list_parquet
from digitsum.errors import InputError
from digitsum.manifest import RUNS_DIRECTORY
from digitsum.model.outputs import Predictions
from digitsum.scoring import commit
from digitsum.scoring.commit import (
    commit_part,
    committed_parts,
    complete,
    parts_of_other_models,
    remove_leftovers,
    remove_parts,
    scored_rows,
)
from digitsum.storage.location import Location, locate

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


def by_path(scores: Location, model_digest: str = MODEL) -> dict[str, Part | None]:
    return committed_parts(scores, model_digest, {}).by_path


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
    said = commit_part(scores, [table_of(2, 1), table_of(3, 0, first=2)], FIRST)
    assert said == Part(FIRST, 2)
    assert files() == [part_path(FIRST)]
    part = scores.join(part_path(FIRST))
    table = pq.read_table(pa.BufferReader(part.read_bytes()))
    assert table["image_id"].to_pylist() == [f"image-{row}" for row in range(5)]
    assert table["predicted_sum"].to_pylist() == [0, None, None, 3, 4]
    assert table.schema.equals(SCORES_SCHEMA)
    assert read_part(part) == said


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
    assert commit_part(scores, [table_of(5, 4)], FIRST) == Part(FIRST, 1)
    assert files() == [part_path(FIRST)]
    part = pq.read_table(pa.BufferReader(scores.join(part_path(FIRST)).read_bytes()))
    assert part["error"].to_pylist() == [None] * 4 + ["image 4 is null"]


def test_before_anything_is_scored_no_part_is_committed(scores, files):
    assert by_path(scores) == {}
    assert committed_parts(scores, MODEL, {}).whole == []
    assert files() == []


def test_committed_parts_are_found_with_their_sources_each_models_apart(scores):
    other = PartSource(OTHER_MODEL, "b.parquet", THIRD.fingerprint, 0, 2)
    for source in (FIRST, SECOND, THIRD, other):
        commit_part(scores, [table_of(source.num_rows)], source)
    expected = {part_path(source): Part(source, 0) for source in (FIRST, SECOND, THIRD)}
    assert by_path(scores) == expected
    assert by_path(scores, OTHER_MODEL) == {part_path(other): Part(other, 0)}


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
    assert by_path(scores) == {part_path(FIRST): None, part_path(THIRD): Part(THIRD, 0)}
    whole = committed_parts(scores, MODEL, {}).whole
    assert [(file.path, part) for file, part in whole] == [(part_path(THIRD), Part(THIRD, 0))]


def test_parquet_of_other_tools_is_no_part_unless_it_bears_a_parts_name(scores, write_parquet):
    directory = Path(scores.path) / f"model={MODEL[:16]}"
    write_parquet(directory / "compacted.parquet", {"a": [1]})
    write_parquet(directory / "rows-0.parquet", {"a": [1]})
    assert by_path(scores) == {f"{directory.name}/rows-0.parquet": None}


def test_hidden_files_and_what_is_no_parquet_are_no_parts(scores):
    commit_part(scores, [table_of(2)], THIRD)
    part = Path(scores.join(part_path(THIRD)).path)
    hidden = [".tmp-0123", ".tmp-0123.parquet", "_backup.parquet", "notes.txt", "rows.parquet.bak"]
    for name in hidden:
        (part.parent / name).write_bytes(part.read_bytes())
    assert by_path(scores) == {part_path(THIRD): Part(THIRD, 0)}


@pytest.mark.parametrize("directory", ["_old", ".trash"])
def test_files_in_hidden_directories_are_no_parts(scores, directory):
    commit_part(scores, [table_of(2)], THIRD)
    part = Path(scores.join(part_path(THIRD)).path)
    (part.parent / directory).mkdir()
    (part.parent / directory / part.name).write_bytes(part.read_bytes())
    assert by_path(scores) == {part_path(THIRD): Part(THIRD, 0)}


def test_completing_removes_what_is_gone_and_points_at_the_model(scores, files):
    for source in (FIRST, SECOND, THIRD):
        commit_part(scores, [table_of(source.num_rows)], source)
    remove_parts(scores, [part_path(SECOND)])
    complete(scores, MODEL)
    assert sorted(files()) == sorted(["CURRENT", part_path(FIRST), part_path(THIRD)])
    assert current(scores) == f"model={MODEL[:16]}"


def test_with_its_last_part_the_directory_of_a_shard_goes_too(scores, tmp_path):
    for source in (FIRST, SECOND, THIRD):
        commit_part(scores, [table_of(source.num_rows)], source)
    model = tmp_path / "scores" / f"model={MODEL[:16]}"
    remove_parts(scores, [part_path(FIRST)])
    assert {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_dir()} == {
        "day=1",
        "day=1/a",
        "b",
    }
    remove_parts(scores, [part_path(SECOND)])
    assert [path.name for path in model.iterdir()] == ["b"]
    remove_parts(scores, [part_path(THIRD)])
    assert not list(model.iterdir())


def test_a_directory_in_which_somebody_keeps_something_stays(scores, tmp_path):
    commit_part(scores, [table_of(FIRST.num_rows)], FIRST)
    kept = (tmp_path / "scores" / part_path(FIRST)).parent.parent / "notes"
    kept.write_text("kept")
    remove_parts(scores, [part_path(FIRST)])
    assert [path.name for path in kept.parent.iterdir()] == ["notes"]


def test_completing_for_another_model_moves_the_pointer_and_keeps_the_parts(scores, files):
    other = PartSource(OTHER_MODEL, "b.parquet", THIRD.fingerprint, 0, 2)
    commit_part(scores, [table_of(2)], THIRD)
    complete(scores, MODEL)
    commit_part(scores, [table_of(2)], other)
    assert current(scores) == f"model={MODEL[:16]}"
    complete(scores, OTHER_MODEL)
    assert current(scores) == f"model={OTHER_MODEL[:16]}"
    assert sorted(files()) == sorted(["CURRENT", part_path(THIRD), part_path(other)])


def test_scores_of_which_no_run_was_completed_name_no_model(scores, files):
    commit_part(scores, [table_of(2)], THIRD)
    assert files() == [part_path(THIRD)]


def test_the_scores_are_one_data_set_for_other_tools(scores, tmp_path):
    for source in (FIRST, SECOND, THIRD):
        commit_part(scores, [table_of(source.num_rows, first=source.first_row)], source)
    (tmp_path / "scores" / f"model={MODEL[:16]}" / ".tmp-0123").write_bytes(b"half")
    complete(scores, MODEL)
    found = ds.dataset(str(tmp_path / "scores" / current(scores)), format="parquet")
    expected = [f"image-{row}" for row in range(9)] + ["image-0", "image-1"]
    assert sorted(found.to_table()["image_id"].to_pylist()) == sorted(expected)


def test_parts_listed_as_they_are_known_are_not_read_again(scores, monkeypatch):
    for source in (FIRST, SECOND, THIRD):
        commit_part(scores, [table_of(source.num_rows)], source)
    first = committed_parts(scores, MODEL, {})
    known = dict(first.whole)
    read = []
    monkeypatch.setattr(commit, "read_part", lambda place: read.append(place.path))
    assert committed_parts(scores, MODEL, known) == first
    assert read == []


@pytest.mark.parametrize("field", ["path", "size_bytes", "mtime_ns"])
def test_a_part_listed_otherwise_than_it_is_known_is_read(scores, field):
    commit_part(scores, [table_of(2, 1)], THIRD)
    (file,) = list_parquet(scores, f"model={MODEL[:16]}")
    changed = replace(file, **{field: "b.parquet" if field == "path" else 1})
    assert by_path(scores) == {file.path: Part(THIRD, 1)}
    known = {changed: Part(FIRST, 0)}
    assert committed_parts(scores, MODEL, known).by_path == {file.path: Part(THIRD, 1)}
    known = {file: Part(FIRST, 0)}  # believed where all three are the same
    assert committed_parts(scores, MODEL, known).by_path == {file.path: Part(FIRST, 0)}


def test_parts_of_other_models_are_found_by_their_paths_below_the_model(scores):
    for source in (FIRST, replace(FIRST, model_digest=OTHER_MODEL), THIRD):
        commit_part(scores, [table_of(source.num_rows)], source)
    told = replace(SECOND, model_digest=f"{MODEL}-digits4")
    commit_part(scores, [table_of(told.num_rows)], told)
    complete(scores, MODEL)

    def below(*sources: PartSource) -> set[str]:
        return {part_path(source).partition("/")[2] for source in sources}

    assert parts_of_other_models(scores, MODEL) == below(FIRST, SECOND)
    assert parts_of_other_models(scores, OTHER_MODEL) == below(FIRST, SECOND, THIRD)
    assert parts_of_other_models(locate(f"{scores.path}/absent"), MODEL) == set()


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(scores, content):
    commit_part(scores, [table_of(2)], THIRD)
    complete(scores, MODEL)
    root, model = Path(scores.path), f"model={MODEL[:16]}"
    for kept in (
        f"{RUNS_DIRECTORY}/score-1/manifest.json",
        "mine.txt",
        ".hidden",
        f"{model}/tmp-1",
    ):
        (root / kept).parent.mkdir(parents=True, exist_ok=True)
        (root / kept).write_text("kept")
    before = content(root)
    for name in (".tmp-0", f"{RUNS_DIRECTORY}/.tmp-1", f"{RUNS_DIRECTORY}/score-1/.tmp-2"):
        (root / name).write_text("half")
    for name in (f"{model}/.tmp-3", f"{model}/b/.tmp-4"):
        (root / name).write_text("half")
    remove_leftovers(scores, MODEL)
    assert content(root) == before
    remove_leftovers(scores, OTHER_MODEL)
    assert content(root) == before


def test_where_nothing_is_there_are_no_leftovers_to_remove(scores, files):
    remove_leftovers(scores, MODEL)
    assert files() == []


def test_completing_goes_on_where_another_run_removed_what_is_gone(scores, files):
    commit_part(scores, [table_of(2)], THIRD)
    remove_parts(scores, [part_path(FIRST)])
    complete(scores, MODEL)
    assert sorted(files()) == sorted(["CURRENT", part_path(THIRD)])
