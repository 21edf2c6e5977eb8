"""Shards of any columns that pyarrow can write, made of a few bytes.

A changed byte within a file seldom changes a column's type. Here bytes choose types, values, nulls,
names, metadata and how the file is written, so that every layout occurs, most of them unreadable.
"""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from parquet_targets import SHAPE, score_shard
from seeds import png

from digitsum.options import ReadOptions

SIZE = SHAPE.num_pixels
TEXTS = ("", "a", "a", "ü", "a\0b", "\n", "=1+1", "x" * 300, "../a", "<script>")
NAMES = ("image_id", "image", "digit_sum", "digits", "image.bytes", "IMAGE", "", "ü\n<b>")


class Choices:
    """A string of bytes from which choices are taken; 0 after its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def below(self, limit: int) -> int:
        """Return the next number, from 0 to below a limit of at most 256."""
        self.at += 1
        return (self._data[self.at - 1] if self.at <= len(self._data) else 0) % limit

    def one(self, of: Any) -> Any:
        return of[self.below(len(of))]

    def bytes(self, size: int) -> bytes:
        """Return the next bytes, filled up with zeros."""
        self.at += size
        return self._data[self.at - size : self.at].ljust(size, b"\0")


def _image(choices: Choices) -> bytes:
    return choices.one(
        (
            lambda: choices.bytes(SIZE),
            lambda: choices.bytes(choices.below(12)),
            png,
            lambda: b"\xff\xd8\xff" + choices.bytes(3),
        )
    )()


def _number(choices: Choices) -> int:
    return int(choices.one((0, 1, 36, 37, -1, 127, choices.below(256))))


def _text(choices: Choices) -> str:
    return str(choices.one(TEXTS))


def _uint8s(choices: Choices) -> list[int | None]:
    values: list[int | None] = list(choices.bytes(choices.one((SIZE, SIZE, 0, 5, 7))))
    if values and choices.below(8) == 1:
        values[0] = None
    return values


IMAGE_TYPES: tuple[tuple[Callable[[Choices], Any], Callable[[Choices], pa.DataType]], ...] = (
    (lambda c: c.bytes(SIZE), lambda c: pa.binary(SIZE)),
    (lambda c: c.bytes(7), lambda c: pa.binary(7)),
    (_image, lambda c: c.one((pa.binary(), pa.large_binary(), pa.binary_view()))),
    (_uint8s, lambda c: c.one((pa.list_(pa.uint8()), pa.large_list(pa.uint8())))),
    (_uint8s, lambda c: c.one((pa.list_(pa.int16()), pa.list_view(pa.uint8())))),
    (lambda c: list(c.bytes(SIZE)), lambda c: pa.list_(pa.uint8(), SIZE)),
    (lambda c: [None, *c.bytes(SIZE - 1)], lambda c: pa.list_(pa.uint8(), SIZE)),
    (
        lambda c: {"bytes": None if c.below(4) == 1 else _image(c), "path": _text(c)},
        lambda c: pa.struct(
            {"bytes": c.one((pa.binary(), pa.large_binary())), "path": pa.string()}
        ),
    ),
    (lambda c: {"bytes": _text(c)}, lambda c: pa.struct({"bytes": pa.string()})),
    (lambda c: {"path": _text(c)}, lambda c: pa.struct({"path": pa.string()})),
    (lambda c: [[_image(c)]], lambda c: pa.list_(pa.list_(pa.binary()))),
    (_image, lambda c: pa.dictionary(pa.int8(), pa.binary())),
    (_text, lambda c: c.one((pa.string(), pa.string_view(), pa.large_string()))),
    (lambda c: None, lambda c: pa.null()),
    (_number, lambda c: c.one((pa.int64(), pa.float32(), pa.decimal128(9, 2)))),
    (lambda c: c.bytes(16), lambda c: pa.uuid()),
    (lambda c: [("a", 1)], lambda c: pa.map_(pa.string(), pa.int32())),
)
TENSOR_SHAPES = ([2, 3], [3, 2], [1, 2, 3], [6], [2, 3, 1], [1, 1], [0, 3], [2, 0], [])
PERMUTATIONS = (None, [0, 1], [1, 0], [0, 1, 2])
ID_TYPES = (
    *((_text, kind) for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary())),
    *((_number, kind) for kind in (pa.int64(), pa.int8(), pa.float64(), pa.date32())),
    (lambda c: c.below(256), pa.uint64()),
    (_text, pa.dictionary(pa.int8(), pa.string())),
    (lambda c: bool(c.below(2)), pa.bool_()),
    (lambda c: [_text(c)], pa.list_(pa.string())),
    (lambda c: {"a": 1}, pa.struct({"a": pa.int8()})),
    (lambda c: None, pa.null()),
)
DIGITS_TYPES = (
    *((lambda c: [c.below(10)] * c.below(4), pa.list_(kind)) for kind in (pa.int8(), pa.int16())),
    (lambda c: [c.below(10)], pa.large_list(pa.int8())),
    (_number, pa.int8()),
)
LENGTHS = (b"2", b"3", b"1", b"6", b"0", b"-2", b"x", b"", b"9" * 20, b"\xff", b" 2 ")


def read_layout(data: bytes, place: Path) -> None:
    """Write the shard that bytes describe, read it, and compare the rows.

    Bytes that are left over damage the file before it is read.
    """
    choices = Choices(data)
    rows = choices.below(12)
    table = _table(choices, rows)
    options = ReadOptions(
        image_column=choices.one(("image", "image", "image", *NAMES)),
        id_column=choices.one(("image_id", "image_id", "image_id", *NAMES)),
        label_column=choices.one(("digit_sum", "digit_sum", *NAMES)),
        **choices.one(({}, {}, {"height": 2, "width": 3}, {"height": 3, "width": 2})),
    )
    out = io.BytesIO()
    try:
        pq.write_table(
            table,
            out,
            row_group_size=1 + choices.below(6),
            use_dictionary=bool(choices.below(2)),
            compression=choices.one(("none", "zstd", "snappy", "gzip", "lz4")),
            data_page_version=choices.one(("1.0", "2.0")),
            write_statistics=bool(choices.below(2)),
            store_schema=bool(choices.below(2)),
        )
    except (pa.ArrowException, OSError, ValueError):
        return  # pyarrow does not write it
    content = bytearray(out.getvalue())
    whole = choices.at >= len(data)
    for _ in range(0 if whole else 1 + choices.below(3)):
        content[int.from_bytes(choices.bytes(2), "little") % len(content)] ^= choices.below(256)
    read = score_shard(bytes(content), place, options)
    if read and whole:
        _compare(table, options, read)


def _table(choices: Choices, rows: int) -> pa.Table:
    make, kind_of = choices.one(IMAGE_TYPES)
    columns = [("image", _array(choices, rows, make, kind_of(choices)))]
    if choices.below(4) == 1:
        with suppress(pa.ArrowException, ValueError, TypeError):
            kind = pa.fixed_shape_tensor(
                pa.uint8(), choices.one(TENSOR_SHAPES), permutation=choices.one(PERMUTATIONS)
            )
            flat = [list(bytes(kind.storage_type.list_size))] * rows
            columns = [
                ("image", pa.ExtensionArray.from_storage(kind, pa.array(flat, kind.storage_type)))
            ]
    for name, types in (("image_id", ID_TYPES), ("digit_sum", ID_TYPES), ("digits", DIGITS_TYPES)):
        if choices.below(4):
            make, kind = choices.one(types)
            columns.insert(choices.below(2), (name, _array(choices, rows, make, kind)))
    if choices.below(8) == 1:
        name = choices.one(NAMES)
        columns.append((name, pa.array(range(rows), pa.int16())))
    metadata = None
    if choices.below(4) == 1:
        metadata = {
            b"digitsum.height": choices.one(LENGTHS),
            b"digitsum.width": choices.one(LENGTHS),
        }
        metadata |= choices.one(({}, {b"digitsum.format": choices.one((b"1", b"2", b"\xff"))}))
    arrays = [array for _, array in columns]
    schema = pa.schema([pa.field(name, a.type) for name, a in columns], metadata)
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(choices: Choices, rows: int, make: Callable[[Choices], Any], kind: Any) -> pa.Array:
    nullable = choices.below(3) == 1
    values = [None if nullable and choices.below(3) == 1 else make(choices) for _ in range(rows)]
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.nulls(rows, kind)


def _compare(table: pa.Table, options: ReadOptions, read: list[Any]) -> None:
    """Compare plain pixels and ids with what was written."""
    images = [found for rows in read for found in rows.pixels]
    errors = {rows.first_row + row for rows in read for row in rows.errors}
    ids = [one for rows in read for one in rows.image_ids.to_pylist()]
    first = read[0].first_row
    values = table.column(options.image_column).to_pylist()[first:]
    has_ids = options.id_column in table.column_names
    given = table.column(options.id_column).to_pylist()[first:] if has_ids else None
    for row, (pixels, value) in enumerate(zip(images, values, strict=False)):
        if isinstance(value, dict):
            value = value["bytes"]
        value = bytes(value) if isinstance(value, list) and None not in value else value
        is_plain = isinstance(value, bytes) and len(value) == pixels.size
        if is_plain and value.startswith(b"\xff\xd8\xff"):
            continue  # they look like a JPEG
        assert value is not None or first + row in errors
        if is_plain:
            assert first + row not in errors
            assert pixels.tobytes() == value
        if given is not None and given[row] is not None:
            assert ids[row] == str(given[row])
