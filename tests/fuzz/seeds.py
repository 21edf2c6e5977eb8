"""Seeds: small valid inputs of each seam, with which the fuzzer begins.

They hold few rows of tiny images, so that most changes matter.
"""

import gzip
import io
import struct
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from digitsum.archive.schema import shard_schema
from digitsum.options import ImageShape

SHAPE = ImageShape(2, 3)
SHARD = "shard.parquet"
PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False}


def png() -> bytes:
    return encoded("PNG")


def encoded(kind: str, mode: str = "L", **options: Any) -> bytes:
    """Return an image of 2x3 pixels."""
    out = io.BytesIO()
    pixels = np.arange(SHAPE.num_pixels, dtype=np.uint8).reshape(SHAPE.height, SHAPE.width) * 40
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def images() -> Iterator[bytes]:
    """Yield encoded images of all formats and of several modes."""
    for mode in ("L", "RGB", "RGBA", "P", "1", "LA", "I;16"):
        yield encoded("PNG", mode)
    yield encoded("PNG", optimize=True, transparency=0)
    for mode in ("L", "RGB", "CMYK"):
        yield encoded("JPEG", mode, quality=50)
    yield encoded("JPEG", progressive=True)
    yield encoded("WEBP", "RGB")
    yield encoded("WEBP", "RGB", lossless=True)
    for mode in ("L", "RGB", "1", "P"):
        yield encoded("BMP", mode)
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        yield encoded("TIFF", compression=compression)
    yield encoded("TIFF", "RGB", compression="tiff_deflate")
    yield encoded("TIFF", "1", compression="group4")
    yield b"BM no image"


def parquet_of(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **{**PLAIN, "row_group_size": 4, **options})
    return out.getvalue()


def shards() -> Iterator[bytes]:
    """Yield shards as digitsum writes them, and in other layouts that it reads."""
    rows = 7
    pixels = [bytes(range(row, row + SHAPE.num_pixels)) for row in range(rows)]
    ids = pa.array([f"i{row}" for row in range(rows)])
    sums = pa.array(range(rows), pa.int16())
    own = shard_schema(SHAPE, labelled=True, with_digits=True)
    digits = pa.array([[1, 2]] * rows, pa.list_(pa.int8()))
    arrays = [ids, pa.array(pixels, pa.binary(SHAPE.num_pixels)), sums, digits]
    table = pa.Table.from_arrays(arrays, schema=own)
    yield parquet_of(table)
    yield parquet_of(table, compression="zstd", data_page_version="2.0")
    yield parquet_of(table.slice(0, 0))
    values = [list(image) for image in pixels]
    tensors = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.uint8(), [2, 3]), pa.array(values, pa.list_(pa.uint8(), 6))
    )
    bad = [png(), None, pixels[2], b"\xff\xd8\xff", encoded("JPEG"), b"", png()]
    others = {
        "tensor": tensors,
        "list": pa.array([*values[:-2], None, [1, None]], pa.list_(pa.uint8())),
        "fixed list": pa.array([*values[:-1], None], pa.list_(pa.uint8(), 6)),
        "encoded": pa.array(bad, pa.binary()),
        "struct": pa.array([None if b is None else {"bytes": b, "path": "a.png"} for b in bad]),
    }
    for column in others.values():
        yield parquet_of(pa.table({"image_id": ids, "image": column, "digit_sum": sums}))
    numbered = pa.table({"image": arrays[1], "image_id": range(rows)})
    yield parquet_of(numbered, store_schema=False)
    encoded_images = pa.table({"image": arrays[1].dictionary_encode(), "digit_sum": sums})
    yield parquet_of(encoded_images, use_dictionary=True)


def tar(files: dict[str, bytes], mode: str = "w", kind: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=kind) as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return out.getvalue()[: 512 * (len(files) * 4 + 4)] if mode == "w" else out.getvalue()


def tars() -> Iterator[bytes]:
    """Yield tars, plain and compressed, of all formats."""
    files = {"a.png": png(), "notes.txt": b"none", "./b/c.png": png()}
    long = {f"{'d' * 120}/ü.png": png()}
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        yield tar(files, kind=kind)
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        yield tar(long, kind=kind)
    for mode in ("w:gz", "w:bz2", "w:xz"):
        yield tar(files, mode)


def labels() -> Iterator[bytes]:
    """Yield CSVs after a byte that chooses the number of digits."""
    yield b"\0image_id,digit_sum\na.png,3\nb.png,9\n"
    yield b'\5\xef\xbb\xbfdigit_sum,other,image_id\r\n 3,x,a.png\r\n40000,"y\n",b.png\r\n'


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version)
    return out.getvalue()


def arrays() -> Iterator[bytes]:
    """Yield .npy files after a byte: even, they hold images; odd, labels."""
    yield b"\0" + npy(np.zeros((2, 2, 3), np.uint8))
    yield b"\0" + npy(np.asfortranarray(np.zeros((2, 2, 3), np.uint8)), (2, 0))
    yield b"\1" + npy(np.array([3, 36]), (3, 0))
    yield b"\x0b" + npy(np.array([3, 400_000], np.uint64))
    yield b"\0" + npz(images=np.zeros((2, 2, 3), np.uint8))


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def idxs() -> Iterator[bytes]:
    """Yield IDX files after a byte: 0 images, 1 labels."""
    yield b"\1" + idx(np.arange(20, dtype=np.uint8) // 2)
    yield b"\1" + gzip.compress(idx(np.arange(20, dtype=np.uint8) // 2), mtime=0)
    yield b"\0" + gzip.compress(idx(np.zeros((20, 28, 28), np.uint8)), mtime=0)


def npz(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def npzs() -> Iterator[bytes]:
    """Yield .npz files after 0, arrays of images after 1, and of labels after 2."""
    pixels, digits = np.zeros((20, 28, 28), np.uint8), np.arange(20) // 2
    yield b"\0" + npz(images=pixels, labels=digits)
    yield b"\0" + npz(x_train=pixels, y_train=digits, x_test=pixels, y_test=digits)
    yield b"\1" + npy(np.zeros((0, 28, 28), np.uint8))
    yield b"\2" + npy(digits.astype(np.uint8))
    yield b"\2" + npy(digits.astype(np.float16))


def layouts() -> Iterator[bytes]:
    """Yield bytes of which `layouts.py` makes shards."""
    rng = np.random.default_rng(7)
    for size in (24, 48, 96, 192):
        yield bytes(size)
        yield rng.integers(0, 256, size, np.uint8).tobytes()
