"""The record of an evaluation on disk: `evaluation.json` and `examples.parquet`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.archive.parquet.files import read_table
from digitsum.evaluation.examples import Example, Examples
from digitsum.evaluation.metrics import Evaluation, MetricCounts, SumMetrics
from digitsum.manifest import Origin, parse_json, to_python
from digitsum.model.outputs import Explanation
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

EVALUATION_FILE = "evaluation.json"
EXAMPLES_FILE = "examples.parquet"
_NUM_OUTPUTS = 11  # of a column: blank, then the digits 0..9
_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image", pa.binary()),  # uint8, row-major
        ("true_sum", pa.int64()),
        ("predicted_sum", pa.int64()),
        ("confidence", pa.float64()),
        (
            "digits",
            pa.list_(pa.int64()),
        ),  # null, as the next two are, if nothing explains the image
        ("digit_x", pa.list_(pa.int64())),
        ("column_probs", pa.list_(pa.float32())),  # (columns, 11), row-major
    ]
)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """What a report needs of `evaluation.json`, which holds the figures too."""

    archive: str
    model: str
    model_digest: str
    known_count: int | None
    num_shards: int
    unread_shards: dict[str, str]
    unread_chunks: dict[str, str]
    origin: Origin
    counts: MetricCounts
    version: Literal[1] = 1


def write_evaluation(evaluation: Evaluation, directory: Location) -> None:
    """Write `evaluation.json` and `examples.parquet`: all that the report shows."""
    write_examples(evaluation.examples, directory)
    record = EvaluationRecord(
        archive=evaluation.archive_uri,
        model=evaluation.model_uri,
        model_digest=evaluation.model_digest,
        known_count=evaluation.known_count,
        num_shards=evaluation.num_shards,
        unread_shards=dict(evaluation.unread_shards),
        unread_chunks=dict(evaluation.unread_chunks),
        origin=evaluation.origin,
        counts=evaluation.metrics.counts,
    )
    content = json.dumps(evaluation.to_json() | to_python(record)).encode() + b"\n"
    publish_bytes(content, directory.join(EVALUATION_FILE))


def read_evaluation(directory: Location) -> Evaluation:
    """Return what `write_evaluation` wrote.

    Raises InputError if it is not what this digitsum reads, and IndexError or ValueError if counts
    were changed.
    """
    file = directory.join(EVALUATION_FILE)
    record = parse_json(EvaluationRecord, file.read_bytes(), file.uri)
    return Evaluation(
        record.archive,
        record.model,
        record.model_digest,
        record.known_count,
        SumMetrics.from_counts(record.counts),
        read_examples(directory),
        record.num_shards,
        record.unread_shards,
        record.unread_chunks,
        record.origin,
    )


def write_examples(examples: Examples, directory: Location) -> None:
    """Write `examples.parquet` into a directory."""
    rows = [_to_row(example) for example in (*examples.hits, *examples.misses)]
    content = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), content, compression="zstd")
    publish_bytes(content.getvalue().to_pybytes(), directory.join(EXAMPLES_FILE))


def read_examples(directory: Location) -> Examples:
    """Return what `write_examples` wrote; raises ValueError, or what pyarrow does, if it is not."""
    table = read_table(directory.join(EXAMPLES_FILE).read_bytes()).cast(_SCHEMA)
    examples = [_from_row(row) for row in table.to_pylist()]
    return Examples(
        tuple(example for example in examples if example.is_hit),
        tuple(example for example in examples if not example.is_hit),
    )


def _to_row(example: Example) -> dict[str, Any]:
    explanation = example.explanation
    height, width = example.pixels.shape
    return {
        "image_id": example.image_id,
        "height": height,
        "width": width,
        "image": example.pixels.tobytes(),
        "true_sum": example.true_sum,
        "predicted_sum": example.predicted_sum,
        "confidence": example.confidence,
        "digits": explanation and list(explanation.digits),
        "digit_x": explanation and list(explanation.digit_x),
        "column_probs": explanation and explanation.column_probs.ravel().tolist(),
    }


def _from_row(row: dict[str, Any]) -> Example:
    pixels = np.frombuffer(row["image"], np.uint8).reshape(row["height"], row["width"])
    explanation = row["column_probs"] and Explanation(
        np.array(row["column_probs"], np.float32).reshape(-1, _NUM_OUTPUTS),
        tuple(row["digits"]),
        tuple(row["digit_x"]),
    )
    given = (row[name] for name in ("image_id", "true_sum", "predicted_sum", "confidence"))
    image_id, true_sum, predicted_sum, confidence = given
    return Example(image_id, pixels, true_sum, predicted_sum, confidence, explanation)
