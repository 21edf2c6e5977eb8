"""Pages of a Parquet column chunk: their headers, and the rows that begin in a page of lists.

How much is decoded follows from the pages' own headers, whatever the footer says. pyarrow does not
show them, so they are parsed here: structs of Thrift's compact protocol, before each page
(https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from digitsum.archive.parquet.footer import ColumnChunk
from digitsum.archive.parquet.thrift import CompactReader, Fields

_FIRST_READ, _MAX_HEADER = 1024, 16 * 2**20
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
# Numbers of fields in parquet.thrift: kind and sizes; then values, and rows, of each kind of page.
_OF_HEADER: Fields = {1: {}, 2: {}, 3: {}, 5: {1: {}}, 7: {1: {}}, 8: {1: {}, 3: {}}}
_LEVELS_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class PageHeader:
    """A page, as its header describes it."""

    is_dictionary: bool
    codec: str
    offset: int
    """Offset in the file of the page's bytes, after the header."""
    compressed_bytes: int
    uncompressed_bytes: int
    num_values: int
    """Number of values and nulls; of a dictionary, of its values."""
    num_rows: int | None
    """Number of rows that begin in it; None if the header lacks it."""


def read_pages(file: Any, chunk: ColumnChunk, ahead: int = 0) -> Iterator[PageHeader]:
    """Yield the pages of a column chunk, until a reader has all its values.

    `file` is pyarrow's; at least `ahead` bytes of it are read at a time. Raises ValueError if a
    header is malformed or does not end, and OSError.
    """
    offset, end = chunk.first_page, chunk.first_page + chunk.compressed_bytes
    num_values = chunk.num_values
    source = _ReadAhead(file, end, ahead)
    while offset < end and num_values > 0:
        header, length = _read_header(source, offset, end)
        kind, uncompressed, compressed = (_count(header, key) for key in (1, 2, 3))
        offset += length
        of_kind = header.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0))
        if isinstance(of_kind, dict):
            values, rows = _count(of_kind, 1), _count(of_kind, 3) if kind == _DATA_V2 else None
            is_dictionary = kind == _DICTIONARY
            yield PageHeader(
                is_dictionary, chunk.codec, offset, compressed, uncompressed, values, rows
            )
            num_values -= 0 if is_dictionary else values
        offset += compressed


class _ReadAhead:
    """A file up to `end`, with a buffer of the bytes that were read last."""

    def __init__(self, file: Any, end: int, ahead: int) -> None:
        self._file, self._end, self._ahead = file, end, ahead
        self._start, self._buffer = 0, b""

    def read_at(self, size: int, offset: int) -> bytes:
        first = offset - self._start
        if first < 0 or first + size > len(self._buffer):
            wanted = min(max(size, self._ahead), self._end - offset)
            self._start, self._buffer = offset, self._file.read_at(wanted, offset)
            first = 0
        return self._buffer[first : first + size]


def _count(fields: dict[int, Any], key: int) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or value < 0:
        raise ValueError("a page's header lacks a size, or has a negative one")
    return value


def _read_header(source: _ReadAhead, offset: int, end: int) -> tuple[dict[int, Any], int]:
    wanted = _FIRST_READ
    while True:
        data = source.read_at(min(wanted, end - offset), offset)
        try:
            reader = CompactReader(data)
            return reader.struct(_OF_HEADER), reader.position
        except IndexError:
            # Statistics in the header may hold whole images: the minimum and the maximum.
            if len(data) < wanted or wanted >= _MAX_HEADER:
                raise ValueError("a page's header does not end") from None
            wanted *= 16


def rows_begun(file: Any, page: PageHeader) -> int:
    """Return how many rows begin in a data page of lists: how many repetition levels are 0.

    Raises ValueError, or as pyarrow does, if the page cannot be read.
    """
    if page.num_rows is not None:
        return page.num_rows
    data = file.read_at(page.compressed_bytes, page.offset)
    if page.codec != "UNCOMPRESSED":
        # Parquet's "LZ4" is raw blocks; pyarrow's "lz4" is a file format.
        name = "lz4_raw" if page.codec == "LZ4" else page.codec.lower()
        data = pa.decompress(data, page.uncompressed_bytes, name, asbytes=True)
    end = _LEVELS_LENGTH_BYTES + int.from_bytes(data[:_LEVELS_LENGTH_BYTES], "little")
    try:
        return _count_zeros(memoryview(data)[_LEVELS_LENGTH_BYTES:end], page.num_values)
    except IndexError:
        raise ValueError("a page's repetition levels end early") from None


def _count_zeros(levels: memoryview, left: int) -> int:
    """Count the zeros among `left` levels of one bit, in Parquet's hybrid of runs and packed bits.

    Raises IndexError if the levels end early.
    """
    num_zeros = position = 0
    while left > 0:
        head = shift = 0
        while (byte := levels[position]) & 0x80:
            head |= (byte & 0x7F) << shift
            shift += 7
            position += 1
        head |= byte << shift
        position += 1
        count = head >> 1
        if head & 1:  # `count` bytes of eight levels each
            packed = np.frombuffer(levels[position : position + count], np.uint8)
            bits = np.unpackbits(packed, bitorder="little")[:left]
            num_zeros += len(bits) - int(np.count_nonzero(bits))
            position += count
            left -= len(bits) or left
        else:  # a run of `count` levels
            num_zeros += 0 if levels[position] else min(count, left)
            position += 1
            left -= count
    return num_zeros
