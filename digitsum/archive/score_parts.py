"""Score parts: what scoring writes, one Parquet file a chunk, which names what was scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from digitsum.archive.chunks import ChunkId
from digitsum.archive.parquet.files import DAMAGED
from digitsum.errors import InputError, StorageError
from digitsum.manifest import parse_json, to_json
from digitsum.storage.atomic_write import published
from digitsum.storage.listing import PARQUET_SUFFIX
from digitsum.storage.location import Location, storage_error

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

_PART_KEY = b"digitsum.part"


@dataclass(frozen=True, slots=True)
class Part:
    """A part's description of itself, stored as JSON in its Parquet metadata."""

    model_digest: str
    """The model's digest, with the known count if there is one (`known_count_digest`)."""
    chunk: ChunkId
    num_rejected: Annotated[int, Field(ge=0)]
    """Rows that have an error in place of a sum."""
    version: Literal[4] = 4

    @staticmethod
    def from_metadata(metadata: dict[bytes, bytes] | None) -> Part | None:
        """Return the part that Parquet file metadata describe, or None if they describe none."""
        try:
            part = parse_json(Part, (metadata or {})[_PART_KEY], "part")
        except (KeyError, InputError):
            return None
        return part if part.num_rejected <= part.chunk.num_rows else None


def known_count_digest(model_digest: str, known_count: int | None) -> str:
    """Return a model's digest; with a known count, one of its own, because the scores differ."""
    return model_digest if known_count is None else f"{model_digest}-digits{known_count}"


def model_directory(model_digest: str) -> str:
    """Return the directory, below the scores, of the parts of a model: a Hive partition."""
    digest, mark, known_count = model_digest.partition("-")
    return f"{MODEL_KEY}={digest[:DIGEST_CHARACTERS]}{mark}{known_count}"


def part_path(model_digest: str, chunk: ChunkId) -> str:
    """Return a part's path below the scores; it follows from model, shard and row range alone."""
    rows = f"{PART_PREFIX}{chunk.first_row:012d}-{chunk.first_row + chunk.num_rows:012d}"
    return f"{part_directory(model_digest, chunk.shard)}/{rows}{PARQUET_SUFFIX}"


def part_directory(model_digest: str, shard: str) -> str:
    """Return the directory, below the scores, of the parts of one shard.

    It holds the shard's whole path, so that no two shards share one, and an archive's own Hive
    partitions stay partitions of its scores.
    """
    return f"{model_directory(model_digest)}/{shard.removesuffix(PARQUET_SUFFIX)}"


def write_part(location: Location, table: pa.Table, model_digest: str, chunk: ChunkId) -> Part:
    """Publish a chunk's part, and return its description.

    Raises InputError if the table has not as many rows as the chunk, ValueError if a row has both
    a sum and an error, or neither, and InputError or StorageError if the file system refuses.
    """
    if table.num_rows != chunk.num_rows:
        raise InputError(
            f"{chunk.shard}: gave {table.num_rows} rows from row {chunk.first_row} on, but its "
            f"footer promised {chunk.num_rows}: it was changed during the run; run again."
        )
    is_scored = table.column("predicted_sum").is_valid()
    is_rejected = table.column("error").is_valid()
    if not pc.all(pc.xor(is_scored, is_rejected), min_count=0).as_py():
        raise ValueError(f"{chunk.shard}: a row is neither scored nor rejected, or both")
    part = Part(model_digest, chunk, pc.sum(is_rejected, min_count=0).as_py())
    table = table.cast(SCORES_SCHEMA).replace_schema_metadata({_PART_KEY: to_json(part)})
    try:
        with published(location) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    except OSError as error:
        raise storage_error(f"{location.uri}: cannot be written", error) from error
    return part


def read_part(location: Location) -> Part | None:
    """Return a part's description; None if it is absent, broken or not a part.

    Raises StorageError if the file system refuses for a reason that may pass.
    """
    try:
        with location.filesystem.open_input_file(location.path) as file:
            return Part.from_metadata(pq.read_metadata(file).metadata)
    except OSError as error:
        failure = storage_error(f"{location.uri}: cannot be read", error)
        if isinstance(failure, StorageError):
            raise failure from error
        return None
    except DAMAGED:
        return None
