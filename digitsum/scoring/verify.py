"""Checking scores against their archive, by other means than the run that wrote them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from digitsum.archive.chunks import Chunk
from digitsum.archive.images import Uint8Array
from digitsum.archive.reader import Rows, read_chunk
from digitsum.archive.score_parts import SCORES_SCHEMA, known_count_digest, part_path
from digitsum.archive.shards import read_table
from digitsum.errors import InputError
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor
from digitsum.scoring.commit import list_parts
from digitsum.scoring.config import VerifyConfig
from digitsum.scoring.plan import plan_scores
from digitsum.scoring.status import failed_chunks
from digitsum.scoring.survey import survey_archive
from digitsum.storage.location import Location, locate

_MOST_FAULTS = 20
# Of probabilities: the run may have had another back-end, which adds up in another order.
_CONFIDENCE_TOLERANCE = 1e-3
_BATCH_SIZE = 64

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Verified:
    """What a check found."""

    num_chunks: int
    num_images: int
    """Images whose ids and order were compared."""
    num_rejected: int
    """Those of them that have an error in place of a sum."""
    num_recomputed: int
    """Those of them that were scored again."""
    faults: tuple[str, ...]
    """Sentences, at most 20; none where all is well."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as one object."""
        return {
            "chunks": self.num_chunks,
            "images": self.num_images,
            "rejected": self.num_rejected,
            "recomputed": self.num_recomputed,
            "faults": list(self.faults),
        }


def verify(config: VerifyConfig) -> Verified:
    """Check that every row of an archive was scored once, in order, from these bytes, by a model.

    Ids and order are compared for every chunk, sums and confidences for a sample. Holds one chunk
    at a time. Raises InputError where archive, scores or model cannot be read.
    """
    model = load_model(config.model or packaged_model())
    scores = locate(config.scores)
    digest = known_count_digest(model.digest, config.known_count)
    survey = survey_archive(config.archive, config.read, model, config.known_count, {})
    committed = {file.path: part for file, part in list_parts(scores, digest, {}).items()}
    plan = plan_scores(survey, digest, config.chunk_images, committed)
    done = [decision for decision in plan.decisions if decision.decided == "done"]
    check = _Check(
        survey.archive.root, scores, digest, config, _Recomputing(model, config.known_count)
    )
    faults = [f"{shard.path}: {shard.reason}" for shard in survey.rejected]
    faults += [f"{path}: is a part, but {why}" for path, why in plan.gone.items()]
    failed = failed_chunks(scores, digest)
    for decision in plan.decisions:
        if decision.decided != "done":
            place = f"{decision.chunk.shard}, rows from {decision.chunk.first_row} on"
            why = failed.get(decision.chunk.id, decision.reason)
            faults.append(f"{place}: no current scores: {why}")
    num_rows = sum(decision.chunk.num_rows for decision in done)
    for decision in done:
        share = -(-config.sample * decision.chunk.num_rows // num_rows)
        faults += check.faults(decision.chunk, decision.num_rejected, share)
    num_rejected = sum(decision.num_rejected for decision in done)
    return Verified(
        len(done), num_rows, num_rejected, check.num_recomputed, tuple(faults[:_MOST_FAULTS])
    )


class _Check:
    def __init__(
        self,
        archive: Location,
        scores: Location,
        model_digest: str,
        config: VerifyConfig,
        recomputing: _Recomputing,
    ) -> None:
        self._archive, self._scores = archive, scores
        self._model_digest = model_digest
        self._config = config
        self._recomputing = recomputing
        self.num_recomputed = 0

    def faults(self, chunk: Chunk, num_rejected: int, num_sampled: int) -> Iterator[str]:
        """Yield what is wrong with a chunk's part, whose metadata are right."""
        path = part_path(self._model_digest, chunk.id)
        try:
            part = read_table(self._scores.join(path).read_bytes())
            if not part.schema.equals(SCORES_SCHEMA):
                yield f"{path}: its columns are not those of scores"
                return
            if part.num_rows != chunk.num_rows:
                yield f"{path}: it has {part.num_rows} rows, and the chunk {chunk.num_rows}"
                return
            num_errors = part.num_rows - part["error"].null_count
            if num_errors != num_rejected:
                yield f"{path}: it says {num_rejected} rows are rejected, and {num_errors} are"
            yield from self._compare(chunk, part, path, num_sampled)
        except (InputError, pa.ArrowException, OSError) as error:
            yield f"{path}: cannot be checked: {error}"

    def _compare(self, chunk: Chunk, part: pa.Table, path: str, num_sampled: int) -> Iterator[str]:
        sampled = np.unique(np.linspace(0, chunk.num_rows - 1, num_sampled).astype(np.int64))
        for rows in read_chunk(self._archive, chunk, self._config.read):
            first = rows.first_row - chunk.first_row
            scores = part.slice(first, len(rows.image_ids))
            if scores["image_id"].to_pylist() != rows.image_ids.to_pylist():
                yield f"{path}: its ids from row {rows.first_row} on are not the shard's"
            errors = scores["error"].to_pylist()
            rejected = {row for row, error in enumerate(errors) if error is not None}
            if rejected != set(rows.errors):
                yield f"{path}: from row {rows.first_row} on, other rows are rejected"
            within = sampled[(sampled >= first) & (sampled < first + len(rows.image_ids))] - first
            yield from self._recompute(rows, scores, within, path)

    def _recompute(
        self, rows: Rows, scores: pa.Table, numbers: np.ndarray[Any, Any], path: str
    ) -> Iterator[str]:
        numbers = np.array([n for n in numbers if n not in rows.errors], np.int64)
        if not len(numbers):
            return
        self.num_recomputed += len(numbers)
        probs = self._recomputing.sum_probs(rows.pixels[numbers])
        said = scores.take(numbers)
        sums = said["predicted_sum"].to_pylist()
        confidences = said["confidence"].to_numpy().astype(np.float64)
        for number, either, said_sum, confidence in zip(
            numbers, probs, sums, confidences, strict=True
        ):
            if not any(_is_said(of_sums, said_sum, confidence) for of_sums in either):
                row, now = rows.first_row + int(number), int(either[0].argmax())
                yield f"{path}: row {row} has the sum {said_sum}; scored again, it has {now}"


class _Recomputing:
    """Scores images again, and says what a run may have said of them."""

    def __init__(self, model: SavedModel, num_digits: int | None) -> None:
        self._cascade_below = model.cascade_below
        self._once, self._twice = (
            TorchPredictor(
                replace(model, cascade_below=below),
                batch_size=_BATCH_SIZE,
                num_digits=num_digits,
            )
            for below in (0.0, math.inf)  # never, always
        )

    def sum_probs(self, pixels: Uint8Array) -> list[list[FloatArray]]:
        """Return, of each image, the probabilities of its sums, float32 (sums,).

        Both after one look and after two, where rounding may have decided how many there were.
        """
        once = self._once.sum_probs(pixels)
        confidences = once.max(axis=1)
        found = [[of_sums] for of_sums in once]
        if not self._cascade_below:
            return found
        unsure = np.flatnonzero(confidences < self._cascade_below + _CONFIDENCE_TOLERANCE)
        for number, of_sums in zip(unsure, self._twice.sum_probs(pixels[unsure]), strict=True):
            is_surely = confidences[number] < self._cascade_below - _CONFIDENCE_TOLERANCE
            found[number] = [of_sums] if is_surely else [of_sums, *found[number]]
        return found


def _is_said(of_sums: FloatArray, said_sum: int | None, confidence: float) -> bool:
    """Tell whether scores say of a sum what is computed; of sums as probable, rounding chooses."""
    is_sum = said_sum is not None and 0 <= said_sum < len(of_sums)
    prob = float(of_sums[said_sum]) if is_sum else -1.0
    # A confidence that is no number is near to nothing.
    is_near = abs(prob - confidence) <= _CONFIDENCE_TOLERANCE
    return bool(is_near and prob >= of_sums.max() - _CONFIDENCE_TOLERANCE)
