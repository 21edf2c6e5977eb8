"""True digits: synth writes them as a column beside the sums, and the reader finds them there."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digitsum.archive.chunks import plan_chunks
from digitsum.archive.reader import Rows, check_labels, read_chunk
from digitsum.archive.shards import open_archive
from digitsum.archive.synth import BLOCK_IMAGES, SynthConfig, synth
from digitsum.archive.writer import ImageBatch, write_archive
from digitsum.errors import InputError
from digitsum.options import ImageShape, ReadOptions

OPTIONS = ReadOptions(height=2, width=3)
DIGITS_TYPE = pa.list_(pa.int8())


@pytest.fixture
def make(tmp_path, glyph_file):
    """Synthesize a small archive; return its table."""

    def make(name: str, images: int = 20, **options) -> pa.Table:
        options = {"digits": 3, "height": 30, "width": 80, "glyphs": glyph_file} | options
        synth(SynthConfig(out=str(tmp_path / name), images=images, **options))
        paths = sorted((tmp_path / name).iterdir())
        return pa.concat_tables([pq.read_table(path) for path in paths])

    return make


def read(path, options=ReadOptions(), *, labels=True) -> list[Rows]:  # noqa: B008
    archive = open_archive(str(path), options)
    return [
        rows
        for shard in archive.shards
        for chunk in plan_chunks(shard, 1)
        for rows in read_chunk(archive.root, chunk, options, labels=labels)
    ]


def columns(**others) -> dict:
    return {
        "image": pa.array([bytes(6), bytes([1] * 6)], pa.binary(6)),
        "digit_sum": pa.array([3, 9], pa.int16()),
        **others,
    }


def test_synth_digits_add_up_to_sums(make):
    table = make("a", 50, true_digits=True)
    assert table.schema.field("digits").type == DIGITS_TYPE
    digits = table["digits"].to_pylist()
    assert {len(row) for row in digits} == {3}
    assert [sum(row) for row in digits] == table["digit_sum"].to_pylist()
    assert {digit for row in digits for digit in row} == set(range(10))


def test_synth_same_images_with_digits(make):
    images = BLOCK_IMAGES + 30
    without = make("without", images, shards=3)
    with_digits = make("with", images, shards=3, true_digits=True)
    assert without.column_names == ["image_id", "image", "digit_sum"]
    assert with_digits.column_names == ["image_id", "image", "digit_sum", "digits"]
    assert with_digits.drop_columns(["digits"]).to_pydict() == without.to_pydict()


def test_synth_digits_any_number_of_shards(make):
    one, seven = (make(f"{n}", 50, shards=n, true_digits=True) for n in (1, 7))
    assert one["digits"].to_pylist() == seven["digits"].to_pylist()


def test_synth_digits_unlabelled():
    with pytest.raises(InputError, match=r"--unlabelled --true-digits: .* give one"):
        SynthConfig(out="unused", images=5, unlabelled=True, true_digits=True)


def test_read_digits_across_row_groups(tmp_path):
    rng = np.random.default_rng(0)
    digits = rng.integers(10, size=(9000, 2)).astype(np.uint8)
    pixels = np.zeros((9000, 2, 3), np.uint8)
    pixels[:, 0, :2] = digits
    ids = pa.array([f"image-{row}" for row in range(9000)])
    whole = ImageBatch(ids, pixels, digits.sum(axis=1, dtype=np.int16), digits)
    batches = [whole.slice(0, 5), whole.slice(5, 8900), whole.slice(8900, 9000)]
    write_archive(
        str(tmp_path), batches, ImageShape(2, 3), [8500, 500], labelled=True, with_digits=True
    )
    parts = read(tmp_path)
    assert len(parts) > 2
    for rows in parts:
        assert rows.digits == rows.pixels[:, 0, :2].tolist()
        assert [sum(row) for row in rows.digits] == rows.digit_sums.tolist()


def test_read_digits_only_with_labels(make, tmp_path):
    digits = make("a", true_digits=True)["digits"].to_pylist()
    make("without")
    (rows,) = read(tmp_path / "a")
    assert rows.digits == digits
    (rows,) = read(tmp_path / "a", labels=False)
    assert rows.digits is rows.digit_sums is None
    (rows,) = read(tmp_path / "without")
    assert rows.digits is None
    assert rows.digit_sums is not None


def test_check_labels_with_digits(make, tmp_path):
    make("a", true_digits=True)
    archive = open_archive(str(tmp_path / "a"), ReadOptions())
    check_labels(archive, ReadOptions(), 3)
    with pytest.raises(InputError, match=r"outside 0\.\.9"):
        check_labels(archive, ReadOptions(), 1)


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
def test_read_digits_of_other_type(digits, tmp_path, write_parquet):
    write_parquet(tmp_path / "a.parquet", columns(digits=digits))
    (rows,) = read(tmp_path, OPTIONS)
    assert rows.digits is None
    assert rows.digit_sums.tolist() == [3, 9]


def test_read_digits_of_some_shards(tmp_path, write_parquet):
    digits = pa.array([[1, 2], [9]], DIGITS_TYPE)
    write_parquet(tmp_path / "a.parquet", columns())
    write_parquet(tmp_path / "b.parquet", columns(digits=digits))
    assert [rows.digits for rows in read(tmp_path, OPTIONS)] == [None, [[1, 2], [9]]]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize(
    ("option", "column"),
    [
        ("image_column", pa.array([bytes(6), bytes([1] * 6)], pa.binary(6))),
        ("id_column", pa.array(["a", "b"])),
        ("label_column", pa.array([3, 9], pa.int16())),
    ],
)
def test_read_digits_named_otherwise(option, column, labels, tmp_path, write_parquet):
    write_parquet(tmp_path / "a.parquet", columns(digits=column))
    options = ReadOptions(**{"height": 2, "width": 3, option: "digits"})
    (rows,) = read(tmp_path, options, labels=labels)
    assert rows.digits is None
    assert rows.pixels.shape == (2, 2, 3)
