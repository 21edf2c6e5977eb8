import io
import struct
from collections.abc import Callable
from zlib import compress, crc32

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from digitsum.archive.chunks import plan_chunks
from digitsum.archive.images import decode_encoded, decode_images, image_shape
from digitsum.archive.reader import read_chunk
from digitsum.archive.shards import open_archive
from digitsum.errors import InputError
from digitsum.options import DEFAULT_SHAPE, ImageShape, ReadOptions

SHAPE = ImageShape(3, 5)
SIZE = SHAPE.num_pixels
TENSOR = pa.fixed_shape_tensor(pa.uint8(), (3, 5))
DEFAULTS = ReadOptions()


def encode(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def forms(write: Callable[[np.ndarray], object]) -> Callable[[list], list]:
    """Return a function that writes images in another form; other rows stay as they are."""
    return lambda images: [write(i) if isinstance(i, np.ndarray) else i for i in images]


flat_lists = forms(lambda image: image.ravel().tolist())
raw = forms(np.ndarray.tobytes)
pngs = forms(encode)


def tensors(images: list, shape: tuple[int, ...]) -> pa.Array:
    storage = pa.array(flat_lists(images), pa.list_(pa.uint8(), SIZE))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), storage)


def hf_structs(images: list) -> pa.Array:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [None if data is None else {"bytes": data, "path": "x.png"} for data in pngs(images)]
    return pa.array(rows, kind)


LAYOUTS: dict[str, Callable[[list], pa.Array]] = {
    "fixed_size_binary": lambda i: pa.array(raw(i), pa.binary(SIZE)),
    "tensor": lambda i: tensors(i, (3, 5)),
    "tensor, channel last": lambda i: tensors(i, (3, 5, 1)),
    "tensor, channel first": lambda i: tensors(i, (1, 3, 5)),
    "list": lambda i: pa.array(flat_lists(i), pa.list_(pa.uint8())),
    "large_list": lambda i: pa.array(flat_lists(i), pa.large_list(pa.uint8())),
    "fixed_size_list": lambda i: pa.array(flat_lists(i), pa.list_(pa.uint8(), SIZE)),
    "raw bytes": lambda i: pa.array(raw(i), pa.binary()),
    "large raw bytes": lambda i: pa.array(raw(i), pa.large_binary()),
    "PNG": lambda i: pa.array(pngs(i), pa.binary()),
    "Hugging Face struct": hf_structs,
}
ZERO_COPY = ("fixed_size_binary", "tensor", "list", "large_list", "fixed_size_list")
# What may be wrong with a row, as it is given to the builder.
WRONG_ROWS: dict[str, list] = {
    "list": [[1, 2], [7] * (SIZE + 1), [], [7] * (SIZE - 1) + [None]],
    "large_list": [[1, 2], [7] * (SIZE + 1), [], [None] * SIZE],
    "fixed_size_list": [[None] + [7] * (SIZE - 1)],
    "tensor": [[None] + [7] * (SIZE - 1)],
    "raw bytes": [b"", b"short", bytes(SIZE + 1)],
    "PNG": [b"", encode(np.zeros((5, 3), np.uint8)), encode(np.ones((3, 5), np.uint8))[:-30]],
    "Hugging Face struct": [b"", b"\x89PNG\r\n\x1a\n"],
}


def some_images(num_images: int, seed: int = 0) -> list[np.ndarray]:
    # Below 64, so that no row of raw pixels begins as an encoded image does.
    pixels = np.random.default_rng(seed).integers(64, size=(num_images, 3, 5), dtype=np.uint8)
    return list(pixels)


@st.composite
def columns(draw):
    """Draw a layout, a sliced column of it, and what each row should decode to (None: rejected)."""
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    good = some_images(8, draw(st.integers(0, 99)))
    rows: list = [
        draw(st.sampled_from([image, image, None, *WRONG_ROWS.get(layout, [])])) for image in good
    ]
    start = draw(st.integers(0, len(rows)))
    stop = draw(st.integers(start, len(rows)))
    expected = [row if isinstance(row, np.ndarray) else None for row in rows[start:stop]]
    return LAYOUTS[layout](rows).slice(start, stop - start), expected


@settings(max_examples=300)
@given(columns())
def test_decode_any_slice_of_any_layout(drawn):
    column, expected = drawn
    decoded = decode_images(column, SHAPE)
    assert decoded.pixels.shape == (len(expected), 3, 5)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert set(decoded.errors) == {row for row, image in enumerate(expected) if image is None}
    assert all(decoded.errors.values())
    for row, image in enumerate(expected):
        if image is not None:
            np.testing.assert_array_equal(decoded.pixels[row], image)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_decode_layouts_from_parquet(layout, tmp_path, write_parquet):
    images = some_images(11)
    rows: list = [*images[:4], None, *images[5:]]
    write_parquet(tmp_path / "a.parquet", {"image": LAYOUTS[layout](rows)}, row_group_size=3)
    options = ReadOptions(height=3, width=5)
    archive = open_archive(str(tmp_path), options)
    (chunk,) = plan_chunks(archive.shards[0], 100)
    (read,) = read_chunk(archive.root, chunk, options)
    assert read.errors == {4: "image is null"}
    np.testing.assert_array_equal(np.delete(read.pixels, 4, 0), np.delete(images, 4, 0))


@pytest.mark.parametrize("layout", ZERO_COPY)
def test_decode_without_copy(layout):
    column = LAYOUTS[layout](some_images(9)).slice(2, 5)
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    memory = np.frombuffer(storage.buffers()[-1], np.uint8)
    assert np.shares_memory(decode_images(column, SHAPE).pixels, memory)


@pytest.mark.parametrize("num_rows", [0, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_decode_only_nulls(layout, num_rows):
    nulls = decode_images(LAYOUTS[layout]([None] * num_rows), SHAPE)
    assert nulls.errors == dict.fromkeys(range(num_rows), "image is null")
    assert nulls.pixels.shape == (num_rows, 3, 5)


def test_decode_reasons():
    lists = decode_images(LAYOUTS["list"]([[1, 2], [None] * SIZE]), SHAPE)
    assert lists.errors == {0: "image has 2 pixels, not 3x5 = 15", 1: "image has null pixels"}
    kind = LAYOUTS["Hugging Face struct"]([]).type
    structs = pa.array([{"bytes": None, "path": "elsewhere.png"}, None], kind)
    assert decode_images(structs, SHAPE).errors == {0: "image is null", 1: "image is null"}
    other = decode_images(LAYOUTS["PNG"]([encode(np.zeros((4, 6), np.uint8))]), SHAPE)
    assert other.errors == {0: "image is 4x6 pixels, not 3x5"}
    undecodable = decode_images(pa.array([b"no image", b"BM-not-a-bmp"]), SHAPE).errors
    assert set(undecodable) == {0, 1}
    assert "0x" not in str(undecodable), "an address, which differs from run to run"


@pytest.mark.parametrize("first", [b"BM", b"RIFF"])
def test_decode_pixels_like_a_header(first):
    data = first + bytes(SIZE - len(first))
    decoded = decode_images(pa.array([data], pa.binary()), SHAPE)
    assert decoded.errors == {}
    assert decoded.pixels.tobytes() == data


def test_decode_encoded_of_pixel_size():
    padded = encode(np.full((10, 8), 9, np.uint8)).ljust(80, b"\0")
    decoded = decode_images(pa.array([padded]), ImageShape(10, 8))
    np.testing.assert_array_equal(decoded.pixels, [[[9] * 8] * 10])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
def test_decode_encoded_formats(kind):
    pixels = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))
    data = encode(pixels, kind, **({"lossless": True} if kind == "WEBP" else {}))
    decoded = decode_encoded(data, ImageShape(16, 24))
    np.testing.assert_array_equal(decoded, np.asarray(Image.open(io.BytesIO(data)).convert("L")))
    np.testing.assert_allclose(decoded.astype(int), pixels, atol=6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGB", "RGBA"])
def test_decode_encoded_modes(mode):
    gray = Image.fromarray(np.array([[0, 255, 0], [255, 255, 0]], np.uint8))
    stream = io.BytesIO()
    gray.convert(mode).save(stream, "PNG")
    np.testing.assert_array_equal(decode_encoded(stream.getvalue()), np.asarray(gray))


def deep_color_png(height: int, width: int) -> bytes:
    """Return a PNG of 16 bits a channel in color, which Pillow reads but does not write."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = compress((b"\0" + bytes(width * 6)) * height)
    parts = part(b"IHDR", header) + part(b"IDAT", rows) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


REFUSED = {
    "another format": (encode(np.zeros((3, 5), np.uint8), "GIF"), "decode"),
    "deep gray": (encode(np.zeros((3, 5), np.uint16)), "not 8 bits"),
    "deep color": (deep_color_png(3, 5), "not 8 bits"),
    "another shape, then cut": (encode(np.zeros((8, 9), np.uint8))[:-25], "8x9 pixels, not 3x5"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_decode_encoded_refused(data, message):
    with pytest.raises(ValueError, match=message):
        decode_encoded(data, SHAPE)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.int64(),
        pa.list_(pa.int32()),
        pa.uint8(),
        pa.dictionary(pa.int32(), pa.binary()),
        pa.list_(pa.list_(pa.uint8())),
        pa.fixed_shape_tensor(pa.float32(), (3, 5)),
        pa.struct({"path": pa.string()}),
        pa.struct({"bytes": pa.string()}),
    ],
    ids=str,
)
def test_image_shape_wrong_type(kind):
    schema = pa.schema({"scan": kind})
    with pytest.raises(InputError, match=r"shard-7\.parquet: column 'scan' is of type"):
        image_shape(schema, ReadOptions(image_column="scan"), SHAPE, "shard-7.parquet")


def shape_of(kind: pa.DataType, options: ReadOptions = DEFAULTS, **metadata) -> ImageShape:
    metadata = {f"digitsum.{key}": value for key, value in metadata.items()}
    schema = pa.schema({"image": kind}, metadata)
    return image_shape(schema, options, DEFAULT_SHAPE, "shard-7.parquet")


def test_image_shape_sources():
    assert shape_of(TENSOR) == SHAPE
    assert shape_of(pa.binary(15), height="3", width="5", format="1") == SHAPE
    assert shape_of(pa.binary(), ReadOptions(height=3, width=5)) == SHAPE
    assert shape_of(pa.binary(40 * 168)) == ImageShape(40, 168)
    agreeing = ReadOptions(height=3, width=5)
    assert shape_of(TENSOR, agreeing, height="3", width="5") == SHAPE


OTHER = {"height": "5", "width": "3"}
BOTH = "(3x5 .*5x3|5x3 .*3x5)"
NOT_IMAGES = [(3, 5, 3), (2, 3, 5), (15,), (1, 15, 1)]
REFUSED_SHAPES = [
    (TENSOR, ReadOptions(height=5, width=3), {}, BOTH),
    (TENSOR, DEFAULTS, OTHER, BOTH),
    (pa.binary(15), ReadOptions(height=3, width=5), OTHER, BOTH),
    (pa.binary(784), DEFAULTS, {}, "column 'image' holds 784.*--height"),
    (pa.list_(pa.uint8(), 784), DEFAULTS, {}, "column 'image' holds 784.*--height"),
    *[
        (pa.fixed_shape_tensor(pa.uint8(), shape, permutation=order), DEFAULTS, {}, "tensors of")
        for shape, order in [*((shape, None) for shape in NOT_IMAGES), ((3, 5), [1, 0])]
    ],
]


@pytest.mark.parametrize(("kind", "options", "metadata", "message"), REFUSED_SHAPES)
def test_image_shape_refused(kind, options, metadata, message):
    with pytest.raises(InputError, match=rf"shard-7\.parquet: .*{message}"):
        shape_of(kind, options, **metadata)


def test_image_shape_absent_column():
    with pytest.raises(InputError, match=r"shard-7\.parquet.*'image', only 'scan'"):
        image_shape(pa.schema({"scan": pa.binary()}), DEFAULTS, SHAPE, "shard-7.parquet")
