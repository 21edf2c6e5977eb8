"""Comparing what two models said of the same images: `digitsum compare`."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from digitsum.archive.chunks import Chunk, ChunkId, plan_chunks
from digitsum.archive.images import Uint8Array
from digitsum.archive.reader import read_chunk, read_labels
from digitsum.archive.score_parts import MODEL_KEY, SCORES_SCHEMA, Part
from digitsum.archive.shards import (
    DAMAGED,
    ListedFile,
    archive_root,
    list_file,
    read_shard,
    read_table,
)
from digitsum.errors import InputError, one_line
from digitsum.options import ReadOptions
from digitsum.scoring.commit import list_parts
from digitsum.scoring.config import CompareConfig
from digitsum.storage.location import Location, locate

NUM_EXAMPLES = 24


@dataclass(frozen=True)
class Disagreement:
    """An image of which two models said something else."""

    pixels: Uint8Array
    """uint8 (height, width)."""
    first: Mapping[str, Any]
    """Its row of the one's scores."""
    second: Mapping[str, Any]
    true_sum: int | None
    """None where it is not known."""


@dataclass
class Comparison:
    """How the scores of two models compare."""

    models: tuple[str, str]
    """Their directories below the scores."""
    num_images: int = 0
    """Images that both have scored."""
    num_same: int = 0
    num_within_1: int = 0
    """Those of them whose sums differ by at most 1."""
    num_rejected: int = 0
    """Images that either rejected, of the chunks that both have."""
    surer: list[int] = field(default_factory=lambda: [0, 0])
    """Of the images on which they differ, those on which the one is surer, and the other."""
    mean_confidence: list[float] = field(default_factory=lambda: [0.0, 0.0])
    num_labelled: int = 0
    """Images that both have scored and whose true sum the archive holds."""
    right: list[int] = field(default_factory=lambda: [0, 0])
    """Those of them whose sum is right by the one, and by the other."""
    only_one: list[int] = field(default_factory=lambda: [0, 0])
    """Parts that only one has, or of other bytes: they are not compared."""
    examples: tuple[Disagreement, ...] = ()
    """Those on which the less sure of the two is surest."""
    not_shown: str | None = None
    """Why some of these cannot be shown."""

    @property
    def agreement(self) -> float:
        """Fraction, 0..1, of the images on which they agree; NaN where they share none."""
        return self.num_same / self.num_images if self.num_images else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return the figures as one object."""
        return {
            "models": self.models,
            "images": self.num_images,
            "same": self.num_same,
            "within_1": self.num_within_1,
            "rejected": self.num_rejected,
            "surer": self.surer,
            "mean_confidence": self.mean_confidence,
            "labelled": self.num_labelled,
            "right": self.right,
            "parts_of_one_only": self.only_one,
            "agreement": self.agreement if self.num_images else None,
        }


def compare(config: CompareConfig) -> Comparison:
    """Compare the scores of two models on one archive, part by part.

    Holds one part of each at a time. Raises InputError where there are not two models, or where
    they share no image.
    """
    scores = locate(config.scores)
    found = Comparison(_models(scores, config))
    parts = [_parts(scores, model) for model in found.models]
    both = {
        path: part
        for path, part in parts[0].items()
        if path in parts[1] and part.chunk == parts[1][path].chunk
    }
    found.only_one = [len(of) - len(both) for of in parts]
    worst: list[tuple[float, int, str, int, int]] = []
    summed = np.zeros(2)
    for number, path in enumerate(sorted(both)):
        num_rows = both[path].chunk.num_rows
        tables = [_read(scores.join(f"{model}/{path}"), num_rows) for model in found.models]
        labels = _labels(found, config, both[path], num_rows)
        for least, row in _count(found, summed, labels, *tables):
            entry = (least, -number, path, row, int(labels[row]))
            (heapq.heappush if len(worst) < NUM_EXAMPLES else heapq.heappushpop)(worst, entry)
    if not found.num_images:
        raise InputError(
            f"{scores.uri}: {' and '.join(found.models)} have scored no image in common; score one "
            "archive by both."
        )
    found.mean_confidence = (summed / found.num_images).tolist()
    examples = []
    for _, _, path, row, label in sorted(worst, reverse=True):
        try:
            pixels = _pixels(config, both[path], row)
            first, second = (
                _read(scores.join(f"{model}/{path}"), both[path].chunk.num_rows)
                .slice(row, 1)
                .to_pylist()[0]
                for model in found.models
            )
            examples.append(Disagreement(pixels, first, second, None if label < 0 else label))
        except InputError as error:
            found.not_shown = str(error)
    found.examples = tuple(examples)
    return found


def _models(scores: Location, config: CompareConfig) -> tuple[str, str]:
    there = [name for name in scores.directories() if name.startswith(f"{MODEL_KEY}=")]
    if config.models is None:
        if len(there) != 2:
            do = (
                "name two with --models"
                if len(there) > 2
                else "score the archive by another model too, with --model and the same --scores"
            )
            raise InputError(
                f"{scores.uri}: holds scores of {len(there)} models, {', '.join(there) or 'none'}; "
                f"{do}."
            )
        return there[0], there[1]
    chosen = []
    for given in config.models:
        name = given if given.startswith(f"{MODEL_KEY}=") else f"{MODEL_KEY}={given}"
        fitting = [one for one in there if one == name] or [
            one for one in there if one.startswith(name)
        ]
        if len(fitting) != 1:
            raise InputError(
                f"--models {given}: fits {len(fitting)} of {', '.join(there) or 'none'} below "
                f"{scores.uri}; give one's name, or its beginning."
            )
        chosen += fitting
    if chosen[0] == chosen[1]:
        raise InputError(f"--models {' '.join(config.models)}: are the same; give two.")
    return chosen[0], chosen[1]


def _parts(scores: Location, model: str) -> dict[str, Part]:
    """Return what every part of a model says of itself, by its path below the model's directory."""
    listed = list_parts(scores, model.removeprefix(f"{MODEL_KEY}="), known={})
    return {file.path.partition("/")[2]: part for file, part in listed.items() if part is not None}


def _read(part: Location, num_rows: int) -> pa.Table:
    columns = ["image_id", "predicted_sum", "confidence", "digits", "error"]
    try:
        table = read_table(part.read_bytes(), columns)
    except (*DAMAGED, OSError) as error:
        raise InputError(
            f"{part.uri}: cannot be read ({one_line(error)}); remove it, and score again."
        ) from error
    expected = pa.schema([SCORES_SCHEMA.field(name) for name in columns])
    if table.num_rows != num_rows or not table.schema.equals(expected):
        raise InputError(
            f"{part.uri}: its columns are not those of {num_rows} scores; remove it, and score "
            "again."
        )
    return table


def _labels(
    found: Comparison, config: CompareConfig, part: Part, num_rows: int
) -> npt.NDArray[np.int64]:
    """Return the true sums of a part's rows, int64 (n,), -1 where they are not known."""
    none = np.full(num_rows, -1)
    try:
        labels = read_labels(*_chunk(config, part), config.read)
    except InputError as error:
        found.not_shown = str(error)
        return none
    return none if labels is None or len(labels) != num_rows else labels


def _count(
    found: Comparison,
    summed: np.ndarray[Any, Any],
    labels: npt.NDArray[np.int64],
    first: pa.Table,
    second: pa.Table,
) -> Iterator[tuple[float, int]]:
    """Count two parts of the same rows; yield the lesser confidence and row where they differ."""
    sums = [table["predicted_sum"].fill_null(-1).to_numpy() for table in (first, second)]
    confidences = [table["confidence"].fill_null(0).to_numpy() for table in (first, second)]
    known = (sums[0] >= 0) & (sums[1] >= 0)
    difference = np.abs(sums[0].astype(np.int64) - sums[1])
    differ = known & (difference > 0)
    found.num_images += int(known.sum())
    found.num_rejected += int((~known).sum())
    found.num_same += int((known & (difference == 0)).sum())
    found.num_within_1 += int((known & (difference <= 1)).sum())
    labelled = known & (labels >= 0)
    found.num_labelled += int(labelled.sum())
    for number, of in enumerate(sums):
        found.right[number] += int((labelled & (of == labels)).sum())
    found.surer[0] += int((differ & (confidences[0] > confidences[1])).sum())
    found.surer[1] += int((differ & (confidences[1] > confidences[0])).sum())
    summed += [float(of[known].sum()) for of in confidences]
    least = np.minimum(*confidences)
    rows = np.flatnonzero(differ)
    for row in rows[np.argsort(-least[rows], kind="stable")][:NUM_EXAMPLES].tolist():
        yield float(least[row]), row


def _chunk(config: CompareConfig, part: Part) -> tuple[Location, Chunk]:
    """Return where a part's chunk is read from, and the chunk."""
    archive = archive_root(locate(config.archive))
    return archive, find_chunk(archive, part.chunk, config.read, config.chunk_images)


def find_chunk(archive: Location, chunk_id: ChunkId, read: ReadOptions, chunk_images: int) -> Chunk:
    """Return a chunk that was scored, to be read again; reads its shard's footer.

    Raises InputError if the shard is gone, has changed, or is cut into other chunks.
    """
    file = list_file(archive, chunk_id.shard) or ListedFile(chunk_id.shard, 0, 0)
    shard = read_shard(archive, file, read, chunk_id.fingerprint.shape)
    for chunk in plan_chunks(shard, chunk_images):
        if chunk.id == chunk_id:
            return chunk
    raise InputError(
        f"{archive.join(chunk_id.shard).uri}: was changed since it was scored, or is cut into "
        "other chunks; give --chunk-images as when it was scored, or score it again."
    )


def _pixels(config: CompareConfig, part: Part, row: int) -> Uint8Array:
    """Return the image, uint8 (height, width), of a part's row."""
    archive, chunk = _chunk(config, part)
    for rows in read_chunk(archive, chunk, config.read):
        within = chunk.first_row + row - rows.first_row
        if within < len(rows.pixels):
            pixels: Uint8Array = rows.pixels[within]
            return pixels
    raise InputError(
        f"{chunk.shard}: is cut into other chunks; give --chunk-images as when it was scored."
    )
