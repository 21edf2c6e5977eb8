"""Committing scores: what makes a chunk done, and what a reader sees meanwhile.

A chunk is done when its part lies under its final name with metadata that name its source: model,
shard, fingerprint, row range. The name follows from the chunk, so that a chunk that is scored twice
(an actor that was lost after it committed, a run that was killed, two runs at once) ends in the
same one file, of the same content. What a reader sees, and what the next run does, if a run dies

1. before a part is renamed (on object stores: put): nothing of the chunk, or its part of before.
   The chunk is not done, and is scored again. On a local file system a hidden file is left beside
   it, which no reader looks at and the next run removes (`remove_leftovers`); where only an actor
   died, the run itself does (`remove_leftovers_beside`).
2. after a part is renamed: the whole part. The chunk is done; its rows were counted before. If the
   machine loses power before the directory is synced, it is as in 1.
3. when all parts are there, before or among the removals of parts of rows that the archive no
   longer has: the new parts beside some of the old. The next run finds the rest and removes it.
   They are removed last, so that no reader misses rows that are still in the archive; and only if
   the shard, looked at again, is still gone or as it was when it was planned, so that a run never
   removes what a later one has scored. So are the parts, of bytes that are no more, of chunks that
   could not be read: a reader must not find them among the new ones of their shard.
4. before `CURRENT` is replaced, in one step: readers that follow it see the last complete run's
   model. The next run has nothing to score and replaces it.
5. after that: a complete run without a manifest. Its parts say themselves what they are; the next
   run has nothing to score.

That a run is complete is not what it remembers but what lies there: the parts are listed once more,
and the plan made of them must have nothing left to do but what was rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from digitsum.archive.reader import Rows
from digitsum.archive.score_parts import (
    CURRENT_FILE,
    MODEL_KEY,
    PART_PREFIX,
    SCORES_SCHEMA,
    Part,
    PartSource,
    model_directory,
    part_path,
    read_part,
    write_part,
)
from digitsum.archive.shards import FOOTER_THREADS, ListedFile, list_parquet
from digitsum.fault_injection import fault_point
from digitsum.manifest import RUNS_DIRECTORY
from digitsum.model.decoding import NOTHING
from digitsum.model.outputs import Predictions, Readings
from digitsum.storage.atomic_write import TEMPORARY_PREFIX, publish_bytes
from digitsum.storage.location import Location, storage_error
from digitsum.storage.retries import retried


@dataclass(frozen=True)
class CommittedParts:
    """The parts of a model, as they were listed."""

    listed: Mapping[ListedFile, Part | None]
    """What each says of itself; None where it cannot be read."""

    @property
    def by_path(self) -> dict[str, Part | None]:
        """Parts by their path below the scores."""
        return {file.path: part for file, part in self.listed.items()}

    @property
    def whole(self) -> list[tuple[ListedFile, Part]]:
        """Those that can be read."""
        return [(file, part) for file, part in self.listed.items() if part is not None]


def committed_parts(
    scores: Location, model_digest: str, known: Mapping[ListedFile, Part]
) -> CommittedParts:
    """Return every part of a model below the scores.

    `known` holds parts that were read before; those that are listed just as they were are not read
    again.
    """
    listed = retried(lambda: list_parquet(scores, model_directory(model_digest)))
    # Whatever else somebody keeps there is not ours to judge, or to remove.
    files = [file for file in listed if PurePosixPath(file.path).name.startswith(PART_PREFIX)]
    unknown = [file for file in files if file not in known]
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        parts = threads.map(
            lambda file: retried(lambda: read_part(scores.join(file.path))), unknown
        )
        read = dict(zip(unknown, parts, strict=True))
    return CommittedParts({f: known[f] if f in known else read[f] for f in files})


def parts_of_other_models(scores: Location, model_digest: str) -> set[str]:
    """Return the paths, below their model's directory, of the parts of other models."""
    own = model_directory(model_digest)
    return {
        file.path.partition("/")[2]
        for name in retried(scores.directories)
        if name.startswith(f"{MODEL_KEY}=") and name != own
        for file in retried(partial(list_parquet, scores, name))
    }


def remove_leftovers(scores: Location, model_digest: str) -> None:
    """Remove what killed runs left half written; no other run may be writing (`hold.held`)."""
    if scores.is_local:
        for directory in (model_directory(model_digest), RUNS_DIRECTORY):
            for path in Path(scores.join(directory).path).rglob(f"{TEMPORARY_PREFIX}*"):
                _unlink(path)
        for path in Path(scores.path).glob(f"{TEMPORARY_PREFIX}*"):
            _unlink(path)


def remove_leftovers_beside(scores: Location, parts: Iterable[str], run: Location) -> None:
    """Remove what actors that were lost in this run left half written, beside the parts it scored.

    One that is lost only to the driver, and still writes, fails when it renames what it wrote.
    """
    if scores.is_local:
        for directory in {part.rpartition("/")[0] for part in parts}:
            for path in Path(scores.join(directory).path).glob(f"{TEMPORARY_PREFIX}*"):
                _unlink(path)
        for path in Path(run.path).rglob(f"{TEMPORARY_PREFIX}*"):
            _unlink(path)


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


def commit_part(scores: Location, tables: Iterable[pa.Table], source: PartSource) -> Part:
    """Make the part of a chunk appear from its scores; return what it says of itself.

    Raises InputError, and commits nothing, where there are not as many scores as the chunk has
    rows, for its shard was changed after the footer was read; and where a link leads elsewhere.
    """
    table = pa.concat_tables([SCORES_SCHEMA.empty_table(), *tables])
    scores.check_below(part_path(source))
    return write_part(scores.join(part_path(source)), table, source)


def remove_parts(scores: Location, paths: Iterable[str]) -> None:
    """Remove parts whose rows the archive has no longer.

    With the last part of a shard its directory goes, else an archive that keeps a month of shards
    would leave one more of them every night.
    """
    fault_point("scored")
    for path in paths:
        # Another run may have removed it, where no lock keeps runs apart.
        with suppress(FileNotFoundError):
            retried(partial(_delete, scores.join(path)))
        fault_point("removed")
        if scores.is_local:
            _remove_empty(Path(scores.join(path).path).parent, Path(scores.path))


def complete(scores: Location, model_digest: str) -> None:
    """End a run all of whose chunks are done: point CURRENT at the model."""
    pointer = f"{model_directory(model_digest)}\n".encode()
    retried(lambda: publish_bytes(pointer, scores.join(CURRENT_FILE)))
    fault_point("pointed")


def _delete(place: Location) -> None:
    try:
        place.filesystem.delete_file(place.path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error(f"{place.uri}: cannot be removed", error) from error


def _remove_empty(directory: Path, scores: Path) -> None:
    """Remove a directory that holds nothing, and those above it below the model's; else none."""
    with suppress(OSError):
        while len(directory.relative_to(scores).parts) > 1:
            directory.rmdir()
            directory = directory.parent


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(f"{path}: cannot be removed", error) from error
