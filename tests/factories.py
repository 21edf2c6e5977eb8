"""Small models, images, shards and chunks, and helpers that read what a command left.

`make_*` returns an object, `write_*` a path.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from digitsum.archive.chunks import Chunk, ChunkId, plan_chunks
from digitsum.archive.reader import Rows, read_chunk
from digitsum.archive.score_parts import SCORES_SCHEMA, Part, known_count_digest, part_path
from digitsum.archive.shards import Archive, Fingerprint, Shard, open_archive
from digitsum.archive.writer import ImageBatch
from digitsum.manifest import RUNS_DIRECTORY, new_run_id, to_python, write_manifest
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.network import SumNetwork
from digitsum.model.outputs import DigitReadings, Predictions, PredictionStats
from digitsum.model.saved_model import SavedModel, load_model, save_model
from digitsum.model.torch_backend import TorchPredictor
from digitsum.options import ImageShape, ReadOptions
from digitsum.scoring.commit import commit_part
from digitsum.scoring.config import StatusConfig
from digitsum.scoring.plan import ScorePlan, Survey, plan_scores
from digitsum.scoring.results import ChunkResult, ScoreOutcome, Totals
from digitsum.scoring.worker import score_table
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate

SHAPE = ImageShape(16, 24)
"""The shape of small networks."""
TINY = ImageShape(2, 3)
"""The shape of images that no network reads."""
MODEL = "a" * 64
"""The digest of a model that is nowhere."""


def make_counter(
    height: int = 16, width: int = 24, num_digits: int = 2, max_digits: int = 2, **sizes: int
) -> CounterNetwork:
    """Return a counter with the weights of seed 0."""
    torch.manual_seed(0)
    return CounterNetwork(CounterConfig(height, width, num_digits, max_digits, **sizes)).eval()


def make_baseline(height: int = 16, width: int = 24, num_digits: int = 2) -> BaselineNetwork:
    """Return a baseline with the weights of seed 0."""
    torch.manual_seed(0)
    return BaselineNetwork(BaselineConfig(height, width, num_digits)).eval()


def network_name(network: SumNetwork) -> str:
    return "counter" if isinstance(network, CounterNetwork) else "baseline"


def make_model(
    network: SumNetwork | None = None,
    *,
    pixel_scale: float = 1 / 255,
    temperature: float = 1.0,
    uri: str = "models/model",
    digest: str = "a" * 64,
    **options: Any,
) -> SavedModel:
    """Return a model in memory only, of a small counter by default."""
    network = network or make_counter()
    name = network_name(network)
    return SavedModel(name, network.eval(), pixel_scale, temperature, uri, digest, **options)


def write_model(
    path: Path, network: SumNetwork | None = None, *, pixel_scale: float = 1 / 255, **options: Any
) -> SavedModel:
    """Write a model, of a small counter by default, and return it as loaded."""
    network = network or make_counter()
    options = {"metrics": {}, "card": ""} | options
    save_model(str(path), network_name(network), network, pixel_scale=pixel_scale, **options)
    return load_model(str(path))


def make_shard(
    path: str = "a.parquet",
    *row_group_rows: int,
    shape: ImageShape = TINY,
    size_bytes: int = 100,
    mtime_ns: int = 1,
    id_column: str | None = None,
) -> Shard:
    """Return a shard as its footer would describe it."""
    return Shard(ListedFile(path, size_bytes, mtime_ns), row_group_rows, shape, id_column)


def make_fingerprint(
    num_rows: int = 9, *, shape: ImageShape = TINY, id_column: str | None = None
) -> Fingerprint:
    """Return the fingerprint of a shard of `num_rows` images."""
    return Fingerprint(100, 1, num_rows, "image", id_column, shape.height, shape.width)


def make_chunk(
    num_rows: int = 4,
    first_row: int = 0,
    shard: str = "a.parquet",
    *,
    fingerprint: Fingerprint | None = None,
    row_groups: tuple[int, ...] = (0,),
) -> Chunk:
    """Return a chunk of tiny images without ids."""
    fingerprint = fingerprint or make_fingerprint(first_row + num_rows)
    return Chunk(ChunkId(shard, fingerprint, first_row, num_rows), row_groups)


def make_part(chunk: Chunk, num_rejected: int = 0, model_digest: str = MODEL) -> Part:
    """Return the description of a chunk's part."""
    return Part(model_digest, chunk.id, num_rejected)


def make_plan(
    shards: Sequence[Shard] = (),
    parts: Iterable[Part] = (),
    rejected: Mapping[str, str] | None = None,
    chunk_images: int = 4,
    **options,
) -> ScorePlan:
    """Plan shards of which these parts are committed, beside shards that are rejected."""
    survey = Survey(Archive(locate("/archive"), tuple(shards)), rejected or {})
    committed = {part_path(part.model_digest, part.chunk): part for part in parts}
    return plan_scores(survey, MODEL, chunk_images, committed, **options)


def make_result(chunk: Chunk, num_rejected: int = 0, reason: str = "", **known) -> ChunkResult:
    """Return a chunk's result: scored, or rejected for a reason."""
    if reason:
        return ChunkResult.rejected(chunk.id, reason, **known)
    num_scored = chunk.num_rows - num_rejected
    counts = (num_scored // 2, 0, num_scored - num_scored // 2)
    known = {"predicted": PredictionStats(counts, counts)} | known
    return ChunkResult(chunk.id, num_rejected, **known)


def make_scores(*errors: str | None, first: int = 0) -> pa.Table:
    """Return the scores of one row for each error; None stands for a row that is scored."""
    rows = [
        {"image_id": f"image-{row}", "predicted_sum": None if error else row % 37, "error": error}
        for row, error in enumerate(errors, start=first)
    ]
    return pa.Table.from_pylist(rows, SCORES_SCHEMA)


def make_images(
    num_images: int, shape: ImageShape, *, first: int = 0, labelled: bool = True
) -> ImageBatch:
    """Return images that differ from row to row, labelled with row % 37; `first` is row 0."""
    rows = np.arange(first, first + num_images)
    pixels = (rows[:, None] * 31 + np.arange(shape.num_pixels) * 7) % 251
    return ImageBatch(
        pa.array([f"image-{row}" for row in rows], pa.string()),
        pixels.astype(np.uint8).reshape(num_images, shape.height, shape.width),
        (rows % 37).astype(np.int16) if labelled else None,
    )


def make_rows(
    sums: Sequence[int],
    *,
    errors: Iterable[int] = (),
    digits: list[list[int] | None] | None = None,
    first: int = 0,
) -> Rows:
    """Return labelled rows, each of one byte, with ids `image-000` up; `errors` are rejected."""
    numbers = range(first, first + len(sums))
    ids = pa.array([f"image-{number:03d}" for number in numbers], pa.string())
    pixels = np.array(numbers, np.uint8)[:, None, None].repeat(6, axis=1)
    reasons = dict.fromkeys(errors, "image is null")
    return Rows(first, ids, pixels, reasons, np.array(sums, np.int64), digits)


def make_predictions(
    sums: Sequence[int],
    confidences: Sequence[float] | None = None,
    *,
    read: Sequence[Sequence[int]] | None = None,
) -> Predictions:
    """Return predictions, of confidence 0.5 by default; `read` are the digits of each image."""
    readings = None
    if read is not None:
        digits = np.array([[*row, *[-1] * (5 - len(row))] for row in read], np.int8).reshape(-1, 5)
        places = np.where(digits >= 0, 10, -1).astype(np.int16)
        readings = DigitReadings(digits, places, np.full((len(read), 6), 1 / 6, np.float32))
    confidences = [0.5] * len(sums) if confidences is None else confidences
    return Predictions(np.array(sums, np.int16), np.array(confidences, np.float32), readings)


def write_parquet(path: Path, columns: dict, *, metadata: dict | None = None, **options) -> Path:
    """Write columns as a Parquet file, as another tool would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, **options)
    return path


def write_shard(
    path: Path, num_images: int = 3, shape: ImageShape = SHAPE, *, byte: int = 0, **options
) -> Path:
    """Write a shard of images of one byte, whose metadata gives their shape."""
    images = pa.array([bytes([byte]) * shape.num_pixels] * num_images, pa.binary(shape.num_pixels))
    metadata = {"digitsum.height": str(shape.height), "digitsum.width": str(shape.width)}
    return write_parquet(path, {"image": images}, metadata=metadata, **options)


def write_images(path: Path, num_images: int = 3, *bad: int, shape: ImageShape = SHAPE) -> Path:
    """Write a shard of images that differ from row to row; those of the rows `bad` are null."""
    images = [
        None if row in bad else bytes([row % 251]) * shape.num_pixels for row in range(num_images)
    ]
    metadata = {"digitsum.height": str(shape.height), "digitsum.width": str(shape.width)}
    column = pa.array(images, pa.binary(shape.num_pixels))
    return write_parquet(path, {"image": column}, metadata=metadata, row_group_size=2)


def commit_scores(
    archive: Path,
    scores: Path,
    model: SavedModel,
    *,
    chunk_images: int = 100,
    known_count: int | None = None,
) -> list[Part]:
    """Score and commit every chunk of an archive, as a run does but without Ray."""
    predictor = TorchPredictor(model, batch_size=16, known_count=known_count)
    digest = known_count_digest(model.digest, known_count)
    opened = open_archive(str(archive), ReadOptions(), model.shape)
    parts = []
    for shard in opened.shards:
        for chunk in plan_chunks(shard, chunk_images):
            batches = read_chunk(opened.root, chunk, ReadOptions())
            tables = [score_table(rows, predictor.predict(rows.pixels)) for rows in batches]
            table = pa.concat_tables(tables)
            parts.append(commit_part(locate(str(scores)), table, digest, chunk.id))
    return parts


def write_run(scores: Path, night: int, *, model: str = "a" * 64, **changes: Any) -> Path:
    """Write the manifest of a scoring run of a night, whose archive is nowhere."""
    started = datetime(2026, 1, 31, tzinfo=UTC) + timedelta(days=night)
    values = {
        "scores": "/gone",
        "archive": "/gone",
        "model_digest": model,
        "complete": True,
        "why_incomplete": None,
        "images": 1000,
        "rejected": 2,
        "elapsed_s": 10.0,
        "images_per_s": 100.0,
        "bottleneck": "more cores would help",
        "plan": ScorePlan(model, (), {}, 0, {}).summary(),
        "totals": Totals(1000, 998, 2, 2, 1),
        "predicted": PredictionStats(),
        "reference": None,
        "shifts": (),
        "rejected_shards": {},
        "chunks": (),
    }
    run = scores / RUNS_DIRECTORY / new_run_id("score", started)
    outcome = to_python(ScoreOutcome(**values | changes))
    write_manifest(locate(str(run)), "score", StatusConfig(scores="/gone"), started, outcome)
    return run


def read_files(directory: Path) -> dict[str, bytes]:
    """Read every file below a directory, hidden ones too; {} if the directory is absent."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def read_parts(scores: Path) -> dict[str, bytes]:
    """Read the parts below a scores directory, by path."""
    parts = scores.glob("model=*/**/*.parquet")
    return {path.relative_to(scores).as_posix(): path.read_bytes() for path in sorted(parts)}


def read_scores(scores: Path) -> pa.Table:
    """Read all scores below a directory, in the order of their parts' paths."""
    parts = sorted(scores.glob("model=*/**/*.parquet"))
    return pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])
