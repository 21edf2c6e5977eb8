"""Factories for the tests of scoring: shards, chunks, parts, plans, results, and a small model."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import factories
import pyarrow as pa
import pytest

from digitsum.archive.chunks import Chunk
from digitsum.archive.score_parts import SCORES_SCHEMA, Part, part_path
from digitsum.archive.shards import Archive, Shard
from digitsum.model.prediction_stats import PredictionStats
from digitsum.scoring.plan import RejectedShard, ScorePlan, Survey, plan_scores
from digitsum.scoring.results import ChunkResult
from digitsum.storage.location import Location, locate

MODEL = "a" * 64


def _make_part(chunk: Chunk, num_rejected: int = 0, model_digest: str = MODEL) -> Part:
    return Part(model_digest, chunk.id, num_rejected)


def _make_plan(
    shards: Sequence[Shard] = (),
    parts: Iterable[Part] = (),
    num_bad: int = 0,
    chunk_images: int = 4,
    **options,
) -> ScorePlan:
    rejected = tuple(RejectedShard(f"bad-{number}.parquet", "bad") for number in range(num_bad))
    survey = Survey(Archive(locate("/archive"), tuple(shards)), rejected)
    committed = {part_path(part.model_digest, part.chunk): part for part in parts}
    return plan_scores(survey, MODEL, chunk_images, committed, **options)


def _make_result(chunk: Chunk, num_rejected: int = 0, reason: str = "", **known) -> ChunkResult:
    if reason:
        return ChunkResult.rejected(chunk.id, reason, **known)
    num_scored = chunk.num_rows - num_rejected
    counts = (num_scored // 2, 0, num_scored - num_scored // 2)
    known = {"predicted": PredictionStats(counts, counts)} | known
    return ChunkResult(chunk.id, num_rejected, **known)


def _make_scores(*errors: str | None, first: int = 0) -> pa.Table:
    rows = [
        {
            "image_id": f"image-{row}",
            "predicted_sum": row % 37 if error is None else None,
            "error": error,
        }
        for row, error in enumerate(errors, start=first)
    ]
    return pa.Table.from_pylist(rows, SCORES_SCHEMA)


@pytest.fixture(scope="session")
def make_shard() -> Callable[..., Shard]:
    return factories.make_shard


@pytest.fixture(scope="session")
def make_chunk() -> Callable[..., Chunk]:
    return factories.make_chunk


@pytest.fixture(scope="session")
def make_part() -> Callable[..., Part]:
    """Make what a chunk's part says of itself."""
    return _make_part


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., ScorePlan]:
    """Plan shards of which these parts are committed, beside so many shards that are bad."""
    return _make_plan


@pytest.fixture(scope="session")
def make_result() -> Callable[..., ChunkResult]:
    """Make a chunk's result: scored, or rejected for a reason."""
    return _make_result


@pytest.fixture(scope="session")
def make_scores() -> Callable[..., pa.Table]:
    """Make the scores of one row for each error, which is None if the row is scored."""
    return _make_scores


@pytest.fixture
def scores(tmp_path) -> Location:
    return locate(str(tmp_path / "scores"))


@pytest.fixture(scope="session")
def model_uri(tmp_path_factory) -> str:
    """Give a small counter of fresh weights, for images of 16x24 with at most 2 digits."""
    path = tmp_path_factory.mktemp("model") / "model"
    sizes = dict.fromkeys(("stem_channels", "body_channels", "row_channels"), 4)
    factories.write_model(path, factories.make_counter(column_channels=8, num_mixers=1, **sizes))
    return str(path)


@pytest.fixture(scope="session")
def write_images(write_parquet) -> Callable[..., Path]:
    """Write a shard of images that differ from row to row; a row's image may be None."""

    def write(
        path: Path, num_images: int = 3, *bad: int, height: int = 16, width: int = 24
    ) -> Path:
        images = [
            None if row in bad else bytes([row % 251]) * (height * width)
            for row in range(num_images)
        ]
        metadata = {"digitsum.height": str(height), "digitsum.width": str(width)}
        column = pa.array(images, pa.binary(height * width))
        return write_parquet(path, {"image": column}, metadata=metadata, row_group_size=2)

    return write
