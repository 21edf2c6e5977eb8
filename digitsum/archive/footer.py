"""What a Parquet footer says of its row groups, without asking pyarrow for their columns.

`RowGroupMetaData.column` of pyarrow ends the whole process (`std::terminate`) where a footer
contradicts itself, by a codec that there is not or a column too few: one bad shard would cost the
run. pyarrow writes the footer again as it understood it, in Thrift's compact protocol, and that is
read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.errors import InputError

_MAGIC_BYTES = 4
_LENGTH_AND_MAGIC_BYTES = 8
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
# Numbers of fields in parquet.thrift, from the file's metadata down to a column's statistics.
_ROW_GROUPS, _COLUMNS, _NUM_ROWS, _META_DATA = 4, 1, 3, 3
_PATH, _CODEC, _NUM_VALUES, _STATISTICS = 3, 4, 5, 12
_NULL_COUNT, _MAX_VALUE, _MIN_VALUE = 3, 5, 6
_KEPT = {
    "file": {_ROW_GROUPS: "row_group"},
    "row_group": {_COLUMNS: "column", _NUM_ROWS: ""},
    "column": {_META_DATA: "meta_data"},
    "meta_data": {_PATH: "", _CODEC: "", _NUM_VALUES: "", _STATISTICS: "statistics"},
    "statistics": {_NULL_COUNT: "", _MAX_VALUE: "", _MIN_VALUE: ""},
}
_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4")


@dataclass(frozen=True, slots=True)
class ColumnChunk:
    """A column of a row group, as the footer describes it."""

    path: str
    """Names from the column down to the leaf, with dots between them."""
    codec: str
    """Compression, or how its number reads where there is none of that number."""
    num_values: int
    statistics: dict[int, Any] | None

    def integer_range(self, *, signed: bool) -> tuple[int, int, int] | None:
        """Return the least and greatest of a column of integers and its nulls, where they are told.

        `signed` is whether the column's integers are.
        """
        told = self.statistics or {}
        least, greatest, nulls = (told.get(n) for n in (_MIN_VALUE, _MAX_VALUE, _NULL_COUNT))
        if not least or not greatest or nulls is None:
            return None
        return (
            int.from_bytes(least, "little", signed=signed),
            int.from_bytes(greatest, "little", signed=signed),
            int(nulls),
        )


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group, as the footer describes it."""

    num_rows: int
    columns: tuple[ColumnChunk, ...]

    def column(self, path: str) -> ColumnChunk | None:
        """Return a column by its path; None where there is none of that path."""
        return next((column for column in self.columns if column.path == path), None)


def row_groups(metadata: pq.FileMetaData, where: str) -> list[RowGroup]:
    """Return the row groups; raises InputError, naming the file, where they are not all told."""
    content = pa.BufferOutputStream()
    metadata.write_metadata_file(content)
    footer = content.getvalue().to_pybytes()[_MAGIC_BYTES:-_LENGTH_AND_MAGIC_BYTES]
    told = _Reader(footer).struct("file").get(_ROW_GROUPS, [])
    for group in told:
        columns = group[_COLUMNS]
        if len(columns) != metadata.num_columns or any(_META_DATA not in c for c in columns):
            raise InputError(f"{where}: its footer contradicts itself on the columns; replace it.")
    return [RowGroup(group[_NUM_ROWS], tuple(map(_chunk, group[_COLUMNS]))) for group in told]


def _chunk(column: dict[int, Any]) -> ColumnChunk:
    told = column[_META_DATA]
    codec, path = told[_CODEC], b".".join(told[_PATH]).decode(errors="replace")
    name = _CODECS[codec] if 0 <= codec < len(_CODECS) else f"codec {codec}"
    return ColumnChunk(path, name, told[_NUM_VALUES], told.get(_STATISTICS))


class _Reader:
    """Reads a structure that pyarrow wrote, keeping of it what `_KEPT` names."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, name: str | None) -> dict[int, Any]:
        kept = _KEPT.get(name or "", {})
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            if number in kept:
                found[number] = self._value(kind, kept[number])
            elif kind not in (_TRUE, _FALSE):
                self._value(kind, None)
        return found

    def _value(self, kind: int, name: str | None) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct(name)
        if kind in (_LIST, _SET):
            head = self._byte()
            size = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, name) for _ in range(size)]
        return self._bytes(8 if kind == _DOUBLE else 1)

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _varint(self) -> int:
        byte = value = self._byte()
        shift = 7
        while byte & 0x80:
            byte = self._byte()
            value += (byte - 1) << shift
            shift += 7
        return value

    def _integer(self) -> int:
        zigzag = self._varint()
        return zigzag >> 1 ^ -(zigzag & 1)
