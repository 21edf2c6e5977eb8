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

from digitsum.archive.parquet.thrift import CompactReader, Kept
from digitsum.errors import InputError

_MAGIC_BYTES = 4
_LENGTH_AND_MAGIC_BYTES = 8
# Numbers of fields in parquet.thrift, from the file's metadata down to a column's statistics.
_ROW_GROUPS, _COLUMNS, _NUM_ROWS, _META_DATA = 4, 1, 3, 3
_PATH, _CODEC, _NUM_VALUES, _COMPRESSED, _DATA_PAGE, _DICTIONARY_PAGE = 3, 4, 5, 7, 9, 11
_STATISTICS, _NULL_COUNT, _MAX_VALUE, _MIN_VALUE = 12, 3, 5, 6
_KEPT_OF_COLUMN: Kept = {
    **{
        number: {}
        for number in (_PATH, _CODEC, _NUM_VALUES, _COMPRESSED, _DATA_PAGE, _DICTIONARY_PAGE)
    },
    _STATISTICS: {_NULL_COUNT: {}, _MAX_VALUE: {}, _MIN_VALUE: {}},
}
_KEPT: Kept = {_ROW_GROUPS: {_COLUMNS: {_META_DATA: _KEPT_OF_COLUMN}, _NUM_ROWS: {}}}
_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4")


@dataclass(frozen=True, slots=True)
class ColumnChunk:
    """A column of a row group, as the footer describes it."""

    path: str
    """Names from the column down to the leaf, with dots between them."""
    codec: str
    """Compression, or how its number reads where there is none of that number."""
    num_values: int
    compressed_bytes: int
    """Of its pages, their headers included."""
    first_page: int
    """Where the first page begins in the file, a dictionary's where there is one."""
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
    told = CompactReader(footer).struct(_KEPT).get(_ROW_GROUPS, [])
    for group in told:
        columns = group[_COLUMNS]
        if len(columns) != metadata.num_columns or any(_META_DATA not in c for c in columns):
            raise InputError(f"{where}: its footer contradicts itself on the columns; replace it.")
    return [RowGroup(group[_NUM_ROWS], tuple(map(_chunk, group[_COLUMNS]))) for group in told]


def _chunk(column: dict[int, Any]) -> ColumnChunk:
    told = column[_META_DATA]
    codec, path = told[_CODEC], b".".join(told[_PATH]).decode(errors="replace")
    name = _CODECS[codec] if 0 <= codec < len(_CODECS) else f"codec {codec}"
    first, dictionary = told[_DATA_PAGE], told.get(_DICTIONARY_PAGE, 0)
    return ColumnChunk(
        path,
        name,
        told[_NUM_VALUES],
        told[_COMPRESSED],
        dictionary if 0 < dictionary < first else first,
        told.get(_STATISTICS),
    )
