import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, repeat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.archive.chunks import plan_chunks
from digitsum.archive.reader import read_chunk
from digitsum.archive.shards import open_archive
from digitsum.archive.writer import ROW_GROUP_IMAGES, ImageBatch, write_archive
from digitsum.cli import main
from digitsum.errors import InputError
from digitsum.options import ImageShape, ReadOptions

SHAPE = ImageShape(2, 3)
TINY = ImageShape(1, 1)


def row_groups(path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


@pytest.mark.parametrize("labelled", [True, False])
def test_written_schema(labelled, tmp_path, make_batch):
    batch = make_batch(3, SHAPE, labelled=labelled)
    write_archive(str(tmp_path), [batch], SHAPE, [3], labelled=labelled)
    types = {"image_id": pa.string(), "image": pa.binary(6), "digit_sum": pa.int16()}
    fields = [pa.field(name, kind, nullable=False) for name, kind in types.items()]
    metadata = {"digitsum.format": "1", "digitsum.height": "2", "digitsum.width": "3"}
    expected = pa.schema(fields if labelled else fields[:2], metadata)
    schema = pq.read_schema(tmp_path / "shard-00000.parquet")
    assert schema.equals(expected, check_metadata=True)


def test_written_encoding(tmp_path, make_batch):
    write_archive(str(tmp_path), [make_batch(100, SHAPE)], SHAPE, [100], labelled=True)
    group = pq.read_metadata(tmp_path / "shard-00000.parquet").row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(3)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert not columns["image"].has_dictionary_page
    assert not columns["image"].is_stats_set
    assert columns["digit_sum"].statistics.has_min_max
    assert columns["digit_sum"].statistics.max == 36


def test_written_row_groups(tmp_path, make_batch):
    written = write_archive(
        str(tmp_path), [make_batch(20_000, SHAPE)], SHAPE, [17_000, 3000], labelled=True
    )
    assert row_groups(tmp_path / "shard-00000.parquet") == [8192, 8192, 616]
    assert row_groups(tmp_path / "shard-00001.parquet") == [3000]
    assert (written.num_images, written.num_shards) == (20_000, 2)
    assert (written.uri, written.shape) == (str(tmp_path), SHAPE)


@settings(max_examples=20)
@given(
    batches=st.lists(st.sampled_from([0, 1, 7, 4096, 8191, 8192, 8193]), max_size=4),
    shard_images=st.sampled_from([8192, 9000, 16_384, 50_000]),
)
def test_write_batches_of_any_size(batches, shard_images, make_batch, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive")
    total = sum(batches)
    whole = make_batch(total, TINY)
    ends = np.cumsum([0, *batches]).tolist()
    source = (whole.slice(start, end) for start, end in pairwise(ends))
    written = write_archive(str(path), source, TINY, repeat(shard_images), labelled=True)
    shards = sorted(path.iterdir())
    sizes = [min(shard_images, total - start) for start in range(0, total, shard_images)]
    assert (written.num_images, written.num_shards) == (total, len(sizes))
    assert [path.name for path in shards] == [f"shard-{n:05d}.parquet" for n in range(len(sizes))]
    groups = [
        [min(ROW_GROUP_IMAGES, size - start) for start in range(0, size, ROW_GROUP_IMAGES)]
        for size in sizes
    ]
    assert [row_groups(shard) for shard in shards] == groups
    if total:
        table = pq.read_table(path)
        assert table.column("image_id").combine_chunks().equals(whole.image_ids)
        assert b"".join(table.column("image").to_pylist()) == whole.pixels.tobytes()
        assert table.column("digit_sum").to_pylist() == whole.digit_sums.tolist()


def test_write_strided_pixels(tmp_path, make_batch):
    batch = make_batch(6, ImageShape(3, 2))
    turned = replace(batch, pixels=batch.pixels.transpose(0, 2, 1))
    write_archive(str(tmp_path), [turned], SHAPE, [4, 2], labelled=True)
    images = pq.read_table(tmp_path).column("image").to_pylist()
    assert images == [image.T.tobytes() for image in batch.pixels]


@pytest.mark.parametrize("name", ["shard-00000.parquet", "other.parquet", "day=1/a.parquet"])
def test_write_beside_shards(name, tmp_path, make_batch, write_parquet, content):
    write_parquet(tmp_path / name, {"image": [b"......"]})
    before = content(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path}: already holds shards"):
        write_archive(str(tmp_path), [make_batch(1, SHAPE)], SHAPE, [1], labelled=True)
    assert content(tmp_path) == before


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
@pytest.mark.parametrize("good_batches", [0, 1, 3])
def test_write_failed_source(error, good_batches, tmp_path, make_batch, content):
    (tmp_path / "notes.txt").write_bytes(b"mine")

    def source() -> Iterator[ImageBatch]:
        for number in range(good_batches):
            yield make_batch(5, SHAPE, first=5 * number)
        raise error

    with pytest.raises(error):
        write_archive(str(tmp_path), source(), SHAPE, [3] * 9, labelled=True)
    assert content(tmp_path) == {"notes.txt": b"mine"}


def test_write_publishes_each_shard(tmp_path, make_batch):
    seen: list[list[int]] = []

    def source() -> Iterator[ImageBatch]:
        for number in range(3):
            seen.append(sorted(pq.read_metadata(p).num_rows for p in tmp_path.glob("*.parquet")))
            yield make_batch(4, SHAPE, first=4 * number)

    write_archive(str(tmp_path), source(), SHAPE, [4, 4, 4], labelled=True)
    assert seen == [[], [4], [4, 4]]


def test_write_then_read(tmp_path, make_batch):
    """Row groups and batches begin at different rows, and no column is shifted."""
    batch = make_batch(9000, SHAPE)
    whole = replace(batch, digits=batch.pixels[:, 0, :2] % 10)
    source = [whole.slice(0, 5), whole.slice(5, 8900), whole.slice(8900, 9000)]
    write_archive(str(tmp_path), source, SHAPE, [8500, 500], labelled=True, with_digits=True)
    archive = open_archive(str(tmp_path), ReadOptions())
    assert [(s.num_rows, s.shape) for s in archive.shards] == [(8500, SHAPE), (500, SHAPE)]
    rows = [
        rows
        for shard in archive.shards
        for chunk in plan_chunks(shard, 1)
        for rows in read_chunk(archive.root, chunk, ReadOptions(), labels=True)
    ]
    np.testing.assert_array_equal(np.concatenate([some.pixels for some in rows]), batch.pixels)
    assert pa.concat_arrays([some.image_ids for some in rows]).equals(batch.image_ids)
    assert np.concatenate([some.digit_sums for some in rows]).tolist() == batch.digit_sums.tolist()
    assert [digits for some in rows for digits in some.digits] == whole.digits.tolist()


def test_write_memory_is_flat(tmp_path, make_batch):
    alive: list[int] = []
    pixels: list[weakref.ref] = []

    def source() -> Iterator[ImageBatch]:
        for number in range(12):
            alive.append(sum(pixel() is not None for pixel in pixels))
            batch = make_batch(5000, TINY, first=5000 * number)
            batch = replace(batch, pixels=batch.pixels.copy())  # which no view refers to otherwise
            pixels.append(weakref.ref(batch.pixels))
            yield batch
            del batch

    write_archive(str(tmp_path), source(), TINY, [60_000], labelled=True)
    assert len(alive) == 12
    assert max(alive) <= 4  # those of a row group, and the one that is yielded


@pytest.mark.parametrize(
    ("name", "reason"), [("file", "is a file"), ("file/archive", "cannot be ")]
)
def test_write_in_place_of_file(name, reason, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["synth", "--out", str(tmp_path / name), "--images", "1"]) == 2
    assert capsys.readouterr().err.startswith(f"digitsum: {tmp_path / name}: {reason}")
    assert (tmp_path / "file").read_text() == "in the way"
