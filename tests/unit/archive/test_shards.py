import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import check_unchanged, plan_chunks
from digitsum.archive.shards import Fingerprint, Shard, list_shards, open_archive
from digitsum.errors import InputError
from digitsum.options import ImageShape, ReadOptions
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate

SHAPE = ImageShape(2, 3)
OPTIONS = ReadOptions(height=2, width=3)


@pytest.fixture
def write_shard(write_parquet):
    """Write a shard of one image a row group."""

    def write(path: Path, num_images: int = 2, **options) -> Path:
        images = pa.array([bytes(6)] * num_images, pa.binary(6))
        return write_parquet(path, {"image": images}, row_group_size=1, **options)

    return write


def listed(path: Path) -> list[str]:
    return [shard.path for shard in list_shards(locate(str(path)))[1]]


def test_list_shards(tmp_path, write_shard):
    in_order = ["a-.parquet", "a/1.parquet", "a/2.parquet", "b.parquet", "day=3/x y.parquet"]
    for name in reversed(in_order):
        write_shard(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no shard")
    assert listed(tmp_path) == in_order


@pytest.mark.parametrize(
    "hidden", ["_runs/1/a.parquet", ".tmp-1.parquet", "_a.parquet", "a/.b/c/d.parquet"]
)
def test_list_shards_hidden(hidden, tmp_path, write_shard):
    archive = tmp_path / "_tmp" / ".an archive may lie here"
    write_shard(archive / "shard.parquet")
    write_shard(archive / hidden)
    assert listed(archive) == ["shard.parquet"]


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/../archive", "file://{}", "file://{}/"])
def test_open_archive_by_any_name(form, tmp_path, write_shard):
    write_shard(tmp_path / "archive" / "a.parquet")
    archive = open_archive(form.format(tmp_path / "archive"), OPTIONS)
    assert [shard.file.path for shard in archive.shards] == ["a.parquet"]
    assert archive.num_images == 2


@pytest.mark.parametrize("name", ["a.parquet", "images.pq"])
def test_open_archive_single_file(name, tmp_path, write_shard):
    write_shard(tmp_path / "neighbour.parquet")
    archive = open_archive(str(write_shard(tmp_path / name)), OPTIONS)
    assert [shard.file.path for shard in archive.shards] == [name]
    assert archive.root.join(name).is_file()


@pytest.mark.parametrize("directory", ["plain", "what?", "50% #1"])
def test_archive_root_is_locatable(directory, tmp_path, write_shard):
    # Scoring and training hand the root's URI to other processes.
    archive = open_archive(str(write_shard(tmp_path / directory / "a.parquet")), OPTIONS)
    assert locate(archive.root.uri).join("a.parquet").is_file()


def test_list_shards_absent(tmp_path, write_shard):
    with pytest.raises(InputError, match=r"nowhere: no such file or directory"):
        list_shards(locate(str(tmp_path / "nowhere")))
    write_shard(tmp_path / "_hidden.parquet")
    with pytest.raises(InputError, match=rf"{tmp_path}: holds no \.parquet files"):
        list_shards(locate(str(tmp_path)))


@pytest.mark.parametrize("damage", ["empty", "3 bytes", "half", "all but 1", "footer"])
def test_open_damaged_shard(damage, tmp_path, write_shard):
    data = write_shard(tmp_path / "whole.parquet").read_bytes()
    kept = {"empty": 0, "3 bytes": 3, "half": len(data) // 2, "all but 1": -1, "footer": -60}
    end = b"\xff" * 52 + data[-8:] if damage == "footer" else b""
    (tmp_path / "broken.parquet").write_bytes(data[: kept[damage]] + end)
    message = r"broken\.parquet: (not a whole Parquet file|cannot be read: Couldn't deser)"
    with pytest.raises(InputError, match=message):
        open_archive(str(tmp_path), OPTIONS)


@pytest.mark.parametrize(
    "metadata",
    [
        {"digitsum.format": "2"},
        {"digitsum.format": b"\xff"},
        {"digitsum.height": "tall", "digitsum.width": "3"},
        {"digitsum.height": "0", "digitsum.width": "3"},
    ],
    ids=str,
)
def test_open_bad_metadata(metadata, tmp_path, write_shard):
    write_shard(tmp_path / "a.parquet", metadata=metadata)
    with pytest.raises(InputError, match=r"a\.parquet"):
        open_archive(str(tmp_path), OPTIONS)


def test_open_default_shape(tmp_path, write_shard):
    write_shard(tmp_path / "a.parquet")
    write_shard(tmp_path / "b.parquet", metadata={"digitsum.height": "3", "digitsum.width": "2"})
    archive = open_archive(str(tmp_path), ReadOptions(), SHAPE)
    assert [shard.shape for shard in archive.shards] == [SHAPE, ImageShape(3, 2)]


@pytest.mark.parametrize("ids", [["a"], [7], pa.array(["a"], pa.large_string())], ids=str)
def test_open_id_types(ids, tmp_path, write_parquet):
    columns = {"image": pa.array([bytes(6)], pa.binary(6)), "image_id": ids, "scan": ids}
    write_parquet(tmp_path / "a.parquet", columns)
    for column in ("image_id", "scan"):
        options = ReadOptions(id_column=column, height=2, width=3)
        assert open_archive(str(tmp_path), options).shards[0].id_column == column


@pytest.mark.parametrize(
    ("option", "column", "message"),
    [
        ("id_column", "weight", "column 'weight' is of type double"),
        ("id_column", "scan", "has no column 'scan'"),
        ("image_column", "weight", "column 'weight' is of type double"),
    ],
)
def test_open_bad_column(option, column, message, tmp_path, write_parquet):
    images = pa.array([bytes(6)], pa.binary(6))
    write_parquet(tmp_path / "a.parquet", {"image": images, "weight": [0.5]})
    assert open_archive(str(tmp_path), OPTIONS).shards[0].id_column is None
    with pytest.raises(InputError, match=rf"a\.parquet: {message}"):
        open_archive(str(tmp_path), replace(OPTIONS, **{option: column}))


def test_fingerprint_of_file(tmp_path, write_shard):
    path = write_shard(tmp_path / "a.parquet")

    def fingerprint(mtime: int) -> Fingerprint:
        os.utime(path, (mtime, mtime))
        return open_archive(str(tmp_path), OPTIONS).shards[0].fingerprint

    before = fingerprint(mtime=1_000_000)
    assert fingerprint(mtime=1_000_000) == before
    assert fingerprint(mtime=1_000_001) != before
    write_shard(path, 3)
    assert fingerprint(mtime=1_000_000) != before


row_groups = st.lists(st.integers(0, 50), max_size=30).map(tuple)


def shard_of(rows: tuple[int, ...]) -> Shard:
    return Shard(ListedFile("a/b.parquet", 100, 5), rows, SHAPE, "image_id")


@given(row_groups, st.integers(1, 200))
def test_plan_chunks_tile_all_rows(rows, chunk_images):
    chunks = plan_chunks(shard_of(rows), chunk_images)
    assert plan_chunks(shard_of(rows), chunk_images) == chunks
    next_row = 0
    groups: list[int] = []
    for chunk in chunks:
        assert chunk.first_row == next_row == sum(rows[: chunk.row_groups[0]])
        assert chunk.num_rows == sum(rows[group] for group in chunk.row_groups) > 0
        next_row += chunk.num_rows
        groups += chunk.row_groups
        # No row group too many, nor, except in the last chunk, too few.
        assert chunk.num_rows - rows[chunk.row_groups[-1]] < chunk_images
        assert chunk.num_rows >= chunk_images or chunk is chunks[-1]
        assert (chunk.shard, chunk.shape, chunk.id_column) == ("a/b.parquet", SHAPE, "image_id")
        assert chunk.id.fingerprint == shard_of(rows).fingerprint
    assert next_row == sum(rows)
    assert groups == list(range(len(groups)))
    assert not any(rows[len(groups) :])


def test_plan_chunks_empty_shard(tmp_path, write_shard):
    write_shard(tmp_path / "a.parquet", 0)
    archive = open_archive(str(tmp_path), OPTIONS)
    assert archive.num_images == 0
    assert plan_chunks(archive.shards[0], 10) == []


def test_check_unchanged(tmp_path, write_shard):
    path = write_shard(tmp_path / "a.parquet")
    archive = open_archive(str(tmp_path), OPTIONS)
    [chunk] = plan_chunks(archive.shards[0], 10)
    check_unchanged(archive.root, chunk)
    for change in (lambda: write_shard(path), path.unlink):
        change()
        with pytest.raises(InputError, match=r"a\.parquet: was replaced or removed during the run"):
            check_unchanged(archive.root, chunk)


def test_fingerprint_of_read_options(tmp_path, write_parquet):
    images = [b"x" * 6720] * 3
    columns = {"image": images, "other": images, "image_id": ["a", "b", "c"], "number": [1, 2, 3]}
    write_parquet(tmp_path / "a.parquet", columns)
    options = [
        ReadOptions(),
        ReadOptions(image_column="other"),
        ReadOptions(id_column="number"),
        ReadOptions(height=80, width=84),
    ]
    shards = [open_archive(str(tmp_path), option).shards[0] for option in options]
    assert len({shard.fingerprint for shard in shards}) == len(options)
    again = open_archive(str(tmp_path), ReadOptions(label_column="sum")).shards[0]
    assert again.fingerprint == shards[0].fingerprint  # scores do not depend on labels
