import errno
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.archive.chunks import plan_chunks
from digitsum.archive.reader import BATCH_ROWS, Rows, check_labels, read_chunk
from digitsum.archive.shards import Archive, open_archive
from digitsum.errors import InputError, StorageError
from digitsum.options import ImageShape, ReadOptions

SHAPE = ImageShape(2, 3)
OPTIONS = ReadOptions(height=2, width=3)


def read(archive: Archive, options: ReadOptions = OPTIONS, *, labels=False, size=1) -> list[Rows]:
    return [
        rows
        for shard in archive.shards
        for chunk in plan_chunks(shard, size)
        for rows in read_chunk(archive.root, chunk, options, labels=labels)
    ]


def image_column(num_images: int) -> pa.Array:
    return pa.array([bytes([row % 251] * 6) for row in range(num_images)], pa.binary(6))


@settings(max_examples=25)
@given(
    num_images=st.integers(1, 3 * BATCH_ROWS),
    group=st.sampled_from([700, BATCH_ROWS - 1, BATCH_ROWS + 1, 20_000]),
    chunk_images=st.sampled_from([1, BATCH_ROWS + BATCH_ROWS // 2, 100_000]),
)
def test_read_chunk_all_rows_in_order(
    num_images, group, chunk_images, write_parquet, make_batch, tmp_path_factory
):
    batch = make_batch(num_images, SHAPE)
    columns = {
        "image": pa.array([image.tobytes() for image in batch.pixels], pa.binary(6)),
        "image_id": batch.image_ids,
        "digit_sum": batch.digit_sums,
    }
    path = tmp_path_factory.mktemp("archive") / "a.parquet"
    write_parquet(path, columns, row_group_size=group)
    archive = open_archive(str(path), OPTIONS)
    parts = read(archive, labels=True, size=chunk_images)
    lengths = [len(rows.image_ids) for rows in parts]
    assert max(lengths) <= BATCH_ROWS
    assert [rows.first_row for rows in parts] == [0, *np.cumsum(lengths)[:-1]]
    assert not any(rows.errors for rows in parts)
    np.testing.assert_array_equal(np.concatenate([rows.pixels for rows in parts]), batch.pixels)
    assert pa.concat_arrays([rows.image_ids for rows in parts]).equals(batch.image_ids)
    sums = np.concatenate([rows.digit_sums for rows in parts])
    np.testing.assert_array_equal(sums, batch.digit_sums)


def test_read_named_columns(tmp_path, write_parquet):
    columns = {"scan": image_column(2), "key": ["x", "y"], "total": [3, 4], "image": [0, 1]}
    write_parquet(tmp_path / "a.parquet", columns)
    options = ReadOptions("scan", "key", "total", height=2, width=3)
    archive = open_archive(str(tmp_path), options)
    check_labels(archive, options, 1)
    (rows,) = read(archive, options, labels=True)
    assert rows.image_ids.to_pylist() == ["x", "y"]
    assert rows.digit_sums.tolist() == [3, 4]
    assert rows.pixels[1].tolist() == [[1] * 3] * 2


def test_read_without_labels(tmp_path, write_parquet):
    write_parquet(tmp_path / "a.parquet", {"image": image_column(1), "digit_sum": [None]})
    (rows,) = read(open_archive(str(tmp_path), OPTIONS))
    assert rows.digit_sums is None


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int64(), pa.uint64()], ids=str)
def test_read_label_types(kind, tmp_path, write_parquet):
    columns = {"image": image_column(2), "digit_sum": pa.array([0, 36], kind)}
    write_parquet(tmp_path / "a.parquet", columns)
    archive = open_archive(str(tmp_path), OPTIONS)
    check_labels(archive, OPTIONS, 4)
    (rows,) = read(archive, labels=True)
    assert rows.digit_sums.dtype == np.int64
    assert rows.digit_sums.tolist() == [0, 36]


def test_read_makes_ids(tmp_path, write_parquet):
    write_parquet(tmp_path / "a.parquet", {"image": image_column(3)}, row_group_size=2)
    write_parquet(tmp_path / "b" / "c.parquet", {"image": image_column(1)})
    archive = open_archive(str(tmp_path), OPTIONS)
    ids = [rows.image_ids.to_pylist() for rows in read(archive)]
    assert ids == [["a.parquet#0", "a.parquet#1"], ["a.parquet#2"], ["b/c.parquet#0"]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (pa.array([7, 2**63], pa.uint64()), ["7", "9223372036854775808"]),
        (["x", None], ["x", "a.parquet#1"]),  # scores take no null id, and no row is dropped
    ],
)
def test_read_ids(given, expected, tmp_path, write_parquet):
    write_parquet(tmp_path / "a.parquet", {"image": image_column(2), "image_id": given})
    (rows,) = read(open_archive(str(tmp_path), OPTIONS))
    assert rows.image_ids.equals(pa.array(expected))


def test_read_bad_image(tmp_path, write_parquet):
    images = pa.array([b"......"] * BATCH_ROWS + [b"......", b"bad", b"......"])
    write_parquet(tmp_path / "a.parquet", {"image": images})
    first, second = read(open_archive(str(tmp_path), OPTIONS))
    assert first.errors == {}
    assert set(second.errors) == {1}
    assert second.pixels[2].tobytes() == b"......"


def test_read_null_label(tmp_path, write_parquet):
    columns = {"image": image_column(6), "digit_sum": [1, 2, 3, 4, 5, None]}
    write_parquet(tmp_path / "a.parquet", columns, row_group_size=4)
    with pytest.raises(InputError, match=r"a\.parquet: row 5: 'digit_sum' is null"):
        read(open_archive(str(tmp_path), OPTIONS), labels=True)


@pytest.fixture(params=[True, False], ids=["statistics", "no statistics"])
def labelled(request, tmp_path, write_parquet):
    """Write a good shard and one with the labels given, two a row group; return its archive."""

    def write(labels: list) -> Archive:
        for name, sums in (("a.parquet", [0, 36, 9]), ("b.parquet", labels)):
            columns = {"image": image_column(len(sums)), "digit_sum": pa.array(sums, pa.int16())}
            options = {"row_group_size": 2, "write_statistics": request.param}
            write_parquet(tmp_path / name, columns, **options)
        column = pq.read_metadata(tmp_path / "b.parquet").row_group(0).column(1)
        assert column.is_stats_set == request.param
        return open_archive(str(tmp_path), OPTIONS)

    return write


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 37], "row group 1: .*holds 37, outside 0..36, the sums of 4 digits"),
        ([0, 1, 2, 3, -1], "row group 2: .*holds -1, outside 0..36"),
        ([99, 1, -5], "row group 0: .*holds 99"),
        ([0, 1, 2, None], "row group 1: .*holds 1 null"),
        ([0, 1, None, None], "row group 1: .*holds 2 nulls"),
    ],
)
def test_check_labels_wrong(labels, message, labelled):
    with pytest.raises(InputError, match=rf"b\.parquet: {message}"):
        check_labels(labelled(labels), OPTIONS, 4)


def test_check_labels_num_digits(labelled):
    check_labels(labelled([36, 0, 1, 2, 35]), OPTIONS, 4)
    check_labels(labelled([45]), OPTIONS, 5)
    with pytest.raises(InputError, match=r"a\.parquet: row group 0: .* 36, outside 0\.\.27"):
        check_labels(labelled([45]), OPTIONS, 3)


def test_check_labels_no_integers(tmp_path, write_parquet):
    write_parquet(tmp_path / "a.parquet", {"image": image_column(1), "weight": [0.5]})
    archive = open_archive(str(tmp_path), OPTIONS)
    with pytest.raises(InputError, match=r"a\.parquet: has no column 'digit_sum', only 'image'"):
        check_labels(archive, OPTIONS, 4)
    named = ReadOptions(label_column="weight", height=2, width=3)
    with pytest.raises(InputError, match=r"a\.parquet: column 'weight' is of type double"):
        check_labels(archive, named, 4)


def damage(path: Path, column: int) -> None:
    """Overwrite the middle of a column's values, as a disk does; the footer stays."""
    chunk = pq.read_metadata(path).row_group(0).column(column)
    data = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 100] = b"\xaa" * 100
    path.write_bytes(data)


@pytest.fixture
def noisy(tmp_path, write_parquet):
    """Write a shard of incompressible values, with statistics or not; return its path."""

    def write(*, statistics: bool) -> Path:
        rng = np.random.default_rng(0)
        columns = {
            "image": pa.array([rng.bytes(6) for _ in range(5000)], pa.binary(6)),
            "digit_sum": pa.array(rng.integers(37, size=5000), pa.int16()),
        }
        options = {"compression": "zstd", "use_dictionary": False, "write_statistics": statistics}
        return write_parquet(tmp_path / "a.parquet", columns, **options)

    return write


def test_check_labels_reads_footers_only(noisy):
    path = noisy(statistics=True)
    damage(path, column=1)
    check_labels(open_archive(str(path), OPTIONS), OPTIONS, 4)


def test_check_labels_damaged(noisy):
    path = noisy(statistics=False)
    damage(path, column=1)
    with pytest.raises(InputError, match=r"a\.parquet"):
        check_labels(open_archive(str(path), OPTIONS), OPTIONS, 4)


def test_read_damaged(noisy):
    path = noisy(statistics=True)
    damage(path, column=1)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read after row 0"):
        read(open_archive(str(path), OPTIONS), labels=True)


@pytest.mark.parametrize("change", ["gone", "shorter", "no image", "other size", "no label"])
def test_read_replaced_shard(change, tmp_path, write_parquet):
    path = tmp_path / "a.parquet"
    columns = {"image": image_column(4), "digit_sum": [1, 2, 3, 4]}
    write_parquet(path, columns, row_group_size=2)
    archive = open_archive(str(tmp_path), OPTIONS)
    if change == "gone":
        path.unlink()
    elif change == "shorter":
        write_parquet(path, {"image": image_column(2), "digit_sum": [1, 2]}, row_group_size=2)
    else:
        columns |= {"other size": {"image": pa.array([bytes(9)] * 4, pa.binary(9))}}.get(change, {})
        columns.pop({"no image": "image", "no label": "digit_sum"}.get(change), None)
        write_parquet(path, columns, row_group_size=2)
    with pytest.raises(InputError, match=r"a\.parquet"):
        read(archive, labels=True)


def test_read_storage_error(tmp_path, write_parquet, monkeypatch):
    write_parquet(tmp_path / "a.parquet", {"image": [bytes(40 * 168)] * 3})
    archive = open_archive(str(tmp_path), ReadOptions())
    (chunk,) = plan_chunks(archive.shards[0], 10)

    def time_out(*_):
        raise OSError(errno.ETIMEDOUT, "timed out")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", time_out)
    with pytest.raises(StorageError, match=r"a\.parquet: cannot be read after row 0.*timed out"):
        list(read_chunk(archive.root, chunk, ReadOptions()))
