import errno
from collections.abc import Callable

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


@pytest.fixture
def archive_of(tmp_path, write_parquet) -> Callable[..., Archive]:
    """Write columns as a shard, `a.parquet` by default, and open the archive."""

    def write(columns: dict, options: ReadOptions = OPTIONS, **written) -> Archive:
        write_parquet(tmp_path / "a.parquet", columns, **written)
        return open_archive(str(tmp_path), options)

    return write


def test_read_named_columns(archive_of):
    columns = {"scan": image_column(2), "key": ["x", "y"], "total": [3, 4], "image": [0, 1]}
    options = ReadOptions("scan", "key", "total", height=2, width=3)
    archive = archive_of(columns, options)
    check_labels(archive, options, 1)
    (rows,) = read(archive, options, labels=True)
    assert rows.image_ids.to_pylist() == ["x", "y"]
    assert rows.digit_sums.tolist() == [3, 4]
    assert rows.pixels[1].tolist() == [[1] * 3] * 2


def test_read_without_labels(archive_of):
    (rows,) = read(archive_of({"image": image_column(1), "digit_sum": [None]}))
    assert rows.digit_sums is None


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int64(), pa.uint64()], ids=str)
def test_read_label_types(kind, archive_of):
    archive = archive_of({"image": image_column(2), "digit_sum": pa.array([0, 36], kind)})
    check_labels(archive, OPTIONS, 4)
    (rows,) = read(archive, labels=True)
    assert rows.digit_sums.dtype == np.int64
    assert rows.digit_sums.tolist() == [0, 36]


@pytest.mark.parametrize(
    "digits",
    [
        pa.array([3, 9], pa.int8()),
        pa.array(["3", "9"]),
        pa.array([b"\x03", b"\x09"]),
        pa.array([[3], [9]], pa.list_(pa.int64())),
        pa.array([[3], [9]], pa.list_(pa.float32())),
        pa.array([["3"], ["9"]]),
        pa.array([{"a": 3}, {"a": 9}]),
    ],
    ids=lambda array: str(array.type),
)
def test_read_digits_of_other_type(digits, archive_of):
    columns = {"image": image_column(2), "digit_sum": [3, 9], "digits": digits}
    (rows,) = read(archive_of(columns), labels=True)
    assert rows.digits is None
    assert rows.digit_sums.tolist() == [3, 9]


def test_read_digits_of_some_shards(archive_of, tmp_path, write_parquet):
    columns = {"image": image_column(2), "digit_sum": [3, 9]}
    digits = [[1, 2], [9]]
    with_digits = columns | {"digits": pa.array(digits, pa.list_(pa.int8()))}
    write_parquet(tmp_path / "b.parquet", with_digits)
    archive = archive_of(columns)
    check_labels(archive, OPTIONS, 1)
    assert [rows.digits for rows in read(archive, labels=True)] == [None, digits]
    assert [rows.digits for rows in read(archive)] == [None, None]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize(
    ("option", "column"),
    [("image_column", image_column(2)), ("id_column", ["a", "b"]), ("label_column", [3, 9])],
)
def test_read_digits_named_otherwise(option, column, labels, archive_of):
    options = ReadOptions(**{"height": 2, "width": 3, option: "digits"})
    columns = {"image": image_column(2), "digit_sum": [3, 9], "digits": column}
    (rows,) = read(archive_of(columns, options), options, labels=labels)
    assert rows.digits is None
    assert rows.pixels.shape == (2, 2, 3)


def test_read_makes_ids(archive_of, tmp_path, write_parquet):
    write_parquet(tmp_path / "b" / "c.parquet", {"image": image_column(1)})
    archive = archive_of({"image": image_column(3)}, row_group_size=2)
    ids = [rows.image_ids.to_pylist() for rows in read(archive)]
    assert ids == [["a.parquet#0", "a.parquet#1"], ["a.parquet#2"], ["b/c.parquet#0"]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (pa.array([7, 2**63], pa.uint64()), ["7", "9223372036854775808"]),
        (["x", None], ["x", "a.parquet#1"]),  # scores take no null id, and no row is dropped
    ],
)
def test_read_ids(given, expected, archive_of):
    (rows,) = read(archive_of({"image": image_column(2), "image_id": given}))
    assert rows.image_ids.equals(pa.array(expected))


def test_read_bad_image(archive_of):
    images = pa.array([b"......"] * BATCH_ROWS + [b"......", b"bad", b"......"])
    first, second = read(archive_of({"image": images}))
    assert first.errors == {}
    assert set(second.errors) == {1}
    assert second.pixels[2].tobytes() == b"......"


def test_read_null_label(archive_of):
    columns = {"image": image_column(6), "digit_sum": [1, 2, 3, 4, 5, None]}
    with pytest.raises(InputError, match=r"a\.parquet: row 5: 'digit_sum' is null"):
        read(archive_of(columns, row_group_size=4), labels=True)


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


def test_check_labels_no_integers(archive_of):
    archive = archive_of({"image": image_column(1), "weight": [0.5]})
    with pytest.raises(InputError, match=r"a\.parquet: has no column 'digit_sum', only 'image'"):
        check_labels(archive, OPTIONS, 4)
    named = ReadOptions(label_column="weight", height=2, width=3)
    with pytest.raises(InputError, match=r"a\.parquet: column 'weight' is of type double"):
        check_labels(archive, named, 4)


@pytest.fixture
def damaged(archive_of, tmp_path):
    """Write a shard whose labels cannot be read, though its footer can, as a disk damages it."""

    def write(*, statistics: bool) -> Archive:
        rng = np.random.default_rng(0)
        columns = {
            "image": image_column(5000),
            "digit_sum": pa.array(rng.integers(37, size=5000), pa.int16()),
        }
        options = {"compression": "zstd", "use_dictionary": False, "write_statistics": statistics}
        archive = archive_of(columns, **options)
        chunk = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(1)
        with (tmp_path / "a.parquet").open("r+b") as file:
            file.seek(chunk.data_page_offset + chunk.total_compressed_size // 2)
            file.write(b"\xaa" * 100)
        return archive

    return write


def test_check_labels_reads_footers_only(damaged):
    check_labels(damaged(statistics=True), OPTIONS, 4)


def test_read_damaged_labels(damaged):
    with pytest.raises(InputError, match=r"a\.parquet: row group 0: .* cannot be read"):
        check_labels(damaged(statistics=False), OPTIONS, 4)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read after row 0"):
        read(damaged(statistics=True), labels=True)


@pytest.mark.parametrize("change", ["gone", "shorter", "no image", "other size", "no label"])
def test_read_replaced_shard(change, archive_of, tmp_path, write_parquet):
    path = tmp_path / "a.parquet"
    columns = {"image": image_column(4), "digit_sum": [1, 2, 3, 4]}
    archive = archive_of(columns, row_group_size=2)
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


def test_read_storage_error(archive_of, monkeypatch):
    archive = archive_of({"image": image_column(3)})

    def time_out(*_):
        raise OSError(errno.ETIMEDOUT, "timed out")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", time_out)
    with pytest.raises(StorageError, match=r"a\.parquet: cannot be read after row 0.*timed out"):
        read(archive)
