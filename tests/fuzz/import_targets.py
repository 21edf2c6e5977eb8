"""Targets that read imported files: images, tars, CSV, NumPy's files, IDX."""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from seeds import idx, npy, png
from targets import refused_in_a_line

from digitsum.archive.chunks import plan_chunks
from digitsum.archive.glyphs import Glyphs, load_glyphs
from digitsum.archive.images import decode_encoded, decode_images
from digitsum.archive.import_images import ImportImagesConfig, import_images
from digitsum.archive.import_npy import ImportNpyConfig, import_npy
from digitsum.archive.reader import read_chunk
from digitsum.archive.shards import open_archive
from digitsum.archive.writer import WrittenArchive
from digitsum.options import ImageShape, ReadOptions

DIGITS = 4


def decode_image(data: bytes, place: Path) -> None:
    """Decode an image, alone and in a column beside pixels and a null."""
    warnings.simplefilter("ignore")  # Pillow warns and goes on
    pixels, reason = _decoded(data)
    again, reason_again = _decoded(data)
    assert reason == reason_again, "the reason changes from time to time"
    assert np.array_equal(pixels, again)
    shape = ImageShape(*pixels.shape) if reason is None else ImageShape(2, 3)
    images = decode_images(pa.array([bytes(shape.num_pixels), data, None], pa.binary()), shape)
    assert images.pixels.shape == (3, shape.height, shape.width)
    assert images.pixels.dtype == np.uint8
    assert 0 not in images.errors
    assert 2 in images.errors
    if reason is None and len(data) != shape.num_pixels:
        assert np.array_equal(images.pixels[1], pixels)
    pa.array(list(images.errors.values()), pa.string())  # they are written as text


def _decoded(data: bytes) -> tuple[npt.NDArray[np.uint8], str | None]:
    try:
        pixels = decode_encoded(data)
    except ValueError as error:
        return np.zeros((0, 0), np.uint8), str(error)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 2
    assert pixels.size
    return pixels, None


def import_tar(data: bytes, place: Path) -> None:
    """Import a tar of images."""
    tar = place / "scans.tar"
    tar.write_bytes(data)
    with refused_in_a_line():
        _check_written(import_images(ImportImagesConfig(source=str(tar), out=str(place / "out"))))


def import_labels(data: bytes, place: Path) -> None:
    """Import two images by a CSV of their sums, after a byte that chooses the number of digits."""
    folder = place / "scans"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(png())
    table = place / "sums.csv"
    table.write_bytes(data[1:])
    with refused_in_a_line():
        config = ImportImagesConfig(
            source=str(folder),
            labels=str(table),
            out=str(place / "out"),
            digits=10 ** (data[0] % 8) if data else DIGITS,
        )
        _check_written(import_images(config))


def import_arrays(data: bytes, place: Path) -> None:
    """Import an .npy file after a byte: even, it holds images; odd, labels."""
    given = place / "given.npy"
    given.write_bytes(data[1:])
    images = place / "images.npy"
    np.save(images, np.zeros((2, 2, 3), np.uint8))
    with refused_in_a_line():
        as_images = not data or data[0] % 2 == 0
        config = ImportNpyConfig(
            data=(str(given if as_images else images),),
            labels=() if as_images else (str(given),),
            out=str(place / "out"),
            digits=10 ** (data[0] // 2 % 8) if data else DIGITS,
        )
        _check_written(import_npy(config))


def load_idx(data: bytes, place: Path) -> None:
    """Read an IDX file after a byte: 1, it holds labels; else images."""
    images, labels = place / "images-idx3-ubyte", place / "labels-idx1-ubyte"
    images.write_bytes(idx(np.zeros((20, 28, 28), np.uint8)))
    labels.write_bytes(idx(np.arange(20, dtype=np.uint8) // 2))
    (labels if data[:1] == b"\1" else images).write_bytes(data[1:])
    with refused_in_a_line():
        _check_glyphs(load_glyphs(str(images), "train"))


def load_npz(data: bytes, place: Path) -> None:
    """Read an .npz after a byte: 0, a whole one; 1 or 2, one member of a good one."""
    file = place / "digits.npz"
    if data[:1] == b"\0":
        file.write_bytes(data[1:])
    else:
        arrays = {"images": np.zeros((20, 28, 28), np.uint8), "labels": np.arange(20) // 2}
        with zipfile.ZipFile(file, "w") as archive:
            for number, (name, array) in enumerate(arrays.items(), start=1):
                is_forged = data[:1] == bytes([number])
                archive.writestr(f"{name}.npy", data[1:] if is_forged else npy(array))
    with refused_in_a_line():
        _check_glyphs(load_glyphs(str(file), "train"))


def _check_written(written: WrittenArchive) -> None:
    archive = open_archive(written.uri, ReadOptions())
    assert archive.num_images == written.num_images > 0
    for shard in archive.shards:
        assert shard.shape == written.shape
        for chunk in plan_chunks(shard, 1000):
            rows = list(read_chunk(archive.root, chunk, ReadOptions()))
            assert not any(some.errors for some in rows)
            assert sum(len(some.pixels) for some in rows) == chunk.num_rows


def _check_glyphs(glyphs: Glyphs) -> None:
    assert glyphs.pixels.shape == (len(glyphs), 28, 28)
    assert glyphs.pixels.dtype == glyphs.digits.dtype == np.uint8
    assert 0 <= glyphs.digits.min() <= glyphs.digits.max() <= 9
