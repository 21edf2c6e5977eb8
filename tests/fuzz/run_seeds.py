"""Seeds of parts, footer caches, rejects and manifests."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
from seeds import SHAPE, SHARD, parquet_of

from digitsum.archive.chunks import ChunkId
from digitsum.archive.score_parts import _PART_KEY, SCORES_SCHEMA, Part
from digitsum.archive.shards import Fingerprint
from digitsum.manifest import Manifest, Origin, to_json, to_python
from digitsum.model.outputs import PredictionStats
from digitsum.scoring.footer_cache import _PARTS, _SHARDS
from digitsum.scoring.plan import PlannedChunks, PlannedParts, PlannedShards, PlanSummary
from digitsum.scoring.rejects import REJECTS_SCHEMA
from digitsum.scoring.results import ChunkResult, ScoreOutcome, Totals
from digitsum.training.config import TrainConfig
from digitsum.training.metrics import Epoch, TrainOutcome

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


def run_manifest() -> Manifest:
    """Return the manifest of a run whose archive and scores are gone."""
    predicted = PredictionStats((0, 90, 20), (0,) * 10 + (110,), (0, 110))
    nothing = PlannedChunks()
    plan = PlanSummary(
        model_digest="digest",
        new=PlannedChunks(1, 4),
        changed=nothing,
        done=nothing,
        gone=PlannedParts(0, {}),
        rejected=PlannedShards(0, {}),
    )
    outcome = ScoreOutcome(
        scores="nowhere",
        archive="nowhere",
        model_digest="digest",
        complete=True,
        why_incomplete=None,
        images=4,
        rejected=1,
        elapsed_s=1.5,
        images_per_s=2.5,
        bottleneck="none",
        plan=plan,
        totals=Totals(images=4, scored=3, rejected=1, shards=1, rejected_shards=0),
        predicted=predicted,
        reference=predicted,
        shifts=(),
        rejected_shards={},
        chunks=(ChunkResult(CHUNK, 1, read_s=0.1),),
    )
    return Manifest(
        run="score-20260101T000000.000000Z",
        kind="score",
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:01:00+00:00",
        origin=Origin(command=["digitsum", "score"], versions={"python": "3.11"}),
        config={"chunk_images": 5, "read": {}},
        outcome=to_python(outcome),
    )


def manifests() -> Iterator[bytes]:
    """Yield manifests of a scoring run and of a training run."""
    yield to_json(run_manifest())
    best = Epoch(1, 2.5, 0.1, 2.25, 0.5, 40, 10, 1.5, 30.0, 0.25)
    trained = TrainOutcome(model="nowhere", model_digest="digest", epochs=1, best=best)
    config = to_python(TrainConfig(out="nowhere"))
    yield to_json(replace(run_manifest(), kind="train", config=config, outcome=to_python(trained)))
