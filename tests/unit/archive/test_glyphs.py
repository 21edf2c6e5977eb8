import gzip
import struct
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from digitsum.archive.glyphs import Glyphs, load_glyphs, read_idx, take_split
from digitsum.errors import InputError

SPLITS = ("train", "val", "test")
NAMES = ("{}-images-idx3-ubyte", "{}-labels-idx1-ubyte")


def numbered(num_glyphs: int, first: int = 0) -> Glyphs:
    """Return glyphs that tell which they are by their first pixels; all ten digits in turn."""
    numbers = np.arange(first, first + num_glyphs)
    pixels = np.zeros((num_glyphs, 28, 28), np.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = numbers // 256, numbers % 256
    return Glyphs(pixels, (numbers % 10).astype(np.uint8))


def numbers_of(glyphs: Glyphs) -> list[int]:
    return (glyphs.pixels[:, 0, 0].astype(int) * 256 + glyphs.pixels[:, 0, 1]).tolist()


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_idx_pair(
    directory: Path, part: str, glyphs: Glyphs, pack: Callable = bytes, end: str = ""
) -> Path:
    for name, values in zip(NAMES, (glyphs.pixels, glyphs.digits), strict=True):
        (directory / (name.format(part) + end)).write_bytes(pack(idx(values)))
    return directory / (NAMES[0].format(part) + end)


def test_embedded_glyphs(embedded_train):
    pixels, digits = embedded_train.pixels, embedded_train.digits
    assert pixels.shape == (4000, 28, 28)
    assert pixels.dtype == digits.dtype == np.uint8
    assert np.bincount(digits).tolist() == [400] * 10
    assert (pixels.max(), pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]].max()) == (255, 0)


@pytest.mark.parametrize("num_glyphs", [100, 137, 999, 1000])
def test_split_80_10_10(num_glyphs):
    splits = [take_split(numbered(num_glyphs), split) for split in SPLITS]
    assert sorted(chain(*map(numbers_of, splits))) == list(range(num_glyphs))
    for split, share in zip(splits, (0.8, 0.1, 0.1), strict=True):
        assert (split.digits == np.array(numbers_of(split)) % 10).all()
        of_digit = np.bincount(numbered(num_glyphs).digits) * share
        assert (abs(np.bincount(split.digits) - of_digit) < 1).all()


def test_split_is_pinned():
    # Pinned: were these to change, glyphs would move from old training sets to new test sets.
    first = numbers_of(take_split(numbered(200), "test"))[:8]
    assert first == [1, 20, 23, 42, 48, 51, 77, 89]


def test_split_too_few_glyphs():
    with pytest.raises(InputError, match=r"too few glyphs \(5\) for a val split"):
        take_split(numbered(5), "val")


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_read_idx(shape, pack, tmp_path):
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "file").write_bytes(pack(idx(values)))
    np.testing.assert_array_equal(read_idx(tmp_path / "file"), values)


IDX = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
GZIPPED = gzip.compress(IDX)


def header(*shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


MALFORMED_IDX = {
    "empty": b"",
    "2 bytes": b"\0\0",
    "text": b"plain text, no IDX file",
    "header cut": IDX[:10],
    "value missing": IDX[:-1],
    "value too many": IDX + b"\0",
    "no zeros": b"\1" + IDX[1:],
    "floats": IDX[:2] + b"\x0d" + IDX[3:],
    "gzip cut": GZIPPED[:-12],
    "gzipped, value missing": gzip.compress(IDX[:-1]),
    "gzip damaged": GZIPPED[:10] + b"\x07" + GZIPPED[11:],
    "gzip of another checksum": GZIPPED[:-8] + b"\0" + GZIPPED[-7:],
    "huge but no values": header(0, *[2**32 - 1] * 3),
    "huge, then no values": header(*[2**32 - 1] * 3, 0),
    "100 dimensions": header(*[1] * 100) + b"\0",
    "2^64 values": header(*[2**16] * 4),
}


@pytest.mark.parametrize("data", MALFORMED_IDX.values(), ids=MALFORMED_IDX)
def test_read_idx_malformed(data, tmp_path):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(InputError, match="file: cannot be read as an IDX file"):
        read_idx(tmp_path / "file")


def mnist_directory(path: Path, pack: Callable = bytes, end: str = "") -> Path:
    write_idx_pair(path, "train", numbered(200), pack, end)
    write_idx_pair(path, "t10k", numbered(30, first=1000), pack, end)
    return path


def keras_npz(path: Path) -> Path:
    train, test = numbered(200), numbered(30, first=1000)
    arrays = {"x_train": train.pixels, "y_train": train.digits.astype(np.int64)}
    np.savez(path / "mnist.npz", **arrays, x_test=test.pixels, y_test=test.digits)
    return path / "mnist.npz"


def plain_npz(path: Path) -> Path:
    np.savez_compressed(path / "a.npz", images=numbered(200).pixels, labels=numbered(200).digits)
    return path / "a.npz"


OWN_TEST_PART = {
    "MNIST's files": mnist_directory,
    "gzipped": lambda path: mnist_directory(path, gzip.compress, ".gz"),
    "Keras": keras_npz,
}


@pytest.mark.parametrize("make", OWN_TEST_PART.values(), ids=OWN_TEST_PART)
def test_load_glyphs_own_test_part(make, tmp_path):
    train, val, test = (load_glyphs(str(make(tmp_path)), split) for split in SPLITS)
    assert (len(train), len(val)) == (180, 20)
    assert sorted(numbers_of(train) + numbers_of(val)) == list(range(200))
    assert numbers_of(test) == list(range(1000, 1030))
    assert train.digits.dtype == np.uint8


@pytest.mark.parametrize(
    "make", [lambda path: write_idx_pair(path, "emnist", numbered(200)), plain_npz]
)
def test_load_glyphs_split_here(make, tmp_path):
    splits = [numbers_of(load_glyphs(str(make(tmp_path)), split)) for split in SPLITS]
    assert [len(split) for split in splits] == [160, 20, 20]
    assert sorted(chain(*splits)) == list(range(200))


def test_load_glyphs_missing_idx(tmp_path):
    path = write_idx_pair(tmp_path, "train", numbered(200))
    with pytest.raises(InputError, match="holds no t10k-images"):
        load_glyphs(str(tmp_path), "test")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="put train-labels-idx1-ubyte there"):
        load_glyphs(str(path), "train")
    with pytest.raises(InputError, match="labels are not beside it"):
        load_glyphs(str(path.rename(tmp_path / "digits")), "train")


PIXELS, DIGITS = numbered(100).pixels, numbered(100).digits


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS}, "must hold the arrays"),
        ({"x_train": PIXELS, "x_test": PIXELS, "y_test": DIGITS}, "must hold the arrays"),
        ({"images": PIXELS.astype(float), "labels": DIGITS}, "not uint8"),
        ({"images": PIXELS[:, :20], "labels": DIGITS}, r"not uint8 \(n, 28, 28\)"),
        ({"images": PIXELS, "labels": DIGITS.astype(float)}, "not integers"),
        ({"images": PIXELS, "labels": DIGITS[:, None]}, "not integers"),
        ({"images": PIXELS, "labels": DIGITS[:99]}, "100 glyphs but 99 labels"),
        ({"images": PIXELS, "labels": DIGITS + 1}, r"labels are 1\.\.10, but digits are 0\.\.9"),
        ({"images": PIXELS, "labels": DIGITS.astype(int) - 1}, r"labels are -1\.\.8"),
        ({"images": PIXELS, "labels": DIGITS.astype(object)}, "cannot be read as glyphs"),
        ({"images": PIXELS[:0], "labels": DIGITS[:0]}, "too few glyphs"),
    ],
)
def test_load_glyphs_wrong_arrays(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_glyphs(str(tmp_path / "a.npz"), "train")


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04 cut", None])
def test_load_glyphs_malformed_npz(data, tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3, np.uint8))  # which NumPy loads whatever its name
    content = (tmp_path / "array.npy").read_bytes() if data is None else data
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz: cannot be read as glyphs"):
        load_glyphs(str(tmp_path / "a.npz"), "train")


def test_load_glyphs_absent():
    with pytest.raises(InputError, match="nowhere: no such glyphs"):
        load_glyphs("nowhere", "train")
