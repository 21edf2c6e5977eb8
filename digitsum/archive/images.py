"""Pixels from image columns of every layout that digitsum reads: uint8 (n, height, width)."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

from digitsum.archive.schema import declared_shape, find_column
from digitsum.errors import InputError
from digitsum.options import ImageShape, ReadOptions

Uint8Array = npt.NDArray[np.uint8]

MAX_SIDE = 4096
"""Largest height or width of an image whose shape nothing declares; no network reads more."""
ENCODED_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_ENCODED_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True)
class DecodedImages:
    """Images of consecutive rows, and the rows that could not be decoded."""

    pixels: Uint8Array
    """uint8 (n, height, width), C-contiguous, perhaps read-only; arbitrary in rejected rows."""
    errors: dict[int, str] = field(default_factory=dict)
    """Row within these images to the reason why it was rejected."""


def image_shape(
    schema: pa.Schema, options: ReadOptions, default: ImageShape, where: str
) -> ImageShape:
    """Return the shape of a shard's images: from its type, its metadata, the options, or `default`.

    Raises InputError, naming the shard `where`, if the image column is absent or of a type that is
    not read, or if two of these sources contradict each other.
    """
    remedy = "name the images with --image-column"
    column = find_column(schema, options.image_column, where, remedy)
    _check_type(column, where)
    declared = {
        "its tensor type": _tensor_shape(column.type, where),
        "its metadata": declared_shape(schema, where),
        "--height and --width": options.shape,
    }
    shapes = {source: shape for source, shape in declared.items() if shape is not None}
    if len(set(shapes.values())) > 1:
        contradiction = ", ".join(f"{shape} by {source}" for source, shape in shapes.items())
        raise InputError(f"{where}: the images would be {contradiction}; correct the options.")
    shape = next(iter(shapes.values()), default)
    size = _fixed_size(column.type)
    if size is not None and size != shape.num_pixels:
        raise InputError(
            f"{where}: column {column.name!r} holds {size} bytes an image, which is not "
            f"{shape} = {shape.num_pixels}; give the images' --height and --width."
        )
    return shape


def decode_images(column: pa.Array, shape: ImageShape) -> DecodedImages:
    """Return the images of an Arrow array of a type that `image_shape` has checked.

    No pixel is copied for fixed_size_binary, fixed-shape tensors, and lists of uint8 that all have
    the right length. A row that is null, of another size or undecodable is rejected, never raised.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    if pa.types.is_dictionary(column.type):
        return _from_dictionary(column, shape)
    if pa.types.is_fixed_size_binary(column.type):
        return _from_fixed_size_binary(column, shape)
    if _is_list(column.type):
        return _from_lists(column, shape)
    return _from_bytes(column, shape)


def decode_encoded(data: bytes, shape: ImageShape | None = None) -> Uint8Array:
    """Return the grayscale pixels, uint8 (height, width), of an encoded image (PNG, JPEG, ...).

    Raises ValueError, with the reason, if the bytes are not such an image, if it has more than 8
    bits a channel, or is not of `shape`, which is checked before any pixel is decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=ENCODED_FORMATS) as image:
            size = ImageShape(image.height, image.width)
            if shape is not None and size != shape:
                raise ValueError(f"image is {size} pixels, not {shape}")
            if shape is None and max(size.height, size.width) > MAX_SIDE:
                raise ValueError(f"image is {size} pixels, more than {MAX_SIDE} a side")
            # Pillow opens 16-bit color as 8-bit RGB; only a decoder's raw mode shows lost bits.
            raw_modes = (str(tile[3]) for tile in getattr(image, "tile", ()))
            if image.mode in _DEEP_MODES or any(";16" in mode for mode in raw_modes):
                raise ValueError(f"image has pixels of mode {image.mode}, not 8 bits a channel")
            return np.asarray(image.convert("L"))
    except ValueError:
        raise
    except UnidentifiedImageError as error:
        # Pillow's own message contains the stream's address, which differs from run to run.
        formats = ", ".join(ENCODED_FORMATS)
        raise ValueError(f"image cannot be decoded: it is none of {formats}") from error
    except Exception as error:
        # OSError, SyntaxError, struct.error, ...: Pillow's decoders raise any of them.
        raise ValueError(f"image cannot be decoded: {error}") from error


def _is_list(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _check_type(column: pa.Field, where: str) -> None:
    kind = column.type
    if isinstance(kind, pa.FixedShapeTensorType) or _is_list(kind):
        fits = kind.value_type == pa.uint8()
    elif pa.types.is_struct(kind):
        fits = "bytes" in kind.names and _is_bytes(kind.field("bytes").type)
    else:
        fits = pa.types.is_fixed_size_binary(kind) or _is_bytes(kind)
    if not fits:
        raise InputError(
            f"{where}: column {column.name!r} is of type {kind}, which holds no images that "
            "digitsum reads: it reads fixed_size_binary, a fixed-shape tensor or list of uint8, "
            "encoded images as binary, and structs with the field 'bytes'."
        )


def _tensor_shape(kind: pa.DataType, where: str) -> ImageShape | None:
    if not isinstance(kind, pa.FixedShapeTensorType):
        return None
    sizes = kind.shape if len(kind.shape) == 2 else [size for size in kind.shape if size != 1]
    order = kind.permutation or ()
    if len(sizes) != 2 or list(order) != sorted(order):
        raise InputError(
            f"{where}: tensors of shape {list(kind.shape)} are not grayscale images; "
            "write them as (height, width)."
        )
    return ImageShape(*sizes)


def _fixed_size(kind: pa.DataType) -> int | None:
    """Return the bytes of each row, or None if the type does not fix them."""
    if pa.types.is_fixed_size_binary(kind):
        return int(kind.byte_width)
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None


def _null_errors(column: pa.Array) -> dict[int, str]:
    return dict.fromkeys(np.flatnonzero(column.is_null()).tolist(), "image is null")


def _from_fixed_size_binary(column: pa.Array, shape: ImageShape) -> DecodedImages:
    size = shape.num_pixels
    data = column.buffers()[1]
    if data is None:  # every row is null
        flat = np.zeros(len(column) * size, np.uint8)
    else:
        flat = np.frombuffer(data, np.uint8, len(column) * size, column.offset * size)
    return DecodedImages(flat.reshape(-1, shape.height, shape.width), _null_errors(column))


def _from_lists(column: pa.Array, shape: ImageShape) -> DecodedImages:
    size = shape.num_pixels
    if pa.types.is_fixed_size_list(column.type):
        starts = (column.offset + np.arange(len(column))) * size
        lengths = np.full(len(column), size)
    else:
        offsets = column.offsets.to_numpy()
        starts, lengths = offsets[:-1], np.diff(offsets)
    values = column.values
    errors = {
        row: f"image has {lengths[row]} pixels, not {shape} = {size}"
        for row in np.flatnonzero(lengths != size).tolist()
    }
    errors |= _null_errors(column)
    if values.null_count:
        missing = values.is_null().to_numpy(zero_copy_only=False)
        for row in range(len(column)):
            if row not in errors and missing[starts[row] : starts[row] + size].any():
                errors[row] = "image has null pixels"
        values = values.fill_null(0)
    flat = values.to_numpy()
    if len(column) and not errors:
        pixels = flat[starts[0] : starts[0] + len(column) * size]
    else:
        pixels = np.zeros((len(column), size), np.uint8)
        for row in set(range(len(column))) - errors.keys():
            pixels[row] = flat[starts[row] : starts[row] + size]
    return DecodedImages(pixels.reshape(-1, shape.height, shape.width), errors)


def _is_encoded(data: bytes) -> bool:
    """Return whether bytes begin as an encoded image; "RIFF" and "BM" alone may be pixels."""
    return (
        data.startswith(_ENCODED_SIGNATURES)
        or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")
        or (data.startswith(b"BM") and int.from_bytes(data[2:6], "little") == len(data))
    )


def _from_bytes(column: pa.Array, shape: ImageShape) -> DecodedImages:
    pixels = np.zeros((len(column), shape.height, shape.width), np.uint8)
    errors = _null_errors(column)
    for row, value in enumerate(column):
        if row in errors:
            continue
        data = value.as_py()
        if len(data) == shape.num_pixels and not _is_encoded(data):
            # pandas writes `array.tobytes()` as plain pixels in a binary column.
            pixels[row] = np.frombuffer(data, np.uint8).reshape(shape.height, shape.width)
            continue
        try:
            pixels[row] = decode_encoded(data, shape)
        except ValueError as error:
            errors[row] = str(error)
    return DecodedImages(pixels, errors)


def _from_dictionary(column: pa.DictionaryArray, shape: ImageShape) -> DecodedImages:
    used, indices = used_values(column)
    decoded = _from_bytes(used, shape)
    errors = {
        row: decoded.errors[index]
        for row, index in enumerate(indices.to_pylist())
        if index in decoded.errors
    }
    pixels = np.zeros((len(column), shape.height, shape.width), np.uint8)
    pixels[np.flatnonzero(indices.is_valid())] = decoded.pixels[indices.drop_null()]
    return DecodedImages(pixels, errors | _null_errors(column))


def used_values(column: pa.DictionaryArray) -> tuple[pa.Array, pa.Array]:
    """Return the values that rows use, and each row's index among them, int32, null if it is."""
    encoded = column.indices.dictionary_encode()
    return column.dictionary.take(encoded.dictionary), encoded.indices
