"""The headers of a Parquet column chunk's pages, read without a page being decompressed.

A footer's sizes are claims that no reader holds it to; what is decompressed, and how many values
are decoded, follows from the pages' own headers. pyarrow does not show them, so they are read here:
structs of Thrift's compact protocol, one before each page
(https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_FIRST_READ, _MAX_HEADER = 1024, 16 * 2**20
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class PageHeader:
    """What is said before a page."""

    is_dictionary: bool
    offset: int
    """Where the page's bytes begin in the file, after the header."""
    compressed_bytes: int
    uncompressed_bytes: int
    num_values: int
    """Values and nulls; of a dictionary, its values."""
    num_rows: int | None
    """Rows that begin in it, where it says so."""


def read_page_headers(file: Any, start: int, size: int, num_values: int) -> Iterator[PageHeader]:
    """Yield the headers of a column chunk's pages, those that a reader of `num_values` comes to.

    `file` is pyarrow's. Raises ValueError where there is no header in place, and OSError.
    """
    offset, end = start, start + size
    while offset < end and num_values > 0:
        header, length = _read_header(file, offset, end)
        kind, uncompressed, compressed = (_count(header, key) for key in (1, 2, 3))
        offset += length
        of_kind = header.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0))
        if isinstance(of_kind, dict):
            values, rows = _count(of_kind, 1), _count(of_kind, 3) if kind == _DATA_V2 else None
            is_dictionary = kind == _DICTIONARY
            yield PageHeader(is_dictionary, offset, compressed, uncompressed, values, rows)
            num_values -= 0 if is_dictionary else values
        offset += compressed


def _count(fields: dict[int, Any], key: int) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or value < 0:
        raise ValueError("a page's header lacks a size, or has one below 0")
    return value


def _read_header(file: Any, offset: int, end: int) -> tuple[dict[int, Any], int]:
    wanted = _FIRST_READ
    while True:
        data = file.read_at(min(wanted, end - offset), offset)
        try:
            reader = _Compact(data)
            return reader.struct(), reader.position
        except IndexError:
            # It goes on: statistics, such as the least and the greatest image, may be in it.
            if len(data) < wanted or wanted >= _MAX_HEADER:
                raise ValueError("a page's header does not end") from None
            wanted *= 16


class _Compact:
    """Reads one struct; raises IndexError where the bytes end, ValueError where they are none."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields by their numbers: integers and structs; of others None."""
        if depth > _MAX_DEPTH:
            raise ValueError("a page's header is nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            delta = head >> 4
            number = number + delta if delta else self._integer()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):  # true and false, which fields hold in their kind
            return None
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind in (7, 8):
            self._skip(8 if kind == 7 else self._varint())
            return None
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(count):
                self._element(head & 15, depth)
            return None
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError(f"a page's header has a field of kind {kind}")

    def _element(self, kind: int, depth: int) -> None:
        if kind in (1, 2):
            self._byte()
        else:
            self._value(kind, depth + 1)

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _varint(self) -> int:
        result = shift = 0
        while (byte := self._byte()) & 0x80:
            result |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a page's header has a number without an end")
        return result | byte << shift

    def _integer(self) -> int:
        zigzag = self._varint()
        return zigzag >> 1 ^ -(zigzag & 1)

    def _skip(self, count: int) -> None:
        self.position += count
        if self.position > len(self._data):
            raise IndexError
