"""The sample of a run: a few images with their scores, recorded for its report by the workers."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from digitsum.archive.chunks import Chunk, ChunkId
from digitsum.archive.images import Uint8Array
from digitsum.archive.parquet.files import DAMAGED, read_table
from digitsum.archive.reader import Rows
from digitsum.errors import InputError, one_line
from digitsum.scoring.rejects import chunk_name
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

SAMPLE_DIRECTORY = "sample"
SAMPLE_IMAGES = 24
_SAMPLE_CHUNKS = 6
_MAX_IMAGE_BYTES = 2**20
_SCORE_FIELDS = [
    pa.field("predicted_sum", pa.int16()),
    pa.field("confidence", pa.float32()),
    pa.field("digits", pa.list_(pa.int8())),
    pa.field("error", pa.string()),
]
_SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("image_id", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("image", pa.binary()),
        *_SCORE_FIELDS,
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
            **{field.name: scores[field.name].take(chosen) for field in _SCORE_FIELDS},
        },
        schema=_SAMPLE_SCHEMA,
    )


def write_sample(run: Location, chunk: ChunkId, sample: pa.Table) -> None:
    """Write what was sampled of a chunk, if anything, below a run."""
    if not sample.num_rows:
        return
    content = io.BytesIO()
    pq.write_table(sample, content, compression="zstd")
    publish_bytes(content.getvalue(), run.join(f"{SAMPLE_DIRECTORY}/{chunk_name(chunk)}.parquet"))


def read_sample(run: Location) -> tuple[SampledImage, ...]:
    """Return the images that a run recorded, () if it recorded none.

    Raises InputError, naming the file, if one is damaged.
    """
    found: list[SampledImage] = []
    for name in sorted(run.join(SAMPLE_DIRECTORY).files()):
        file = run.join(f"{SAMPLE_DIRECTORY}/{name}")
        try:
            table = read_table(file.read_bytes())
            found += [_sampled(row) for row in table.select(_SAMPLE_SCHEMA.names).to_pylist()]
        except (*DAMAGED, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{file.uri}: cannot be read ({one_line(error)}); remove it, and make the report "
                "again."
            ) from error
    return tuple(found[:SAMPLE_IMAGES])


def _sampled(row: Mapping[str, object]) -> SampledImage:
    values = dict(row)
    height, width = values.pop("height"), values.pop("width")
    pixels = np.frombuffer(values.pop("image"), np.uint8).reshape(height, width)  # type: ignore[call-overload]
    return SampledImage(pixels, **values)  # type: ignore[arg-type]
