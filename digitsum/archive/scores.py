"""What scoring writes: one Parquet part a chunk, which says itself what it was scored from."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.archive.location import Location
from digitsum.archive.publish import published
from digitsum.archive.shards import SHARD_SUFFIX, Chunk
from digitsum.errors import InputError

FORMAT_VERSION = "2"
DIGEST_CHARACTERS = 16
CURRENT_FILE = "CURRENT"

SCORES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("predicted_sum", pa.int16()),
        pa.field("confidence", pa.float32()),
        pa.field("digits", pa.list_(pa.int8())),
        pa.field("digit_x", pa.list_(pa.int16())),
        pa.field("count_probabilities", pa.list_(pa.float32())),
        pa.field("error", pa.string()),
    ]
)

_PREFIX = "digitsum."


@dataclass(frozen=True)
class PartSource:
    """What a part was scored from; two parts of the same source hold the same scores."""

    model_digest: str
    """The bundle's, and what it was told of the images (`told_digest`)."""
    shard: str
    fingerprint: str
    first_row: int
    num_rows: int

    def to_metadata(self) -> dict[str, str]:
        """Return the source as Parquet file metadata."""
        values = {name: str(value) for name, value in vars(self).items()}
        return {_PREFIX + name: value for name, value in values.items()} | {
            f"{_PREFIX}format": FORMAT_VERSION
        }

    @staticmethod
    def from_metadata(metadata: dict[bytes, bytes] | None) -> PartSource | None:
        """Return the source that Parquet file metadata names, or None where it names none."""
        try:
            values = {
                key.decode(): value.decode()
                for key, value in (metadata or {}).items()
                if key.startswith(_PREFIX.encode())
            }
        except UnicodeDecodeError:
            return None
        if values.get(f"{_PREFIX}format") != FORMAT_VERSION:
            return None
        try:
            return PartSource(
                values[f"{_PREFIX}model_digest"],
                values[f"{_PREFIX}shard"],
                values[f"{_PREFIX}fingerprint"],
                int(values[f"{_PREFIX}first_row"]),
                int(values[f"{_PREFIX}num_rows"]),
            )
        except (KeyError, ValueError):
            return None


def part_source(chunk: Chunk, model_digest: str) -> PartSource:
    """Return what the part of a chunk is scored from."""
    return PartSource(model_digest, chunk.shard, chunk.fingerprint, chunk.first_row, chunk.num_rows)


def told_digest(bundle_digest: str, num_digits: int | None) -> str:
    """Return a model's digest, marked where it is told how many digits images hold.

    Told that, it scores otherwise: its scores are another model's, and lie apart.
    """
    return bundle_digest if num_digits is None else f"{bundle_digest}-digits{num_digits}"


def model_directory(model_digest: str) -> str:
    """Return the directory, below the scores, of the parts that a model scored.

    It reads as a Hive partition, so that pyarrow, DuckDB and Spark find the column `model`.
    """
    digest, mark, told = model_digest.partition("-")
    return f"model={digest[:DIGEST_CHARACTERS]}{mark}{told}"


def part_path(source: PartSource) -> str:
    """Return a part's path below the scores; it follows from model, shard and row range alone.

    The shard's whole path, without its suffix, becomes directories, so that no two shards share a
    name, and an archive's own Hive partitions stay partitions of its scores.
    """
    shard = source.shard.removesuffix(SHARD_SUFFIX)
    rows = f"rows-{source.first_row:012d}-{source.first_row + source.num_rows:012d}"
    return f"{model_directory(source.model_digest)}/{shard}/{rows}{SHARD_SUFFIX}"


def write_part(location: Location, table: pa.Table, source: PartSource) -> None:
    """Make a part appear whole; raises InputError where it has not the rows of its source."""
    if table.num_rows != source.num_rows:
        raise InputError(
            f"{source.shard}: gave {table.num_rows} rows from row {source.first_row} on, but its "
            f"footer promised {source.num_rows}: it was changed meanwhile; run again."
        )
    table = table.cast(SCORES_SCHEMA).replace_schema_metadata(source.to_metadata())
    with published(location) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_part_source(location: Location) -> PartSource | None:
    """Return what a part says it was scored from; None where it is absent, broken or no part."""
    try:
        with location.filesystem.open_input_file(location.path) as file:
            return PartSource.from_metadata(pq.read_metadata(file).metadata)
    except (OSError, pa.ArrowInvalid):
        return None
