import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from factories import make_chunk, make_scores, make_shard, read_files
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import plan_chunks
from digitsum.scoring.rejects import (
    REJECTS_DIRECTORY,
    REJECTS_SCHEMA,
    SHARDS_NAME,
    chunk_name,
    rejected_rows,
    rejected_whole,
    write_rejects,
)
from digitsum.storage.location import Location, locate

errors_of_rows = st.lists(st.none() | st.text(max_size=5), max_size=20)


@pytest.fixture
def run(tmp_path) -> Location:
    return locate(str(tmp_path / "_runs" / "score-1"))


@given(errors_of_rows, st.integers(0, 10**12))
def test_rejected_rows(errors, first_row):
    chunk = make_chunk(len(errors), first_row)
    table = rejected_rows(chunk.id, make_scores(*errors, first=first_row))
    assert table.schema.equals(REJECTS_SCHEMA)
    table.validate(full=True)
    assert table.to_pylist() == [
        {
            "shard": "a.parquet",
            "row": first_row + row,
            "image_id": f"image-{first_row + row}",
            "stage": "decode",
            "reason": error,
        }
        for row, error in enumerate(errors)
        if error is not None
    ]
    with tempfile.TemporaryDirectory() as directory:
        write_rejects(locate(directory), "a", table)
        path = Path(directory) / REJECTS_DIRECTORY / "a.parquet"
        assert path.exists() == any(error is not None for error in errors)
        if path.exists():
            assert pq.read_table(path, partitioning=None).equals(table)


def test_rejected_whole_names_no_row():
    table = rejected_whole("plan", {"a": "broken", "b": "too wide"})
    assert table.schema.equals(REJECTS_SCHEMA)
    no_row = {"row": None, "image_id": None, "stage": "plan"}
    assert table.to_pylist() == [
        {"shard": "a", **no_row, "reason": "broken"},
        {"shard": "b", **no_row, "reason": "too wide"},
    ]


def test_rejects_read_as_one_dataset(run):
    chunks = [make_chunk(3), make_chunk(3, 3), make_chunk(3, 0, "b.parquet")]
    tables = [
        rejected_rows(chunks[0].id, make_scores(None, "bad", "bad")),
        rejected_whole("read", {"a.parquet": "cannot be read"}),
        rejected_rows(chunks[2].id, make_scores("bad", None, None)),
    ]
    for chunk, table in zip(chunks, tables, strict=True):
        write_rejects(run, chunk_name(chunk.id), table)
    write_rejects(run, SHARDS_NAME, rejected_whole("plan", {"c.parquet": "broken"}))
    found = pq.read_table(f"{run.path}/{REJECTS_DIRECTORY}")
    assert found.schema.equals(REJECTS_SCHEMA)
    assert sorted((row["shard"], row["row"] or 0) for row in found.to_pylist()) == [
        *[("a.parquet", row) for row in range(3)],  # the chunk has no row
        ("b.parquet", 0),
        ("c.parquet", 0),
    ]


def test_rejects_none_are_not_written(run, tmp_path):
    chunk = make_chunk(2).id
    write_rejects(run, SHARDS_NAME, rejected_whole("plan", {}))
    write_rejects(run, chunk_name(chunk), rejected_rows(chunk, make_scores(None, None)))
    assert read_files(tmp_path) == {}


def test_rejects_of_a_second_attempt(run, tmp_path):
    chunk = make_chunk(2).id
    write_rejects(run, chunk_name(chunk), rejected_whole("read", {chunk.shard: "timed out"}))
    write_rejects(run, chunk_name(chunk), rejected_rows(chunk, make_scores("bad", None)))
    (name,) = read_files(tmp_path)
    assert pq.read_table(tmp_path / name)["reason"].to_pylist() == ["bad"]
    write_rejects(run, chunk_name(chunk), rejected_rows(chunk, make_scores(None, None)))
    assert read_files(tmp_path) == {}


@given(st.sets(st.sampled_from(["a.parquet", "b/a.parquet", "b-a.parquet", "ä %.parquet"])))
def test_chunk_names_are_unique_file_names(paths):
    chunks = [chunk for path in paths for chunk in plan_chunks(make_shard(path, 2, 2, 2), 2)]
    names = {chunk_name(chunk.id) for chunk in chunks}
    assert len(names) == len(chunks)
    assert all(name.isascii() and "/" not in name and name[0] not in "._" for name in names)
