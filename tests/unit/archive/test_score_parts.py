import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import plan_chunks
from digitsum.archive.score_parts import (
    SCORES_SCHEMA,
    Part,
    PartSource,
    known_count_digest,
    part_directory,
    part_path,
    part_source,
    read_part,
    write_part,
)
from digitsum.archive.shards import Shard
from digitsum.errors import InputError
from digitsum.options import ImageShape
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate

DIGEST = "0123456789abcdef" * 4
SOURCE = PartSource(DIGEST, "day=1/a b.parquet", "size=5 mtime_ns=7 rows=9", 4, 3)

sources = st.builds(
    PartSource,
    st.sampled_from(
        [DIGEST, DIGEST[::-1], known_count_digest(DIGEST, 4), known_count_digest(DIGEST, 44)]
    ),
    st.sampled_from(
        [
            "a.parquet",
            "b.parquet",
            "a/b.parquet",
            "b/a.parquet",
            "a.parquet.parquet",
            "ä %?.parquet",
        ]
    ),
    st.text("a= ä\n", max_size=8),
    st.integers(0, 10**13),
    st.integers(1, 10**13),
)


def scores(num_rows: int = 3) -> pa.Table:
    columns = {
        "image_id": [f"image-{row}" for row in range(num_rows)],
        "predicted_sum": pa.array([None, *range(1, num_rows)], pa.int16()),
        "confidence": pa.array(np.linspace(0, 1, num_rows), pa.float32()),
        "digits": pa.array([None, *[[row, 9] for row in range(1, num_rows)]], pa.list_(pa.int8())),
        "digit_x": pa.array([None, *[[20, 300]] * (num_rows - 1)], pa.list_(pa.int16())),
        "count_probabilities": pa.array(
            [None, *[[0.25, 0.75]] * (num_rows - 1)], pa.list_(pa.float32())
        ),
        "error": ["image is null", *[None] * (num_rows - 1)],
    }
    return pa.table(columns, schema=SCORES_SCHEMA)


@given(sources)
def test_a_source_is_the_same_after_a_round_trip_through_metadata(source):
    schema = pa.schema([], source.to_metadata())
    assert PartSource.from_metadata(schema.metadata) == source


@pytest.mark.parametrize("lacking", sorted(SOURCE.to_metadata()))
def test_metadata_that_lacks_a_value_names_no_source(lacking):
    metadata = pa.schema([], SOURCE.to_metadata()).metadata
    del metadata[lacking.encode()]
    assert PartSource.from_metadata(metadata) is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": b"2"},
        {"format": b"4"},
        {"first_row": b"four"},
        {"num_rows": b""},
        {"model_digest": b"\xff"},
    ],
    ids=str,
)
def test_metadata_of_another_format_or_of_no_sense_names_no_source(change):
    metadata = pa.schema([], SOURCE.to_metadata()).metadata
    metadata |= {f"digitsum.{key}".encode(): value for key, value in change.items()}
    assert PartSource.from_metadata(metadata) is None


def test_metadata_of_other_tools_does_not_matter():
    metadata = pa.schema([], SOURCE.to_metadata()).metadata
    assert PartSource.from_metadata(metadata | {b"\xff": b"\xfe"}) == SOURCE
    assert PartSource.from_metadata({b"pandas": b"{}"}) is None
    assert PartSource.from_metadata(None) is None


def place(source: PartSource) -> tuple:
    return (source.model_digest, source.shard, source.first_row, source.num_rows)


@given(sources, sources)
def test_paths_are_equal_exactly_where_model_shard_and_row_range_are(one, other):
    assert part_path(one) == part_path(replace(one))
    assert (part_path(one) == part_path(other)) == (place(one) == place(other))


def test_a_path_does_not_depend_on_the_shards_bytes():
    changed = replace(SOURCE, fingerprint="size=6")
    assert part_path(changed) == part_path(SOURCE)


def test_paths_sort_as_the_rows_do():
    starts = [0, 9, 10, 8192, 65_536, 10**9]
    paths = [part_path(PartSource(DIGEST, "a.parquet", "", start, 5)) for start in starts]
    assert sorted(paths) == paths


def test_a_chunks_source_names_its_shard_and_rows():
    shard = Shard(ListedFile("a.parquet", 100, 5), (10, 10, 4), ImageShape(), None)
    assert [part_source(chunk, DIGEST) for chunk in plan_chunks(shard, 15)] == [
        PartSource(DIGEST, "a.parquet", shard.fingerprint, 0, 20),
        PartSource(DIGEST, "a.parquet", shard.fingerprint, 20, 4),
    ]


def test_a_part_holds_the_scores_and_says_what_they_are_of(tmp_path):
    location = locate(str(tmp_path)).join(part_path(SOURCE))
    assert write_part(location, scores(), SOURCE) == Part(SOURCE, 1)
    assert read_part(location) == Part(SOURCE, 1)
    table = pq.read_table(location.path, partitioning=None)
    assert table.schema.equals(SCORES_SCHEMA)
    assert table.to_pylist() == scores().to_pylist()


def test_parts_read_as_one_table_with_the_model_and_the_archives_partitions(tmp_path):
    for day in (1, 2):
        source = PartSource(DIGEST, f"day={day}/a.parquet", "", 0, 3)
        write_part(locate(str(tmp_path)).join(part_path(source)), scores(), source)
    table = ds.dataset(tmp_path, partitioning="hive").to_table()
    assert table.column("day").to_pylist() == [1, 1, 1, 2, 2, 2]
    assert set(table.column("model").to_pylist()) == {DIGEST[:16]}
    assert table.column("image_id").to_pylist() == ["image-0", "image-1", "image-2"] * 2


def test_a_part_is_replaced_where_the_shard_has_changed(tmp_path):
    location = locate(str(tmp_path)).join(part_path(SOURCE))
    write_part(location, scores(), SOURCE)
    changed = replace(SOURCE, fingerprint="size=6")
    write_part(location, scores(), changed)
    assert read_part(location) == Part(changed, 1)


@pytest.mark.parametrize("num_rows", [2, 4])
def test_a_part_without_exactly_the_rows_of_its_source_is_refused(num_rows, tmp_path, content):
    with pytest.raises(InputError, match=f"gave {num_rows} rows from row .* promised 3"):
        write_part(locate(str(tmp_path / "part.parquet")), scores(num_rows), SOURCE)
    assert content(tmp_path) == {}


rows_that_cannot_be = st.lists(
    st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=9
).filter(lambda rows: any(has_sum == has_error for has_sum, has_error in rows))


def table_of(rows: list[tuple[bool, bool]]) -> pa.Table:
    columns = {
        name: pa.nulls(len(rows), SCORES_SCHEMA.field(name).type) for name in SCORES_SCHEMA.names
    }
    columns["image_id"] = pa.array([str(row) for row in range(len(rows))])
    columns["predicted_sum"] = pa.array([5 if some else None for some, _ in rows], pa.int16())
    columns["error"] = pa.array(["bad" if some else None for _, some in rows], pa.string())
    return pa.table(columns, schema=SCORES_SCHEMA)


@given(rows_that_cannot_be)
def test_rows_that_are_neither_scored_nor_rejected_or_both_make_no_part(rows):
    source = PartSource(DIGEST, "a.parquet", "", 0, len(rows))
    with tempfile.TemporaryDirectory() as directory:
        with pytest.raises(ValueError, match=r"a\.parquet: a row is neither scored nor rejected"):
            write_part(locate(f"{directory}/part.parquet"), table_of(rows), source)
        assert list(Path(directory).iterdir()) == []


@given(st.lists(st.booleans(), max_size=9))
def test_a_part_says_how_many_of_its_rows_were_rejected(rejected):
    source = PartSource(DIGEST, "a.parquet", "", 0, len(rejected))
    with tempfile.TemporaryDirectory() as directory:
        location = locate(f"{directory}/part.parquet")
        part = write_part(location, table_of([(not row, row) for row in rejected]), source)
        assert part == read_part(location) == Part(source, sum(rejected))


@pytest.mark.parametrize("num_rejected", [None, b"", b"-1", b"one", b"1.0", b"\xff"], ids=str)
def test_metadata_without_a_number_of_rejected_rows_are_no_parts(num_rejected):
    metadata = pa.schema([], SOURCE.to_metadata()).metadata
    key = b"digitsum.num_rejected"
    assert Part.from_metadata({**metadata, key: b"3"}) == Part(SOURCE, 3)
    assert Part.from_metadata(metadata | ({key: num_rejected} if num_rejected else {})) is None
    assert Part.from_metadata({key: b"3"}) is None
    assert Part.from_metadata(None) is None


@given(sources)
def test_a_part_lies_in_the_directory_of_its_shards_parts(source):
    directory = part_directory(source.model_digest, source.shard)
    assert part_path(source).rpartition("/")[0] == directory


def test_a_part_that_cannot_be_written_is_refused_naming_it(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/part\.parquet: cannot be written"):
        write_part(locate(str(tmp_path / "file" / "part.parquet")), scores(), SOURCE)


def test_scores_of_another_schema_are_refused(tmp_path, content):
    for name in SCORES_SCHEMA.names:
        with pytest.raises((ValueError, KeyError, pa.ArrowInvalid)):
            write_part(locate(str(tmp_path / "a")), scores().drop_columns([name]), SOURCE)
    unnamed = scores().set_column(0, SCORES_SCHEMA.field(0).with_nullable(True), [["a", None, "b"]])
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        write_part(locate(str(tmp_path / "a")), unnamed, SOURCE)
    assert content(tmp_path) == {}


def test_an_absent_broken_or_foreign_part_says_nothing_of_itself(tmp_path, write_parquet):
    root = locate(str(tmp_path))
    write_part(root.join("whole"), scores(), SOURCE)
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(data[:-5])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "damaged").write_bytes(data[:-60] + b"\xff" * 52 + data[-8:])
    write_parquet(tmp_path / "foreign", {"x": [1]})
    write_parquet(tmp_path / "strange", {"x": [1]}, metadata={b"\xff": b"\xfe"})
    (tmp_path / "directory").mkdir()
    for name in ("absent", "cut", "empty", "damaged", "foreign", "strange", "directory"):
        assert read_part(root.join(name)) is None, name
