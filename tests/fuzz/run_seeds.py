"""Seeds of parts, footer caches, rejects and manifests."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from factories import write_run
from seeds import SHAPE, SHARD, parquet_of

from digitsum.archive.chunks import ChunkId
from digitsum.archive.score_parts import _PART_KEY, SCORES_SCHEMA, Part
from digitsum.archive.shards import Fingerprint
from digitsum.manifest import to_json
from digitsum.model.prediction_stats import PredictionStats
from digitsum.scoring.footer_cache import _PARTS, _SHARDS
from digitsum.scoring.rejects import REJECTS_SCHEMA
from digitsum.scoring.results import ChunkResult

FINGERPRINT = Fingerprint(1, 1, 4, "image", "image_id", SHAPE.height, SHAPE.width)
CHUNK = ChunkId(SHARD, FINGERPRINT, 0, 4)


def part(model: str = "a" * 64) -> bytes:
    """Return a part of four rows, one of them rejected."""
    rows = [("a", 3, 0.5, [1, 2], [1, 2], [0.5, 0.5], None)] * 3
    rows += [("d", None, None, None, None, None, "no image")]
    names = SCORES_SCHEMA.names
    table = pa.Table.from_pylist([dict(zip(names, r, strict=True)) for r in rows], SCORES_SCHEMA)
    return parquet_of(table.replace_schema_metadata({_PART_KEY: to_json(Part(model, CHUNK, 1))}))


def parts() -> Iterator[bytes]:
    yield part()
    yield part("b" * 64)


def footer_caches() -> Iterator[bytes]:
    """Yield the two tables of a footer cache."""
    for schema in (_SHARDS, _PARTS):
        row: dict[str, Any] = {field.name: 1 for field in schema if pa.types.is_integer(field.type)}
        row |= {field.name: "a" for field in schema if pa.types.is_string(field.type)}
        row |= {field.name: [4] for field in schema if pa.types.is_list(field.type)}
        yield parquet_of(pa.Table.from_pylist([row], schema))


def rejects() -> Iterator[bytes]:
    row = {"shard": SHARD, "row": 3, "image_id": "d", "stage": "decode", "reason": "no image"}
    yield parquet_of(pa.Table.from_pylist([row] * 5, REJECTS_SCHEMA))


def manifests() -> Iterator[bytes]:
    """Yield manifests of a scoring run and of a training run."""
    predicted = PredictionStats((0, 90, 20), (0,) * 10 + (110,), (0, 110))
    with tempfile.TemporaryDirectory() as scores:
        found = {"predicted": predicted, "reference": predicted, "chunks": (ChunkResult(CHUNK, 1),)}
        run = write_run(Path(scores), 0, model="digest", **found)
        content = (run / "manifest.json").read_bytes()
    yield content
    best = {"epoch": 1, "validation_accuracy": 0.5, "validation_images": 10}
    trained = {"best": best, "model": "nowhere", "model_digest": "digest"}
    yield json.dumps(json.loads(content) | {"kind": "train", "outcome": trained}).encode()
