"""Structures in Thrift's compact protocol, such as Parquet footers, read without their schema.

A structure becomes nested lists that can be changed in place and written again: a struct is a list
of Field, a list a Sequence, an integer an int, text bytes. Malformed bytes raise ValueError.
"""

from dataclasses import dataclass, field
from typing import Any

from digitsum.archive.parquet.thrift import CompactReader

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
INTEGERS = (I16, I32, I64)
_MAX_DEPTH = 32


@dataclass
class Field:
    number: int
    kind: int
    value: Any


@dataclass
class Sequence:
    """A list or a set, and the kind of its values."""

    kind: int
    values: list[Any] = field(default_factory=list)


def read_struct(data: bytes) -> tuple[list[Field], int]:
    """Return a struct and its size in bytes."""
    reader = _Reader(data)
    try:
        return reader.fields(), reader.position
    except IndexError as error:
        raise ValueError("the bytes end within the struct") from error


def write_struct(fields: list[Field]) -> bytes:
    out = bytearray()
    _write(out, STRUCT, fields)
    return bytes(out)


class _Reader(CompactReader):
    """Reader of all fields, with their kinds."""

    def fields(self, depth: int = 0) -> list[Field]:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        fields: list[Field] = []
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            value = kind == TRUE if kind in (TRUE, FALSE) else self._any(kind, depth)
            fields.append(Field(number, kind, value))
        return fields

    def _any(self, kind: int, depth: int) -> Any:
        if kind in INTEGERS:
            return self._integer()
        if kind in (TRUE, FALSE, BYTE):
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind in (LIST, SET):
            head = self._byte()
            size = self._varint() if head >> 4 == 15 else head >> 4
            return Sequence(head & 15, [self._any(head & 15, depth + 1) for _ in range(size)])
        if kind == STRUCT:
            return self.fields(depth + 1)
        raise ValueError(f"a value of kind {kind}")  # a Parquet footer has no map


def _write(out: bytearray, kind: int, value: Any) -> None:
    if kind in INTEGERS:
        _write_varint(out, (value << 1 ^ value >> 63) & 0xFFFF_FFFF_FFFF_FFFF)
    elif kind in (TRUE, FALSE, BYTE):
        out.append(value & 0xFF)
    elif kind == DOUBLE:
        out += value
    elif kind == BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind in (LIST, SET):
        size = len(value.values)
        out.append(min(size, 15) << 4 | value.kind)
        if size >= 15:
            _write_varint(out, size)
        for item in value.values:
            _write(out, value.kind, item)
    else:
        _write_fields(out, value)


def _write_fields(out: bytearray, fields: list[Field]) -> None:
    number = 0
    for one in fields:
        step = one.number - number
        number = one.number
        kind = one.kind if one.kind not in (TRUE, FALSE) else (TRUE if one.value else FALSE)
        if 0 < step < 16:
            out.append(step << 4 | kind)
        else:
            out.append(kind)
            _write(out, I16, number)
        if kind not in (TRUE, FALSE):
            _write(out, kind, one.value)
    out.append(0)


def _write_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
