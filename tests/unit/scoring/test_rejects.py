import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import plan_chunks
from digitsum.scoring.plan import RejectedShard
from digitsum.scoring.rejects import (
    REJECTS_DIRECTORY,
    REJECTS_SCHEMA,
    SHARDS_NAME,
    chunk_name,
    rejected_chunk,
    rejected_rows,
    rejected_shards,
    write_rejects,
)
from digitsum.storage.location import Location, locate

errors_of_rows = st.lists(st.none() | st.text(max_size=5), max_size=20)


@pytest.fixture
def run(tmp_path) -> Location:
    return locate(str(tmp_path / "_runs" / "score-1"))


@given(errors_of_rows, st.integers(0, 10**12))
def test_rejected_rows(make_chunk, make_scores, errors, first_row):
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


def test_rejected_chunk_and_shards_name_no_row(make_chunk):
    no_row = {"row": None, "image_id": None}
    chunk = rejected_chunk(make_chunk(9, 5).id, "read", "cannot be read")
    assert chunk.to_pylist() == [
        {"shard": "a.parquet", **no_row, "stage": "read", "reason": "cannot be read"}
    ]
    shards = rejected_shards([RejectedShard("a", "broken"), RejectedShard("b", "too wide")])
    assert shards.to_pylist() == [
        {"shard": "a", **no_row, "stage": "plan", "reason": "broken"},
        {"shard": "b", **no_row, "stage": "plan", "reason": "too wide"},
    ]
    assert chunk.schema.equals(REJECTS_SCHEMA)
    assert shards.schema.equals(REJECTS_SCHEMA)


def test_rejects_read_as_one_dataset(run, make_chunk, make_scores):
    chunks = [make_chunk(3), make_chunk(3, 3), make_chunk(3, 0, "b.parquet")]
    tables = [
        rejected_rows(chunks[0].id, make_scores(None, "bad", "bad")),
        rejected_chunk(chunks[1].id, "read", "cannot be read"),
        rejected_rows(chunks[2].id, make_scores("bad", None, None)),
    ]
    for chunk, table in zip(chunks, tables, strict=True):
        write_rejects(run, chunk_name(chunk.id), table)
    write_rejects(run, SHARDS_NAME, rejected_shards([RejectedShard("c.parquet", "broken")]))
    found = pq.read_table(f"{run.path}/{REJECTS_DIRECTORY}")
    assert found.schema.equals(REJECTS_SCHEMA)
    assert sorted((row["shard"], row["row"] or 0) for row in found.to_pylist()) == [
        *[("a.parquet", row) for row in range(3)],  # the chunk has no row
        ("b.parquet", 0),
        ("c.parquet", 0),
    ]


def test_rejects_none_are_not_written(run, tmp_path, content, make_chunk, make_scores):
    chunk = make_chunk(2).id
    write_rejects(run, SHARDS_NAME, rejected_shards([]))
    write_rejects(run, chunk_name(chunk), rejected_rows(chunk, make_scores(None, None)))
    assert content(tmp_path) == {}


def test_rejects_of_a_second_attempt(run, tmp_path, content, make_chunk, make_scores):
    chunk = make_chunk(2).id
    write_rejects(run, chunk_name(chunk), rejected_chunk(chunk, "read", "timed out"))
    write_rejects(run, chunk_name(chunk), rejected_rows(chunk, make_scores("bad", None)))
    (name,) = content(tmp_path)
    assert pq.read_table(tmp_path / name)["reason"].to_pylist() == ["bad"]
    write_rejects(run, chunk_name(chunk), rejected_rows(chunk, make_scores(None, None)))
    assert content(tmp_path) == {}


@given(st.sets(st.sampled_from(["a.parquet", "b/a.parquet", "b-a.parquet", "ä %.parquet"])))
def test_chunk_names_are_unique_file_names(make_shard, paths):
    chunks = [chunk for path in paths for chunk in plan_chunks(make_shard(path, 2, 2, 2), 2)]
    names = {chunk_name(chunk.id) for chunk in chunks}
    assert len(names) == len(chunks)
    assert all(name.isascii() and "/" not in name and name[0] not in "._" for name in names)
