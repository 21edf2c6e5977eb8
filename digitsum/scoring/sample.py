"""The sample of a run: a few images with their scores, recorded for its report by the workers."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from digitsum.archive.chunks import Chunk, ChunkId
from digitsum.archive.images import Uint8Array
from digitsum.archive.parquet.files import read_table
from digitsum.archive.reader import Rows
from digitsum.archive.score_parts import SCORES_SCHEMA
from digitsum.scoring.rejects import chunk_name, damage_named, publish_table
from digitsum.storage.location import Location

SAMPLE_DIRECTORY = "sample"
SAMPLE_IMAGES = 24
_SAMPLE_CHUNKS = 6
_MAX_IMAGE_BYTES = 2**20
_SCORE_COLUMNS = ("predicted_sum", "confidence", "digits", "error")
_SAMPLE_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image", pa.binary()),
        *(SCORES_SCHEMA.field(name) for name in _SCORE_COLUMNS),
    ]
)


@dataclass(frozen=True)
class SampledImage:
    """An image that a run scored."""

    pixels: Uint8Array
    """uint8 (height, width)."""
    shard: str
    row: int
    image_id: str | None
    predicted_sum: int | None
    confidence: float | None
    digits: Sequence[int] | None
    error: str | None


def choose_sample(chunks: Sequence[Chunk], seed: str) -> dict[ChunkId, int]:
    """Return a few of the chunks, chosen at random, and how many images to record of each."""
    if not chunks:
        return {}
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    chosen = rng.choice(len(chunks), min(_SAMPLE_CHUNKS, len(chunks)), replace=False)
    return {chunks[number].id: -(-SAMPLE_IMAGES // len(chosen)) for number in chosen.tolist()}


def sample_rows(chunk: ChunkId, rows: Rows, scores: pa.Table, num_images: int) -> pa.Table:
    """Return some of a chunk's first rows, chosen at random, with their images and scores."""
    rng = np.random.default_rng(zlib.crc32(chunk_name(chunk).encode()))
    num_images = min(num_images, len(rows.pixels))
    if not num_images or rows.pixels[0].nbytes > _MAX_IMAGE_BYTES:
        return _SAMPLE_SCHEMA.empty_table()
    chosen = np.sort(rng.choice(len(rows.pixels), num_images, replace=False))
    height, width = rows.pixels.shape[1:]
    return pa.table(
        {
            "shard": [chunk.shard] * num_images,
            "row": chosen + rows.first_row,
            "image_id": rows.image_ids.take(pa.array(chosen)),
            "height": [height] * num_images,
            "width": [width] * num_images,
            "image": [rows.pixels[row].tobytes() for row in chosen],
            **{name: scores[name].take(chosen) for name in _SCORE_COLUMNS},
        },
        schema=_SAMPLE_SCHEMA,
    )


def write_sample(run: Location, chunk: ChunkId, sample: pa.Table) -> None:
    """Write what was sampled of a chunk, if anything, below a run."""
    if sample.num_rows:
        publish_table(sample, run.join(f"{SAMPLE_DIRECTORY}/{chunk_name(chunk)}.parquet"))


def read_sample(run: Location) -> tuple[SampledImage, ...]:
    """Return the images that a run recorded; raises InputError if a file of them is damaged."""
    found: list[SampledImage] = []
    for name in sorted(run.join(SAMPLE_DIRECTORY).files()):
        file = run.join(f"{SAMPLE_DIRECTORY}/{name}")
        with damage_named(file):
            table = read_table(file.read_bytes(), _SAMPLE_SCHEMA.names)
            found += map(_sampled, table.to_pylist())
    return tuple(found[:SAMPLE_IMAGES])


def _sampled(row: Mapping[str, object]) -> SampledImage:
    values = dict(row)
    height, width = values.pop("height"), values.pop("width")
    pixels = np.frombuffer(values.pop("image"), np.uint8).reshape(height, width)  # type: ignore[call-overload]
    return SampledImage(pixels, **values)  # type: ignore[arg-type]
