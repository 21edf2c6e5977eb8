"""What scoring writes: one Parquet part a chunk, which says itself what it was scored from."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from digitsum.archive.chunks import Chunk
from digitsum.archive.shards import DAMAGED, SHARD_SUFFIX
from digitsum.errors import InputError, StorageError
from digitsum.storage.atomic_write import published
from digitsum.storage.location import Location, storage_error

FORMAT_VERSION = "3"
DIGEST_CHARACTERS = 16
CURRENT_FILE = "CURRENT"
MODEL_KEY = "model"
PART_PREFIX = "rows-"

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
_NUM_REJECTED = f"{_PREFIX}num_rejected"
_MOST_DIGITS = 18  # of a number of rows; Python refuses to read numbers of thousands


@dataclass(frozen=True, slots=True)
class PartSource:
    """What a part was scored from; two parts of the same source hold the same scores."""

    model_digest: str
    """The model's, and what it was told of the images (`known_count_digest`)."""
    shard: str
    fingerprint: str
    first_row: int
    num_rows: int

    def to_metadata(self) -> dict[str, str]:
        """Return the source as Parquet file metadata."""
        values = {name: str(value) for name, value in asdict(self).items()}
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


@dataclass(frozen=True, slots=True)
class Part:
    """What a part says of itself."""

    source: PartSource
    num_rejected: int
    """Rows that have an error in place of a sum."""

    @staticmethod
    def from_metadata(metadata: dict[bytes, bytes] | None) -> Part | None:
        """Return what Parquet file metadata say of a part, or None where they are no part's."""
        source = PartSource.from_metadata(metadata)
        num_rejected = (metadata or {}).get(_NUM_REJECTED.encode(), b"")
        if source is None or not num_rejected.isdigit() or len(num_rejected) > _MOST_DIGITS:
            return None
        return Part(source, int(num_rejected))


def part_source(chunk: Chunk, model_digest: str) -> PartSource:
    """Return what the part of a chunk is scored from."""
    return PartSource(model_digest, chunk.shard, chunk.fingerprint, chunk.first_row, chunk.num_rows)


def known_count_digest(model_digest: str, num_digits: int | None) -> str:
    """Return a model's digest, marked where it is told how many digits images hold.

    Told that, it scores otherwise: its scores are another model's, and lie apart.
    """
    return model_digest if num_digits is None else f"{model_digest}-digits{num_digits}"


def model_directory(model_digest: str) -> str:
    """Return the directory, below the scores, of the parts that a model scored.

    It reads as a Hive partition, so that pyarrow, DuckDB and Spark find the column `model`.
    """
    digest, mark, told = model_digest.partition("-")
    return f"{MODEL_KEY}={digest[:DIGEST_CHARACTERS]}{mark}{told}"


def part_path(source: PartSource) -> str:
    """Return a part's path below the scores; it follows from model, shard and row range alone.

    The shard's whole path, without its suffix, becomes directories, so that no two shards share a
    name, and an archive's own Hive partitions stay partitions of its scores.
    """
    rows = f"{PART_PREFIX}{source.first_row:012d}-{source.first_row + source.num_rows:012d}"
    return f"{part_directory(source.model_digest, source.shard)}/{rows}{SHARD_SUFFIX}"


def part_directory(model_digest: str, shard: str) -> str:
    """Return the directory, below the scores, of the parts of one shard."""
    return f"{model_directory(model_digest)}/{shard.removesuffix(SHARD_SUFFIX)}"


def write_part(location: Location, table: pa.Table, source: PartSource) -> Part:
    """Make a part appear whole, and return what it says of itself.

    Rows in are rows scored and rows rejected, or nothing appears: raises InputError where the table
    has not the rows of its source, and ValueError where a row has both a sum and an error, or
    neither. Raises InputError, or StorageError, where the file system refuses.
    """
    if table.num_rows != source.num_rows:
        raise InputError(
            f"{source.shard}: gave {table.num_rows} rows from row {source.first_row} on, but its "
            f"footer promised {source.num_rows}: it was changed meanwhile; run again."
        )
    is_scored = table.column("predicted_sum").is_valid()
    is_rejected = table.column("error").is_valid()
    if not pc.all(pc.xor(is_scored, is_rejected), min_count=0).as_py():
        raise ValueError(f"{source.shard}: a row is neither scored nor rejected, or both")
    part = Part(source, pc.sum(is_rejected, min_count=0).as_py())
    metadata = source.to_metadata() | {_NUM_REJECTED: str(part.num_rejected)}
    table = table.cast(SCORES_SCHEMA).replace_schema_metadata(metadata)
    try:
        with published(location) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    except OSError as error:
        raise storage_error(f"{location.uri}: cannot be written", error) from error
    return part


def read_part(location: Location) -> Part | None:
    """Return what a part says of itself; None where it is absent, broken or no part.

    Raises StorageError where the file system refuses for a reason that may pass.
    """
    try:
        with location.filesystem.open_input_file(location.path) as file:
            return Part.from_metadata(pq.read_metadata(file).metadata)
    except OSError as error:
        said = storage_error(f"{location.uri}: cannot be read", error)
        if isinstance(said, StorageError):
            raise said from error
        return None
    except DAMAGED:
        return None
