"""Seeds of parts, footer caches, rejects and manifests."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from seeds import FINGERPRINT, SHARD, parquet_of

from digitsum.archive.score_parts import SCORES_SCHEMA, PartSource
from digitsum.scoring.footer_cache import _PARTS, _SHARDS
from digitsum.scoring.rejects import SCHEMA as REJECTS_SCHEMA


def scored_from(model: str) -> PartSource:
    """Return the source of a part."""
    return PartSource(model, SHARD, FINGERPRINT, 0, 4)


def part(model: str = "a" * 64) -> bytes:
    """Return a part of four rows, one of them rejected."""
    rows = [("a", 3, 0.5, [1, 2], [1, 2], [0.5, 0.5], None)] * 3
    rows += [("d", None, None, None, None, None, "no image")]
    names = SCORES_SCHEMA.names
    table = pa.Table.from_pylist([dict(zip(names, r, strict=True)) for r in rows], SCORES_SCHEMA)
    metadata = {**scored_from(model).to_metadata(), "digitsum.num_rejected": "1"}
    return parquet_of(table.replace_schema_metadata(metadata))


def parts() -> Iterator[bytes]:
    """Yield parts of scores."""
    yield part()
    yield part("b" * 64)


def footer_caches() -> Iterator[bytes]:
    """Yield the two tables of a footer cache."""
    file = {"path": SHARD, "size_bytes": 1, "mtime_ns": 1}
    shard = {"row_group_rows": [4], "height": 2, "width": 3, "id_column": None}
    yield parquet_of(pa.Table.from_pylist([{**file, **shard, "image_column": "image"}], _SHARDS))
    source = scored_from("a").__class__
    named = dict.fromkeys(source.__slots__, 1) | {"model_digest": "a", "shard": SHARD}
    row = {**file, **named, "fingerprint": FINGERPRINT, "num_rejected": 0}
    yield parquet_of(pa.Table.from_pylist([row], _PARTS))


def rejects() -> Iterator[bytes]:
    """Yield tables of what was rejected."""
    row = {"shard": SHARD, "row": 3, "image_id": "d", "stage": "decode", "reason": "no image"}
    yield parquet_of(pa.Table.from_pylist([row] * 5, REJECTS_SCHEMA))


def run_manifest() -> dict[str, Any]:
    """Return the manifest of a run whose archive and scores are gone."""
    counts = {"sums": [0, 90, 20], "confidences": [0] * 10 + [110], "digit_counts": [0, 110]}
    shifts = [{"quantity": "sums", "index": 0.1, "p_value": 0.5, "drift": False}]
    chunk = {"shard": SHARD, "first_row": 0, "num_rows": 4, "fingerprint": FINGERPRINT}
    outcome = {
        "archive": "nowhere",
        "scores": "nowhere",
        "model_digest": "digest",
        "complete": True,
        "why_incomplete": None,
        "images": 4,
        "rejected": 1,
        "seconds": 1.5,
        "images_per_s": 2.5,
        "predicted": counts,
        "reference": counts,
        "shifts": shifts,
        "rejected_shards": {},
        "chunks": [{**chunk, "reason": None, "seconds": 0.1, "rejected": 1}],
    }
    return {
        "run": "score-20260101T000000.000000Z",
        "kind": "score",
        "command": ["digitsum", "score"],
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:01:00+00:00",
        "versions": {"python": "3.11"},
        "git_commit": None,
        "config": {"chunk_images": 5, "read": {}},
        "outcome": outcome,
    }


def manifests() -> Iterator[bytes]:
    """Yield manifests of a scoring run and of a training run."""
    yield json.dumps(run_manifest()).encode()
    best = {"epoch": 1, "validation_accuracy": 0.5, "validation_images": 10}
    trained = {"best": best, "model": "nowhere", "model_digest": "digest", "learned_from": {}}
    yield json.dumps({**run_manifest(), "kind": "train", "outcome": trained}).encode()
