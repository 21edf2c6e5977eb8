from dataclasses import replace
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from factories import (
    make_chunk,
    make_fingerprint,
    make_part,
    make_scores,
    read_files,
    write_parquet,
)

from digitsum.archive.parquet.files import read_table
from digitsum.archive.score_parts import SCORES_SCHEMA, Part, part_path, read_part
from digitsum.errors import InputError
from digitsum.manifest import RUNS_DIRECTORY
from digitsum.scoring import commit
from digitsum.scoring.commit import (
    check_committed,
    commit_part,
    list_parts,
    list_parts_of_others,
    point_current,
    remove_leftovers,
    remove_leftovers_beside,
    remove_parts,
)
from digitsum.storage.listing import list_parquet

MODEL, OTHER_MODEL = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def parts() -> list[Part]:
    first, second = make_chunk(5, 0, "day=1/a.parquet"), make_chunk(4, 5, "day=1/a.parquet")
    return [make_part(chunk) for chunk in (first, second, make_chunk(2, 0, "b.parquet"))]


@pytest.fixture
def commit_all(scores):
    def commit_all(*parts: Part) -> None:
        for part in parts:
            errors = ["bad"] * part.num_rejected
            errors += [None] * (part.chunk.num_rows - part.num_rejected)
            table = make_scores(*errors, first=part.chunk.first_row)
            assert commit_part(scores, table, part.model_digest, part.chunk) == part

    return commit_all


@pytest.fixture
def files(tmp_path):
    """List all files below the scores, hidden ones too."""
    return lambda: list(read_files(tmp_path / "scores"))


def path_of(part: Part) -> str:
    return part_path(part.model_digest, part.chunk)


def by_path(scores, model_digest: str = MODEL, known=()) -> dict[str, Part | None]:
    return {f.path: part for f, part in list_parts(scores, model_digest, dict(known)).items()}


def test_commit_part_round_trip(scores, files, parts):
    table = make_scores(None, "bad", "worse", None, None)
    part = commit_part(scores, table, MODEL, parts[0].chunk)
    assert part == replace(parts[0], num_rejected=2)
    assert files() == [path_of(part)]
    location = scores.join(path_of(part))
    assert read_part(location) == part
    written = read_table(location.read_bytes())
    assert written.schema.equals(SCORES_SCHEMA)
    assert written.to_pylist() == table.to_pylist()


@pytest.mark.parametrize("num_rows", [0, 4, 6])
@pytest.mark.parametrize("is_there", [False, True])
def test_commit_part_other_rows(scores, tmp_path, parts, commit_all, num_rows, is_there):
    commit_all(*parts[:is_there])
    before = read_files(tmp_path)
    with pytest.raises(InputError, match=r"day=1/a\.parquet: gave .* run again"):
        commit_part(scores, make_scores(*[None] * num_rows), MODEL, parts[0].chunk)
    assert read_files(tmp_path) == before


def test_commit_part_twice_keeps_last(scores, files, parts, commit_all):
    last = replace(parts[0], num_rejected=1)
    commit_all(parts[0], last)
    assert files() == [path_of(last)]
    written = read_table(scores.join(path_of(last)).read_bytes())
    assert written["error"].to_pylist() == ["bad"] + [None] * 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-5],
        lambda data: data[: len(data) // 2],
        lambda data: b"not Parquet at all",
        lambda data: data[:-20] + b"\xff" * 12 + data[-8:],
    ],
    ids=["empty", "cut at the end", "cut in the middle", "not Parquet", "footer overwritten"],
)
def test_list_parts_damaged(scores, parts, commit_all, damage):
    commit_all(parts[0], parts[2])
    path = Path(scores.join(path_of(parts[0])).path)
    path.write_bytes(damage(path.read_bytes()))
    assert by_path(scores) == {path_of(parts[0]): None, path_of(parts[2]): parts[2]}


def test_list_parts_ignores_other_files(scores, parts, commit_all):
    commit_all(parts[2])
    part = Path(scores.join(path_of(parts[2])).path)
    hidden = [".tmp-0", ".tmp-0.parquet", "_backup.parquet", "notes.txt", "rows.parquet.bak"]
    for name in [*hidden, "_old/" + part.name, ".trash/" + part.name]:
        (part.parent / name).parent.mkdir(exist_ok=True)
        (part.parent / name).write_bytes(part.read_bytes())
    write_parquet(part.parents[1] / "compacted.parquet", {"a": [1]})
    assert by_path(scores) == {path_of(parts[2]): parts[2]}
    # Another tool's file is judged only if it has the name of a part.
    write_parquet(part.parents[1] / "rows-0.parquet", {"a": [1]})
    assert by_path(scores)[f"model={MODEL[:16]}/rows-0.parquet"] is None


def test_list_parts_known_is_not_read(scores, parts, commit_all, monkeypatch):
    commit_all(*parts)
    first = list_parts(scores, MODEL, {})
    monkeypatch.setattr(commit, "read_part", lambda place: pytest.fail("a part is read"))
    assert list_parts(scores, MODEL, first) == first


@pytest.mark.parametrize("field", ["path", "size_bytes", "mtime_ns"])
def test_list_parts_changed_is_read(scores, parts, commit_all, field):
    part = replace(parts[2], num_rejected=1)
    commit_all(part)
    (file,) = list_parquet(scores, f"model={MODEL[:16]}")
    changed = replace(file, **{field: "b.parquet" if field == "path" else 1})
    assert by_path(scores, known={changed: parts[0]}) == {file.path: part}
    # Used unread if path, size and time are the same.
    assert by_path(scores, known={file: parts[0]}) == {file.path: parts[0]}


def test_list_parts_of_others(scores, parts, commit_all):
    known_count = replace(parts[1], model_digest=f"{MODEL}-digits4")
    commit_all(parts[0], replace(parts[0], model_digest=OTHER_MODEL), parts[2], known_count)
    below = [path_of(part).partition("/")[2] for part in parts]
    assert list_parts_of_others(scores, MODEL) == set(below[:2])
    assert list_parts_of_others(scores, OTHER_MODEL) == set(below)


def test_check_committed_as_listed(scores, parts, commit_all):
    assert (by_path(scores), list_parts_of_others(scores, MODEL)) == ({}, set())
    other = replace(parts[2], model_digest=OTHER_MODEL)
    commit_all(*parts, other)
    assert by_path(scores, OTHER_MODEL) == {path_of(other): other}
    assert by_path(scores) == {path_of(part): part for part in parts}
    assert check_committed(scores, parts) == list_parts(scores, MODEL, {})
    assert check_committed(scores, []) == {}


@pytest.mark.parametrize("there", ["nothing", "other bytes", "other rejects", "damaged"])
def test_check_committed_missing(scores, parts, commit_all, there):
    commit_all(parts[0], parts[2])
    path, expected = Path(scores.join(path_of(parts[2])).path), parts[2]
    if there == "nothing":
        path.unlink()
    elif there == "damaged":
        path.write_bytes(b"")
    elif there == "other rejects":
        expected = replace(expected, num_rejected=1)
    else:
        chunk = make_chunk(2, 0, "b.parquet", fingerprint=make_fingerprint(3))
        expected = make_part(chunk)
    with pytest.raises(InputError, match=r"1 of 2 parts are not there.* first of b\.parquet;"):
        check_committed(scores, [parts[0], expected])


def test_remove_parts_and_directories(scores, tmp_path, parts, commit_all):
    commit_all(*parts)
    model = tmp_path / "scores" / f"model={MODEL[:16]}"

    def directories() -> set[str]:
        return {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_dir()}

    remove_parts(scores, [path_of(parts[0])])
    assert directories() == {"day=1", "day=1/a", "b"}
    (model / "day=1" / "notes").write_text("kept")
    remove_parts(scores, [path_of(parts[1]), path_of(parts[0])])  # the first is gone already
    assert directories() == {"day=1", "b"}
    remove_parts(scores, [path_of(parts[2])])
    assert list(model.rglob("*")) == [model / "day=1", model / "day=1" / "notes"]


def test_point_current_at_another_model(scores, files, parts, commit_all):
    other = replace(parts[2], model_digest=OTHER_MODEL)
    commit_all(parts[2], other)
    assert "CURRENT" not in files()
    for model in (MODEL, OTHER_MODEL):
        point_current(scores, model)
        assert scores.join("CURRENT").read_bytes() == f"model={model[:16]}\n".encode()
        assert sorted(files()) == sorted(["CURRENT", path_of(parts[2]), path_of(other)])


def test_scores_read_as_one_dataset(scores, tmp_path, parts, commit_all):
    commit_all(*parts)
    model = tmp_path / "scores" / f"model={MODEL[:16]}"
    (model / ".tmp-0123").write_bytes(b"half")
    ids = ds.dataset(str(model), format="parquet").to_table()["image_id"].to_pylist()
    assert sorted(ids) == sorted([f"image-{row}" for row in range(9)] + ["image-0", "image-1"])


def test_remove_leftovers_and_nothing_else(scores, parts, commit_all):
    commit_all(parts[2])
    point_current(scores, MODEL)
    root, model = Path(scores.path), f"model={MODEL[:16]}"
    run = f"{RUNS_DIRECTORY}/score-1"
    for kept in (f"{run}/manifest.json", "mine.txt", ".hidden", f"{model}/tmp-1"):
        (root / kept).parent.mkdir(parents=True, exist_ok=True)
        (root / kept).write_text("kept")
    before = read_files(root)
    beside = [f"{run}/.tmp-2", f"{model}/b/.tmp-4"]
    others = [".tmp-0", f"{RUNS_DIRECTORY}/.tmp-1", f"{model}/.tmp-3"]
    for name in beside + others:
        (root / name).write_text("half")
    remove_leftovers_beside(scores, [path_of(parts[2])], scores.join(run))
    assert read_files(root) == before | dict.fromkeys(others, b"half")
    remove_leftovers(scores, MODEL)
    assert read_files(root) == before
    remove_leftovers(scores, OTHER_MODEL)
    assert read_files(root) == before
