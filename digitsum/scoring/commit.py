"""Committing scores: what makes a chunk done, and what a reader sees meanwhile.

A chunk is done when its part lies under its final name with metadata that names its source: model,
shard, fingerprint, row range. The name follows from the chunk, so that a chunk that is scored twice
(an actor that was lost after it committed, a run that was killed) ends in the same one file.

1. The part is written under a hidden name, then renamed (on object stores: put). Killed before:
   the chunk is not done, and a hidden file is left that no reader of scores looks at. Killed
   after: it is done. In between there is nothing.
2. When all chunks are done, and their parts were seen, parts of rows that the archive no longer has
   are removed. Until then a reader finds them beside the new ones, where a shard's row count or
   the chunks' size changed. Killed before or among these: the next run finds and removes them.
3. `CURRENT` is replaced, in one step, to name the model's directory. Killed before: readers that
   follow it see the last complete run's model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import fs as pafs

from digitsum.archive.location import Location
from digitsum.archive.publish import publish_bytes
from digitsum.archive.reading import Rows
from digitsum.archive.scores import (
    CURRENT_FILE,
    SCORES_SCHEMA,
    PartSource,
    model_directory,
    part_path,
    read_part_source,
    write_part,
)
from digitsum.archive.shards import FOOTER_THREADS, SHARD_SUFFIX, is_hidden
from digitsum.errors import InputError
from digitsum.model.predictor import Predictions, Readings
from digitsum.model.reading import NOTHING


def committed_parts(scores: Location, model_digest: str) -> dict[str, PartSource | None]:
    """Return every part of a model below the scores, and what it says it was scored from."""
    selector = pafs.FileSelector(
        scores.join(model_directory(model_digest)).path, recursive=True, allow_not_found=True
    )
    prefix = scores.path.rstrip("/") + "/"
    paths = [
        entry.path.removeprefix(prefix)
        for entry in scores.filesystem.get_file_info(selector)
        if entry.type == pafs.FileType.File and entry.path.endswith(SHARD_SUFFIX)
    ]
    paths = [path for path in paths if not is_hidden(path)]
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        sources = threads.map(lambda path: read_part_source(scores.join(path)), paths)
        return dict(zip(paths, sources, strict=True))


def scored_rows(rows: Rows, predictions: Predictions) -> pa.Table:
    """Return the scores of consecutive rows; a rejected row has its reason and no sum."""
    rejected = np.zeros(len(rows.image_ids), bool)
    rejected[list(rows.errors)] = True
    errors = [rows.errors.get(row) for row in range(len(rejected))] if rows.errors else None
    return pa.table(
        {
            "image_id": rows.image_ids,
            "predicted_sum": pa.array(predictions.sums, pa.int16(), mask=rejected),
            "confidence": pa.array(predictions.confidences, pa.float32(), mask=rejected),
            **_reading_columns(predictions.readings, rejected),
            "error": pa.array(errors, pa.string())
            if errors
            else pa.nulls(len(rejected), pa.string()),
        },
        schema=SCORES_SCHEMA,
    )


def _reading_columns(
    readings: Readings | None, rejected: npt.NDArray[np.bool_]
) -> dict[str, pa.Array]:
    if readings is None:
        names = ("digits", "digit_x", "count_probabilities")
        return {name: pa.nulls(len(rejected), SCORES_SCHEMA.field(name).type) for name in names}
    is_read = (readings.digits != NOTHING) & ~rejected[:, None]
    counted = np.broadcast_to(~rejected[:, None], readings.count_probs.shape)
    return {
        "digits": _lists(readings.digits, is_read, rejected),
        "digit_x": _lists(readings.digit_x, is_read, rejected),
        "count_probabilities": _lists(readings.count_probs, counted, rejected),
    }


def _lists(
    values: npt.NDArray[Any], kept: npt.NDArray[np.bool_], null: npt.NDArray[np.bool_]
) -> pa.ListArray:
    """Return the kept values of each row as a list, null where `null` says so."""
    ends = np.cumsum(kept.sum(axis=1), dtype=np.int32)
    offsets = np.concatenate([np.zeros(1, np.int32), ends])
    return pa.ListArray.from_arrays(offsets, pa.array(values[kept]), mask=pa.array(null))


def commit_part(scores: Location, tables: Iterable[pa.Table], source: PartSource) -> int:
    """Make the part of a chunk appear from its scores; return how many of its rows are rejected.

    Raises InputError, and commits nothing, where there are not as many scores as the chunk has
    rows: its shard was changed after the footer was read.
    """
    table = pa.concat_tables([SCORES_SCHEMA.empty_table(), *tables])
    write_part(scores.join(part_path(source)), table, source)
    return int(table.num_rows - table.column("error").null_count)


def check_committed(scores: Location, sources: Sequence[PartSource]) -> None:
    """Raise InputError where a part that actors committed is not what lies there, seen from here.

    So it is where the scores are a local directory of each node, or when another run interfered.
    """
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        there = threads.map(
            lambda source: read_part_source(scores.join(part_path(source))), sources
        )
    missing = [source for source, found in zip(sources, there, strict=True) if found != source]
    if missing:
        raise InputError(
            f"{scores.uri}: {len(missing)} of {len(sources)} parts were committed but are not "
            f"there, the first of {missing[0].shard}; give --scores a place that all nodes share, "
            "and no two runs at a time."
        )


def complete(scores: Location, model_digest: str, gone: Iterable[str]) -> None:
    """End a run all of whose chunks are done: remove what is gone, point CURRENT at the model."""
    for path in gone:
        scores.filesystem.delete_file(scores.join(path).path)
    publish_bytes(f"{model_directory(model_digest)}\n".encode(), scores.join(CURRENT_FILE))
