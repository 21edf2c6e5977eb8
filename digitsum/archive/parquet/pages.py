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

from digitsum.archive.parquet.thrift import CompactReader, Kept

_FIRST_READ, _MAX_HEADER = 1024, 16 * 2**20
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
# Numbers of fields in parquet.thrift: kind and sizes; values, and rows, of each kind of page.
_KEPT: Kept = {1: {}, 2: {}, 3: {}, 5: {1: {}}, 7: {1: {}}, 8: {1: {}, 3: {}}}


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


def read_page_headers(
    file: Any, start: int, size: int, num_values: int, *, ahead: int = 0
) -> Iterator[PageHeader]:
    """Yield the headers of a column chunk's pages, those that a reader of `num_values` comes to.

    `file` is pyarrow's; at least `ahead` bytes of it are read at once, and the headers in them
    taken from there. Raises ValueError where there is no header in place, and OSError.
    """
    offset, end = start, start + size
    held = _ReadAhead(file, end, ahead)
    while offset < end and num_values > 0:
        header, length = _read_header(held, offset, end)
        kind, uncompressed, compressed = (_count(header, key) for key in (1, 2, 3))
        offset += length
        of_kind = header.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0))
        if isinstance(of_kind, dict):
            values, rows = _count(of_kind, 1), _count(of_kind, 3) if kind == _DATA_V2 else None
            is_dictionary = kind == _DICTIONARY
            yield PageHeader(is_dictionary, offset, compressed, uncompressed, values, rows)
            num_values -= 0 if is_dictionary else values
        offset += compressed


class _ReadAhead:
    """A file up to `end`, of which what was read last is held."""

    def __init__(self, file: Any, end: int, ahead: int) -> None:
        self._file, self._end, self._ahead = file, end, ahead
        self._start, self._held = 0, b""

    def read_at(self, size: int, offset: int) -> bytes:
        first = offset - self._start
        if first < 0 or first + size > len(self._held):
            wanted = min(max(size, self._ahead), self._end - offset)
            self._start, self._held = offset, self._file.read_at(wanted, offset)
            first = 0
        return self._held[first : first + size]


def _count(fields: dict[int, Any], key: int) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or value < 0:
        raise ValueError("a page's header lacks a size, or has one below 0")
    return value


def _read_header(file: _ReadAhead, offset: int, end: int) -> tuple[dict[int, Any], int]:
    wanted = _FIRST_READ
    while True:
        data = file.read_at(min(wanted, end - offset), offset)
        try:
            reader = CompactReader(data)
            return reader.struct(_KEPT), reader.position
        except IndexError:
            # It goes on: statistics, such as the least and the greatest image, may be in it.
            if len(data) < wanted or wanted >= _MAX_HEADER:
                raise ValueError("a page's header does not end") from None
            wanted *= 16
