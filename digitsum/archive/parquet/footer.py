"""Row groups and columns as a Parquet footer describes them.

pyarrow's `RowGroupMetaData.column` ends the whole process (`std::terminate`) if a footer has an
unknown codec or lacks a column. But pyarrow can write the footer again as it understood it, in
Thrift's compact protocol, and that is parsed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.archive.parquet.thrift import CompactReader, Fields
from digitsum.errors import InputError

MAX_ROW_GROUP_ROWS = 2**24
"""Scores of a row group are in memory until it is done; pyarrow writes at most 2^20 rows."""
# Numbers of fields in parquet.thrift, from the file's metadata down to a column's statistics.
_ROW_GROUPS, _COLUMNS, _NUM_ROWS, _META_DATA = 4, 1, 3, 3
_PATH, _CODEC, _NUM_VALUES, _COMPRESSED, _DATA_PAGE, _DICTIONARY_PAGE = 3, 4, 5, 7, 9, 11
_STATISTICS, _NULL_COUNT, _MAX_VALUE, _MIN_VALUE = 12, 3, 5, 6
_OF_COLUMN: Fields = {
    **{key: {} for key in (_PATH, _CODEC, _NUM_VALUES, _COMPRESSED, _DATA_PAGE, _DICTIONARY_PAGE)},
    _STATISTICS: {_NULL_COUNT: {}, _MAX_VALUE: {}, _MIN_VALUE: {}},
}
_OF_FOOTER: Fields = {_ROW_GROUPS: {_COLUMNS: {_META_DATA: _OF_COLUMN}, _NUM_ROWS: {}}}
_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4")


@dataclass(frozen=True, slots=True)
class ColumnChunk:
    """A column of a row group, as the footer describes it."""

    path: str
    """Names from the column down to the leaf, joined by dots."""
    codec: str
    """Name of the compression; `codec N` if N is unknown."""
    num_values: int
    compressed_bytes: int
    """Bytes of all its pages with their headers."""
    first_page: int
    """Offset in the file of the first page, which may be a dictionary's."""
    statistics: dict[int, Any] | None

    def integer_range(self, *, signed: bool) -> tuple[int, int, int] | None:
        """Return the minimum, the maximum and the nulls of integers; None without statistics."""
        known = self.statistics or {}
        if _NULL_COUNT not in known or not known.get(_MIN_VALUE) or not known.get(_MAX_VALUE):
            return None
        ends = (known[_MIN_VALUE], known[_MAX_VALUE])
        least, most = (int.from_bytes(end, "little", signed=signed) for end in ends)
        return least, most, int(known[_NULL_COUNT])


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group, as the footer describes it."""

    num_rows: int
    columns: tuple[ColumnChunk, ...]

    def column(self, path: str) -> ColumnChunk | None:
        """Return the column of that path, or None."""
        return next((column for column in self.columns if column.path == path), None)


def row_groups(metadata: pq.FileMetaData, where: str) -> list[RowGroup]:
    """Return the row groups; raises InputError, naming the file, if a column is missing."""
    content = pa.BufferOutputStream()
    metadata.write_metadata_file(content)
    footer = content.getvalue().to_pybytes()[4:-8]  # without its length, and "PAR1" at both ends
    groups = CompactReader(footer).struct(_OF_FOOTER).get(_ROW_GROUPS, [])
    for columns in (group[_COLUMNS] for group in groups):
        if len(columns) != metadata.num_columns or any(_META_DATA not in c for c in columns):
            raise InputError(f"{where}: its footer contradicts itself on the columns; replace it.")
    return [RowGroup(group[_NUM_ROWS], tuple(map(_chunk, group[_COLUMNS]))) for group in groups]


def row_group_rows(
    metadata: pq.FileMetaData, schema: pa.Schema, column: str, where: str
) -> tuple[int, ...]:
    """Return the rows of each row group; raises InputError if the footer contradicts itself.

    Rows that it hides would be neither scored nor rejected: a flat `column` must have a value each.
    """
    groups = row_groups(metadata, where)
    rows = tuple(group.num_rows for group in groups)
    is_flat = not pa.types.is_nested(schema.field(column).type)
    chunks = [group.column(column) for group in groups] if is_flat else []
    values = [chunk.num_values for chunk in chunks if chunk]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows or (values and [*rows] != values):
        raise InputError(
            f"{where}: its footer contradicts itself on the number of rows; replace it."
        )
    if max(rows, default=0) > MAX_ROW_GROUP_ROWS:
        raise InputError(
            f"{where}: has a row group of {max(rows):,} rows, more than {MAX_ROW_GROUP_ROWS:,}; "
            "write smaller ones."
        )
    return rows


def _chunk(column: dict[int, Any]) -> ColumnChunk:
    fields = column[_META_DATA]
    codec, path = fields[_CODEC], b".".join(fields[_PATH]).decode(errors="replace")
    data_page, dictionary_page = fields[_DATA_PAGE], fields.get(_DICTIONARY_PAGE, 0)
    return ColumnChunk(
        path,
        _CODECS[codec] if 0 <= codec < len(_CODECS) else f"codec {codec}",
        fields[_NUM_VALUES],
        fields[_COMPRESSED],
        dictionary_page if 0 < dictionary_page < data_page else data_page,
        fields.get(_STATISTICS),
    )
