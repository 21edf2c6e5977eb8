import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.score_parts import SCORES_SCHEMA
from digitsum.archive.shards import Shard
from digitsum.options import ImageShape
from digitsum.scoring.plan import RejectedShard
from digitsum.scoring.rejects import (
    DIRECTORY,
    SCHEMA,
    chunk_name,
    rejected_chunk,
    rejected_rows,
    rejected_shards,
    write_rejects,
)
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import Location, locate


def chunk_of(num_rows: int, first_row: int = 0, shard: str = "day=1/a.parquet") -> Chunk:
    return Chunk(shard, "size=1", 2, 3, None, (0,), first_row, num_rows)


def scores(*errors: str | None) -> pa.Table:
    columns = {field.name: pa.nulls(len(errors), field.type) for field in SCORES_SCHEMA}
    columns["image_id"] = pa.array([f"image-{row}" for row in range(len(errors))], pa.string())
    columns["error"] = pa.array(errors, pa.string())
    return pa.table(columns, schema=SCORES_SCHEMA)


@given(st.lists(st.none() | st.text(max_size=5), max_size=20), st.integers(0, 10**12))
def test_the_rejected_rows_of_a_chunk_are_named_by_shard_row_and_id_each_with_its_reason(
    errors, first_row
):
    table = rejected_rows(chunk_of(len(errors), first_row), scores(*errors))
    assert table.schema.equals(SCHEMA)
    table.validate(full=True)
    assert table.to_pylist() == [
        {
            "shard": "day=1/a.parquet",
            "row": first_row + row,
            "image_id": f"image-{row}",
            "stage": "decode",
            "reason": error,
        }
        for row, error in enumerate(errors)
        if error is not None
    ]


def test_rows_of_several_batches_are_numbered_on():
    table = pa.concat_tables([scores("bad", None), scores(None, "worse")])
    rows = rejected_rows(chunk_of(4, 100), table).to_pylist()
    assert [(row["row"], row["reason"]) for row in rows] == [(100, "bad"), (103, "worse")]


def test_of_a_chunk_or_shard_that_was_rejected_as_a_whole_no_row_is_named():
    no_row = {"row": None, "image_id": None}
    chunk = rejected_chunk(chunk_of(9, 5), "read", "cannot be read")
    assert chunk.to_pylist() == [
        {"shard": "day=1/a.parquet", **no_row, "stage": "read", "reason": "cannot be read"}
    ]
    shards = rejected_shards([RejectedShard("a", "broken"), RejectedShard("b", "too wide")])
    assert shards.to_pylist() == [
        {"shard": "a", **no_row, "stage": "plan", "reason": "broken"},
        {"shard": "b", **no_row, "stage": "plan", "reason": "too wide"},
    ]
    assert chunk.schema.equals(SCHEMA)
    assert shards.schema.equals(SCHEMA)


@pytest.fixture
def run(tmp_path) -> Location:
    return locate(str(tmp_path / "_runs" / "score-1"))


def test_what_was_rejected_is_one_data_set_below_the_run(run):
    chunks = [chunk_of(3, 0), chunk_of(3, 3), chunk_of(3, 0, "b.parquet")]
    tables = [
        rejected_rows(chunks[0], scores(None, "bad", "bad")),
        rejected_chunk(chunks[1], "read", "cannot be read"),
        rejected_rows(chunks[2], scores("bad", None, None)),
    ]
    for chunk, table in zip(chunks, tables, strict=True):
        write_rejects(run, chunk_name(chunk), table)
    write_rejects(run, "shards", rejected_shards([RejectedShard("c.parquet", "broken")]))
    found = pq.read_table(f"{run.path}/{DIRECTORY}")
    assert found.schema.equals(SCHEMA)
    assert sorted((row["shard"], row["row"]) for row in found.to_pylist() if row["row"]) == [
        ("day=1/a.parquet", 1),
        ("day=1/a.parquet", 2),
    ]
    assert found.num_rows == 5


def test_where_nothing_was_rejected_nothing_is_written(run, tmp_path, content):
    write_rejects(run, "shards", rejected_shards([]))
    write_rejects(run, chunk_name(chunk_of(2)), rejected_rows(chunk_of(2), scores(None, None)))
    assert content(tmp_path) == {}


def test_a_chunk_that_is_tried_again_replaces_its_file(run, tmp_path, content):
    chunk = chunk_of(2)
    write_rejects(run, chunk_name(chunk), rejected_chunk(chunk, "read", "timed out"))
    write_rejects(run, chunk_name(chunk), rejected_rows(chunk, scores("bad", None)))
    (name,) = content(tmp_path)
    assert pq.read_table(tmp_path / name)["reason"].to_pylist() == ["bad"]


paths = st.sampled_from(["a.parquet", "b/a.parquet", "b-a.parquet", "ä %.parquet"])


@given(st.sets(paths))
def test_chunks_of_an_archive_have_names_apart_that_are_names_of_files(shards):
    chunks = [
        chunk
        for path in shards
        for chunk in plan_chunks(
            Shard(ListedFile(path, 1, 1), (2, 2, 2), ImageShape(2, 3), None), 2
        )
    ]
    names = {chunk_name(chunk) for chunk in chunks}
    assert len(names) == len(chunks)
    assert all(name.isascii() and "/" not in name and name[0] not in "._" for name in names)


@given(st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=9))
def test_a_file_says_of_its_rows_what_the_scores_say(errors):
    chunk = chunk_of(len(errors))
    table = rejected_rows(chunk, scores(*errors))
    with tempfile.TemporaryDirectory() as directory:
        write_rejects(locate(directory), "a", table)
        path = Path(directory) / DIRECTORY / "a.parquet"
        assert path.exists() == any(error is not None for error in errors)
        if path.exists():
            assert pq.read_table(path, partitioning=None).equals(table)
