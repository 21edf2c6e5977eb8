"""Example images of an evaluation: hits and confident misses, with what the network saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.archive.images import Uint8Array
from digitsum.archive.parquet.files import read_table
from digitsum.archive.reader import Rows
from digitsum.model.outputs import Explanation, Predictions
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

EXAMPLES_FILE = "examples.parquet"
NUM_EXAMPLES = 8
_EXPLANATION = pa.struct(
    {
        "column_probs": pa.list_(pa.list_(pa.float32())),
        "digits": pa.list_(pa.int64()),
        "digit_x": pa.list_(pa.int64()),
    }
)
_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "pixels": pa.list_(pa.list_(pa.uint8())),
        "true_sum": pa.int64(),
        "predicted_sum": pa.int64(),
        "confidence": pa.float64(),
        "explanation": _EXPLANATION,
    }
)


@dataclass(frozen=True)
class Example:
    """A labelled image, what was predicted of it, and why."""

    image_id: str
    pixels: Uint8Array
    """uint8 (height, width)."""
    true_sum: int
    predicted_sum: int
    confidence: float
    """0..1."""
    explanation: Explanation | None = None
    """The columns that the network saw; None if it reads no digits, or while images are counted."""

    @property
    def is_hit(self) -> bool:
        """True if the predicted sum is right."""
        return self.true_sum == self.predicted_sum


@dataclass(frozen=True)
class Examples:
    """The examples of some images; those of two parts of an archive add up."""

    hits: tuple[Example, ...] = ()
    """The images of the lowest ids whose sum is right, at most NUM_EXAMPLES."""
    misses: tuple[Example, ...] = ()
    """The most confident images whose sum is wrong, at most NUM_EXAMPLES."""

    @staticmethod
    def of(rows: Rows, predictions: Predictions) -> Examples:
        """Return the examples of consecutive labelled rows; rejected rows are none."""
        assert rows.digit_sums is not None  # evaluation asks for labels
        is_right = predictions.sums == rows.digit_sums
        is_scored = np.ones(len(is_right), bool)
        is_scored[list(rows.errors)] = False
        wrong = np.flatnonzero(~is_right & is_scored)
        most_confident = wrong[np.argsort(-predictions.confidences[wrong], kind="stable")]
        return Examples(
            tuple(_examples(rows, predictions, np.flatnonzero(is_right & is_scored))),
            tuple(_examples(rows, predictions, most_confident)),
        )

    def __add__(self, other: Examples) -> Examples:
        """Return the examples of both, in whichever order they come: ties go to the lowest ids."""
        hits = sorted(self.hits + other.hits, key=lambda hit: hit.image_id)
        misses = sorted(
            self.misses + other.misses, key=lambda miss: (-miss.confidence, miss.image_id)
        )
        return Examples(tuple(hits[:NUM_EXAMPLES]), tuple(misses[:NUM_EXAMPLES]))

    def explained(self, explain: Callable[[Uint8Array], Explanation | None]) -> Examples:
        """Return the examples with what `explain` returns for the pixels of each."""
        hits, misses = (
            tuple(replace(one, explanation=explain(one.pixels)) for one in examples)
            for examples in (self.hits, self.misses)
        )
        return Examples(hits, misses)


def write_examples(examples: Examples, directory: Location) -> None:
    """Write `examples.parquet` into a directory."""
    rows = [_to_row(example) for example in (*examples.hits, *examples.misses)]
    content = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), content, compression="zstd")
    publish_bytes(content.getvalue().to_pybytes(), directory.join(EXAMPLES_FILE))


def read_examples(directory: Location) -> Examples:
    """Return what `write_examples` wrote; raises TypeError, ValueError, or as pyarrow does."""
    table = read_table(directory.join(EXAMPLES_FILE).read_bytes()).cast(_SCHEMA)
    examples = [_from_row(row) for row in table.to_pylist()]
    return Examples(
        tuple(example for example in examples if example.is_hit),
        tuple(example for example in examples if not example.is_hit),
    )


def _to_row(example: Example) -> dict[str, Any]:
    row = vars(example) | {"pixels": list(example.pixels)}
    if example.explanation is not None:
        column_probs = list(example.explanation.column_probs)
        row["explanation"] = vars(example.explanation) | {"column_probs": column_probs}
    return row


def _from_row(row: dict[str, Any]) -> Example:
    explanation = row["explanation"]
    if explanation is not None:
        column_probs = np.array(explanation["column_probs"], np.float32)
        digits, digit_x = tuple(explanation["digits"]), tuple(explanation["digit_x"])
        explanation = Explanation(column_probs, digits, digit_x)
    pixels = np.array(row["pixels"], np.uint8)
    return Example(**row | {"pixels": pixels, "explanation": explanation})


def _examples(
    rows: Rows, predictions: Predictions, indices: npt.NDArray[np.int64]
) -> Iterator[Example]:
    assert rows.digit_sums is not None
    for i in indices[:NUM_EXAMPLES].tolist():
        yield Example(
            rows.image_ids[i].as_py(),
            rows.pixels[i].copy(),  # so that the rows can be freed
            int(rows.digit_sums[i]),
            int(predictions.sums[i]),
            float(predictions.confidences[i]),
        )
