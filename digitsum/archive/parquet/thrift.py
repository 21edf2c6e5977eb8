"""Structs of Thrift's compact protocol, in which Parquet writes footers and page headers.

The bytes are untrusted: nothing beyond their end is read, and no number in them allocates memory.
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Fields: TypeAlias = "Mapping[int, Fields]"
"""Fields to return, by number, each with the fields to return of structs in it."""

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
_BYTES_OF_KIND = {_TRUE: 1, _FALSE: 1, _BYTE: 1, _DOUBLE: 8}
_MAX_DEPTH = 16
_MAX_BITS = 63


class CompactReader:
    """Reader of structs; raises IndexError if the bytes end early, ValueError if malformed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0
        """Number of bytes read so far."""

    def struct(self, fields: Fields, depth: int = 0) -> dict[int, Any]:
        """Return the values of these fields: integers, bytes, and lists and structs of them."""
        if depth > _MAX_DEPTH:
            raise ValueError("a struct is nested too deep")
        values: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            if kind in (_TRUE, _FALSE):  # the kind is the value; no bytes follow
                continue
            value = self._value(kind, fields.get(number, {}), depth)
            if number in fields:
                values[number] = value
        return values

    def _value(self, kind: int, fields: Fields, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct(fields, depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            size = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, fields, depth + 1) for _ in range(size)]
        if kind in _BYTES_OF_KIND:
            return self._bytes(_BYTES_OF_KIND[kind])
        raise ValueError(f"a field is of the unknown kind {kind}")

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _bytes(self, size: int) -> bytes:
        if size > len(self._data) - self.position:
            raise IndexError
        self.position += size
        return self._data[self.position - size : self.position]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > _MAX_BITS:
                raise ValueError("a number is too long")
        return value | byte << shift

    def _integer(self) -> int:
        zigzag = self._varint()
        return zigzag >> 1 ^ -(zigzag & 1)
