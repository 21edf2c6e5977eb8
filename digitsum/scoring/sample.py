"""A few images of an archive beside what was scored of them, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.archive.images import Uint8Array
from digitsum.archive.location import Location
from digitsum.archive.reading import read_chunk
from digitsum.archive.schema import ReadOptions
from digitsum.archive.scores import part_path, part_source
from digitsum.archive.shards import Chunk


@dataclass(frozen=True)
class ScoredSample:
    """n images and their scores."""

    pixels: Uint8Array
    """uint8 (n, height, width)."""
    scores: list[dict[str, object]]
    """The n rows of the part: image_id, predicted_sum, confidence, digits, error."""


def first_scored(
    archive: Location,
    scores: Location,
    chunk: Chunk,
    model_digest: str,
    read: ReadOptions,
    num_images: int,
) -> ScoredSample:
    """Return the first images of a committed chunk, at most `num_images`, with their scores."""
    rows = next(read_chunk(archive, chunk, read))
    part = scores.join(part_path(part_source(chunk, model_digest))).read_bytes()
    table = pq.read_table(pa.BufferReader(part))
    return ScoredSample(rows.pixels[:num_images], table.slice(0, num_images).to_pylist())
