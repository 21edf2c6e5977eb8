"""A comparison of two models by their scores of the same images: `digitsum compare`."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from digitsum.archive.chunks import Chunk, ChunkId, plan_chunks
from digitsum.archive.images import Uint8Array
from digitsum.archive.parquet.files import DAMAGED, read_table
from digitsum.archive.reader import read_chunk, read_labels
from digitsum.archive.score_parts import MODEL_KEY, SCORES_SCHEMA
from digitsum.archive.shards import archive_root, read_shard
from digitsum.errors import InputError, one_line
from digitsum.scoring.commit import list_parts
from digitsum.scoring.config import CompareConfig
from digitsum.storage.listing import ListedFile, list_file
from digitsum.storage.location import Location, locate

NUM_DISAGREEMENTS = 24
_COLUMNS = ("image_id", "predicted_sum", "confidence", "digits", "error")


@dataclass(frozen=True)
class Disagreement:
    """An image for which two models predict different sums."""

    chunk: ChunkId
    row: int
    """Row of the chunk."""
    scores: tuple[Mapping[str, Any], Mapping[str, Any]]
    """Each model's image_id, predicted_sum, confidence and digits."""
    true_sum: int | None
    """None if the archive does not say."""
    pixels: Uint8Array | None = None
    """uint8 (height, width); None while differences are still counted."""

    @property
    def confidence(self) -> float:
        """The confidence of the model that is less confident."""
        return min(float(score["confidence"] or 0) for score in self.scores)


@dataclass
class Comparison:
    """A comparison of the scores of two models; of two numbers, one belongs to each model."""

    models: tuple[str, str]
    """Their directories below the scores."""
    num_images: int = 0
    """Images that both scored."""
    num_same: int = 0
    """Those of them with the same sum."""
    num_within_1: int = 0
    """Those of them whose sums differ by at most 1."""
    num_rejected: int = 0
    """Images that either rejected, of the chunks that both scored."""
    num_more_confident: list[int] = field(default_factory=lambda: [0, 0])
    """Images with different sums of which a model is the more confident."""
    confidence_sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    num_labelled: int = 0
    """Images that both scored and whose true sum the archive holds."""
    num_right: list[int] = field(default_factory=lambda: [0, 0])
    """Labelled images whose sum a model has right."""
    num_unmatched_parts: list[int] = field(default_factory=lambda: [0, 0])
    """Parts of which the other model has none of the same bytes: they are not compared."""
    examples: list[Disagreement] = field(default_factory=list)
    """The disagreements whose less confident model is the most confident."""
    why_not_shown: str | None = None
    """The reason if some examples or labels are missing."""

    @property
    def agreement(self) -> float:
        """Fraction, 0..1, of the images with the same sum."""
        return self.num_same / self.num_images

    @property
    def mean_confidence(self) -> list[float]:
        """Each model's mean confidence, 0..1, in the images that both scored."""
        return [confidence_sum / self.num_images for confidence_sum in self.confidence_sums]

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        figures = {
            name.removeprefix("num_"): value
            for name, value in vars(self).items()
            if name not in ("confidence_sums", "examples", "why_not_shown")
        }
        return figures | {"agreement": self.agreement, "mean_confidence": self.mean_confidence}


def compare(config: CompareConfig) -> Comparison:
    """Compare the scores of two models of one archive, part by part.

    Holds one part of each at a time. Raises InputError if there are not two models, or if they
    have no image in common.
    """
    scores = locate(config.scores)
    comparison = Comparison(_choose_models(scores, config.models))
    differences = _find_differences(comparison, scores, config)
    most_confident = heapq.nlargest(NUM_DISAGREEMENTS, differences, key=attrgetter("confidence"))
    if not comparison.num_images:
        raise InputError(
            f"{scores.uri}: {' and '.join(comparison.models)} have scored no image in common; "
            "score one archive by both."
        )
    for example in most_confident:
        try:
            pixels = _read_pixels(example, config)
            comparison.examples.append(replace(example, pixels=pixels))
        except InputError as error:
            comparison.why_not_shown = str(error)
    return comparison


def _choose_models(scores: Location, asked: tuple[str, str] | None) -> tuple[str, str]:
    """Return the two model=... directories that are asked for, or the only two."""
    models = [name for name in scores.directories() if name.startswith(f"{MODEL_KEY}=")]
    names = ", ".join(models) or "none"
    if asked is None:
        if len(models) == 2:
            return models[0], models[1]
        remedy = (
            "name two with --models"
            if len(models) > 2
            else "score the archive by another model too, with --model and the same --scores"
        )
        raise InputError(f"{scores.uri}: holds scores of {len(models)} models, {names}; {remedy}.")
    chosen = []
    for text in asked:
        prefix = f"{MODEL_KEY}={text.removeprefix(f'{MODEL_KEY}=')}"
        matches = [prefix] if prefix in models else [m for m in models if m.startswith(prefix)]
        if len(matches) != 1:
            raise InputError(
                f"--models {text}: matches {len(matches)} of {names} below {scores.uri}; give a "
                "whole name, or its beginning."
            )
        chosen += matches
    if chosen[0] == chosen[1]:
        raise InputError(f"--models {' '.join(asked)}: are the same; give two.")
    return chosen[0], chosen[1]


def _find_differences(
    comparison: Comparison, scores: Location, config: CompareConfig
) -> Iterator[Disagreement]:
    """Count the images of all parts that both models have; yield the differences of each."""
    own, other = (
        {
            file.path.partition("/")[2]: part.chunk
            for file, part in list_parts(scores, model.removeprefix(f"{MODEL_KEY}="), {}).items()
            if part is not None
        }
        for model in comparison.models
    )
    common = [path for path, chunk in own.items() if other.get(path) == chunk]
    comparison.num_unmatched_parts = [len(parts) - len(common) for parts in (own, other)]
    for path in sorted(common):
        chunk = own[path]
        parts = [scores.join(f"{model}/{path}") for model in comparison.models]
        tables = [_read(part, chunk.num_rows) for part in parts]
        true_sums = np.full(chunk.num_rows, -1)
        try:
            labels = read_labels(*_find_chunk(chunk, config), config.read)
            if labels is not None and len(labels) == chunk.num_rows:
                true_sums = labels
        except InputError as error:
            comparison.why_not_shown = str(error)
        for row in _count(comparison, true_sums, tables):
            first, second = (table.slice(row, 1).to_pylist()[0] for table in tables)
            true_sum = int(true_sums[row]) if true_sums[row] >= 0 else None
            yield Disagreement(chunk, row, (first, second), true_sum)


def _read(part: Location, num_rows: int) -> pa.Table:
    try:
        table = read_table(part.read_bytes(), list(_COLUMNS))
    except (*DAMAGED, OSError) as error:
        raise InputError(
            f"{part.uri}: cannot be read ({one_line(error)}); remove it, and score again."
        ) from error
    expected = pa.schema([SCORES_SCHEMA.field(name) for name in _COLUMNS])
    if table.num_rows != num_rows or not table.schema.equals(expected):
        raise InputError(
            f"{part.uri}: does not hold {num_rows} rows of scores; remove it, and score again."
        )
    return table


def _count(
    comparison: Comparison, true_sums: npt.NDArray[np.int64], tables: Sequence[pa.Table]
) -> list[int]:
    """Count two parts of the same rows; return the most confident rows whose sums differ."""
    sums = [table["predicted_sum"].fill_null(-1).to_numpy().astype(np.int64) for table in tables]
    confidences = [table["confidence"].fill_null(0).to_numpy() for table in tables]
    is_scored = (sums[0] >= 0) & (sums[1] >= 0)
    error = np.abs(sums[0] - sums[1])
    is_different = is_scored & (error > 0)
    is_labelled = is_scored & (true_sums >= 0)
    comparison.num_images += int(is_scored.sum())
    comparison.num_rejected += int((~is_scored).sum())
    comparison.num_same += int((is_scored & (error == 0)).sum())
    comparison.num_within_1 += int((is_scored & (error <= 1)).sum())
    comparison.num_labelled += int(is_labelled.sum())
    for i in (0, 1):
        is_more_confident = is_different & (confidences[i] > confidences[1 - i])
        comparison.num_right[i] += int((is_labelled & (sums[i] == true_sums)).sum())
        comparison.num_more_confident[i] += int(is_more_confident.sum())
        comparison.confidence_sums[i] += float(confidences[i][is_scored].sum())
    lower = np.minimum(*confidences)
    rows = np.flatnonzero(is_different)
    most_confident = np.argsort(-lower[rows], kind="stable")[:NUM_DISAGREEMENTS]
    closest: list[int] = rows[most_confident].tolist()
    return closest


def _find_chunk(scored: ChunkId, config: CompareConfig) -> tuple[Location, Chunk]:
    """Return the archive's root, and a chunk that was scored; reads the footer.

    Raises InputError if the shard is gone, has changed, or is cut into other chunks.
    """
    root, path = archive_root(locate(config.archive)), scored.shard
    file = list_file(root, path) or ListedFile(path, 0, 0)
    shard = read_shard(root, file, config.read, scored.fingerprint.shape)
    for chunk in plan_chunks(shard, config.chunk_images):
        if chunk.id == scored:
            return root, chunk
    raise InputError(
        f"{root.join(path).uri}: was changed since it was scored, or is cut into other chunks; "
        "give --chunk-images as when it was scored, or score it again."
    )


def _read_pixels(example: Disagreement, config: CompareConfig) -> Uint8Array:
    """Return an example's image, uint8 (height, width)."""
    root, chunk = _find_chunk(example.chunk, config)
    for rows in read_chunk(root, chunk, config.read):
        index = chunk.first_row + example.row - rows.first_row
        if index < len(rows.pixels):
            pixels: Uint8Array = rows.pixels[index]
            return pixels
    raise InputError(
        f"{chunk.shard}: is cut into other chunks; give --chunk-images as when it was scored."
    )
