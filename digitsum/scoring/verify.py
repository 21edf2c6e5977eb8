"""A check of scores against their archive, independent of the run that wrote them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from digitsum.archive.chunks import Chunk
from digitsum.archive.images import Uint8Array
from digitsum.archive.parquet.files import read_table
from digitsum.archive.reader import Rows, read_chunk
from digitsum.archive.score_parts import SCORES_SCHEMA, known_count_digest, part_path
from digitsum.errors import InputError
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor
from digitsum.scoring.commit import list_parts
from digitsum.scoring.config import VerifyConfig
from digitsum.scoring.plan import plan_scores
from digitsum.scoring.score_run import survey_archive
from digitsum.scoring.status import failed_chunks
from digitsum.storage.location import Location, locate

REMEDY = "remove the parts (model=*/rows-*.parquet) that are named, and run `digitsum score` again"
_MAX_FAULTS = 20
# Of probabilities: the run may have had another back-end, which adds up in another order.
_CONFIDENCE_TOLERANCE = 1e-3
_BATCH_SIZE = 64

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Verification:
    """The result of a check."""

    num_chunks: int
    num_images: int
    """Images whose ids and order were compared."""
    num_rejected: int
    """Those of them that have an error in place of a sum."""
    num_recomputed: int
    """Those of them that were scored again."""
    faults: tuple[str, ...]
    """Sentences, at most 20; none if the scores are right. REMEDY says what to do."""

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the faults."""
        return {name.removeprefix("num_"): value for name, value in asdict(self).items()}


def verify(config: VerifyConfig) -> Verification:
    """Check that every row of an archive was scored once, in order, from these bytes, by a model.

    Compares ids and order for every chunk, sums and confidences for a sample. Holds one chunk at a
    time. Raises InputError if the archive, the scores or the model cannot be read.
    """
    model = load_model(config.model or packaged_model())
    scores = locate(config.scores)
    digest = known_count_digest(model.digest, config.known_count)
    survey = survey_archive(config.archive, config.read, model, config.known_count, {})
    committed = {file.path: part for file, part in list_parts(scores, digest, {}).items()}
    plan = plan_scores(survey, digest, config.chunk_images, committed)
    faults = [f"{path}: {reason}" for path, reason in survey.rejected.items()]
    faults += [f"{path}: is a part, but {why}" for path, why in plan.gone.items()]
    failed = failed_chunks(scores, digest)
    for decision in plan.decisions:
        if decision.decided != "done":
            place = f"{decision.chunk.shard}, rows from {decision.chunk.first_row} on"
            why = failed.get(decision.chunk.id, decision.reason)
            faults.append(f"{place}: no current scores: {why}")
    done = [decision for decision in plan.decisions if decision.decided == "done"]
    num_rows = sum(decision.chunk.num_rows for decision in done)
    checker = _PartChecker(config, model, survey.archive.root, scores)
    for decision in done:
        num_sampled = -(-config.sample * decision.chunk.num_rows // num_rows)
        path = part_path(digest, decision.chunk.id)
        faults += checker.faults(path, decision.chunk, decision.num_rejected, num_sampled)
    num_rejected = sum(decision.num_rejected for decision in done)
    return Verification(
        len(done), num_rows, num_rejected, checker.num_recomputed, tuple(faults[:_MAX_FAULTS])
    )


class _PartChecker:
    """Compares parts with the images of their chunks."""

    def __init__(
        self, config: VerifyConfig, model: SavedModel, archive: Location, scores: Location
    ) -> None:
        self._archive, self._scores, self._read = archive, scores, config.read
        self._cascade_below = model.cascade_below
        # One that never takes the slower pass, and one that always does.
        make = partial(TorchPredictor, batch_size=_BATCH_SIZE, known_count=config.known_count)
        self._fast, self._slow = (
            make(replace(model, cascade_below=below)) for below in (0.0, math.inf)
        )
        self.num_recomputed = 0

    def faults(self, path: str, chunk: Chunk, num_rejected: int, num_sampled: int) -> Iterator[str]:
        """Yield what is wrong with a chunk's part, whose metadata are right."""
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
            sampled = np.linspace(0, chunk.num_rows - 1, num_sampled).astype(np.int64)
            for rows in read_chunk(self._archive, chunk, self._read):
                first = rows.first_row - chunk.first_row
                scores = part.slice(first, len(rows.image_ids))
                in_rows = (sampled >= first) & (sampled < first + len(rows.image_ids))
                for fault in self._compare(rows, scores, np.unique(sampled[in_rows] - first)):
                    yield f"{path}: {fault}"
        except (InputError, pa.ArrowException, OSError) as error:
            yield f"{path}: cannot be checked: {error}"

    def _compare(
        self, rows: Rows, scores: pa.Table, sampled: npt.NDArray[np.int64]
    ) -> Iterator[str]:
        """Compare consecutive rows with their scores, those sampled also by scoring them again."""
        if scores["image_id"].to_pylist() != rows.image_ids.to_pylist():
            yield f"its ids from row {rows.first_row} on are not the shard's"
        errors = scores["error"].to_pylist()
        if {row for row, error in enumerate(errors) if error is not None} != set(rows.errors):
            yield f"from row {rows.first_row} on, other rows are rejected"
        sampled = sampled[~np.isin(sampled, list(rows.errors))]
        if not len(sampled):
            return
        self.num_recomputed += len(sampled)
        recomputed = self._sum_probs(rows.pixels[sampled])
        for row, all_probs in zip(sampled.tolist(), recomputed, strict=True):
            recorded = scores["predicted_sum"][row].as_py()
            confidence = scores["confidence"][row].as_py()
            if not any(_is_close(probs, recorded, confidence) for probs in all_probs):
                yield (
                    f"row {rows.first_row + row} has the sum {recorded}; scored again, it has "
                    f"{int(all_probs[0].argmax())}"
                )

    def _sum_probs(self, pixels: Uint8Array) -> list[list[FloatArray]]:
        """Return the probabilities of each image's sums, float32 (sums,), by each possible pass."""
        fast = self._fast.sum_probs(pixels)
        results = [[probs] for probs in fast]
        if self._cascade_below:
            confidences = fast.max(axis=1)
            unsure = np.flatnonzero(confidences < self._cascade_below + _CONFIDENCE_TOLERANCE)
            for i, probs in zip(unsure, self._slow.sum_probs(pixels[unsure]), strict=True):
                is_certain = confidences[i] < self._cascade_below - _CONFIDENCE_TOLERANCE
                results[i] = [probs] if is_certain else [probs, *results[i]]
        return results


def _is_close(probs: FloatArray, recorded: int | None, confidence: float | None) -> bool:
    """Return whether a recorded sum and confidence may come from these probabilities, rounded."""
    if recorded is None or confidence is None or not 0 <= recorded < len(probs):
        return False
    prob = float(probs[recorded])
    is_near = abs(prob - confidence) <= _CONFIDENCE_TOLERANCE  # never true of NaN
    return bool(is_near and prob >= probs.max() - _CONFIDENCE_TOLERANCE)
