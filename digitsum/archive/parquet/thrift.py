"""Reading structs of Thrift's compact protocol, in which Parquet writes its headers and footers.

The bytes may be anybody's: nothing is read beyond them, and no number makes more memory than there
are bytes. (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Kept: TypeAlias = "Mapping[int, Kept]"
"""Which fields are kept, by their numbers, and of structs in them which again."""

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
_BYTES_OF = {_TRUE: 1, _FALSE: 1, _BYTE: 1, _DOUBLE: 8}
_NOTHING: Kept = {}
_MAX_DEPTH = 16
_MAX_BITS = 63


class CompactReader:
    """Reads structs; raises IndexError where the bytes end, ValueError where they are none."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0
        """Bytes read so far."""

    def struct(self, kept: Kept, depth: int = 0) -> dict[int, Any]:
        """Return the fields that are kept: integers, bytes, and lists and structs of such."""
        if depth > _MAX_DEPTH:
            raise ValueError("a struct is nested too deep")
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            if kind in (_TRUE, _FALSE):  # which such fields hold in their kind
                continue
            value = self._value(kind, kept.get(number, _NOTHING), depth)
            if number in kept:
                found[number] = value
        return found

    def _value(self, kind: int, kept: Kept, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct(kept, depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            size = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, kept, depth + 1) for _ in range(size)]
        if kind in _BYTES_OF:
            return self._bytes(_BYTES_OF[kind])
        raise ValueError(f"a field is of kind {kind}, which there is not")

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
                raise ValueError("a number has no end")
        return value | byte << shift

    def _integer(self) -> int:
        zigzag = self._varint()
        return zigzag >> 1 ^ -(zigzag & 1)
