from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import write_images
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import plan_chunks
from digitsum.archive.reader import Rows
from digitsum.archive.score_parts import SCORES_SCHEMA, part_path, read_part
from digitsum.archive.shards import open_archive
from digitsum.errors import InputError, StorageError
from digitsum.model.outputs import DigitReadings, Predictions
from digitsum.model.saved_model import load_model
from digitsum.options import ReadOptions
from digitsum.scoring import worker as worker_module
from digitsum.scoring.config import ComputeOptions
from digitsum.scoring.rejects import REJECTS_DIRECTORY, chunk_name
from digitsum.scoring.sample import read_sample
from digitsum.scoring.worker import ChunkScorer, ScoreTask, score_table
from digitsum.storage.location import locate
from digitsum.storage.retries import STORAGE_ATTEMPTS

WIDTH = 5  # the most digits that are read
LISTS = ("digits", "digit_x", "count_probabilities")


def table_of(read: list[list[int]], *rejected: int, x: list[list[int]] | None = None) -> pa.Table:
    """Return the scores of images on which these digits were read, at x 10, 20, ..."""
    digits = np.full((len(read), WIDTH), -1, np.int8)
    digit_x = np.full((len(read), WIDTH), -1, np.int16)
    count_probs = np.zeros((len(read), WIDTH + 1), np.float32)
    for row, values in enumerate(read):
        digits[row, : len(values)] = values
        digit_x[row, : len(values)] = x[row] if x else range(10, 10 * len(values) + 1, 10)
        count_probs[row, len(values)] = 0.75
        count_probs[row, (len(values) + 1) % (WIDTH + 1)] = 0.25
    sums = np.array([sum(values) for values in read], np.int16)
    confidences = np.full(len(read), 0.5, np.float32)
    predictions = Predictions(sums, confidences, DigitReadings(digits, digit_x, count_probs))
    return score_table(rows_of(len(read), *rejected), predictions)


def rows_of(num_rows: int, *rejected: int) -> Rows:
    ids = pa.array([f"image-{row}" for row in range(num_rows)], pa.string())
    errors = dict.fromkeys(rejected, "image is null")
    return Rows(0, ids, np.zeros((num_rows, 1, 1), np.uint8), errors, None)


def test_score_table_scored_and_rejected():
    table = table_of([[3, 0, 9], [7], [4]], 2, x=[[0, 20, 167], [10], [1]])
    assert table.to_pylist() == [
        {
            "image_id": "image-0",
            "predicted_sum": 12,
            "confidence": 0.5,
            "digits": [3, 0, 9],
            "digit_x": [0, 20, 167],
            "count_probabilities": [0, 0, 0, 0.75, 0.25, 0],
            "error": None,
        },
        {
            "image_id": "image-1",
            "predicted_sum": 7,
            "confidence": 0.5,
            "digits": [7],
            "digit_x": [10],
            "count_probabilities": [0, 0.75, 0.25, 0, 0, 0],
            "error": None,
        },
        dict.fromkeys(SCORES_SCHEMA.names) | {"image_id": "image-2", "error": "image is null"},
    ]


def test_score_table_of_a_sum_model():
    predictions = Predictions(np.array([3, 4], np.int16), np.array([1, 1], np.float32))
    table = score_table(rows_of(2, 1), predictions)
    assert table.schema.equals(SCORES_SCHEMA)
    assert table["predicted_sum"].to_pylist() == [3, None]
    assert [table[name].null_count for name in LISTS] == [2, 2, 2]


@given(st.lists(st.lists(st.integers(0, 9), max_size=WIDTH), max_size=20), st.data())
def test_score_table_lists(read, data):
    rejected = data.draw(st.sets(st.integers(0, len(read) - 1))) if read else set()
    table = table_of(read, *rejected)
    assert table.schema.equals(SCORES_SCHEMA)
    table.validate(full=True)
    rows = table.to_pylist()
    assert len(rows) == len(read)
    for number, (row, values) in enumerate(zip(rows, read, strict=True)):
        if number in rejected:
            assert [row[name] for name in (*LISTS, "predicted_sum", "confidence")] == [None] * 5
            assert row["error"] == "image is null"
        else:
            assert row["digits"] == values  # no digits are an empty list, not null
            assert sum(row["digits"]) == row["predicted_sum"]
            assert len(row["digit_x"]) == len(values)
            assert len(row["count_probabilities"]) == WIDTH + 1
            assert sum(row["count_probabilities"]) == pytest.approx(1)
            assert row["error"] is None


@pytest.fixture
def archive(tmp_path):
    """Give an archive of one chunk of 5 images, the second of which is null."""
    write_images(tmp_path / "archive" / "a.parquet", 5, 1)
    return tmp_path / "archive"


@pytest.fixture
def task(archive, model_uri, tmp_path) -> ScoreTask:
    model = load_model(model_uri)
    return ScoreTask(
        model=model,
        model_digest=model.digest,
        archive_uri=str(archive),
        scores_uri=str(tmp_path / "scores"),
        run_uri=str(tmp_path / "run"),
        read=ReadOptions(),
        known_count=None,
    )


@pytest.fixture
def chunk(archive):
    (chunk,) = plan_chunks(open_archive(str(archive), ReadOptions()).shards[0], 9)
    return chunk


@pytest.fixture
def scorer(task) -> ChunkScorer:
    return ChunkScorer(task, ComputeOptions(backend="torch"))


def rejects_of(task, chunk) -> list[tuple[int | None, str, str]]:
    path = Path(task.run_uri) / REJECTS_DIRECTORY / f"{chunk_name(chunk.id)}.parquet"
    rows = pq.read_table(path, partitioning=None).to_pylist()
    return [(row["row"], row["stage"], row["reason"]) for row in rows]


def test_scorer_bad_image(task, chunk, scorer, tmp_path):
    result = scorer(chunk)
    assert (result.chunk, result.num_rejected, result.reason) == (chunk.id, 1, "")
    assert (result.predicted.num_images, result.attempts) == (4, 1)
    assert result.forward_s > 0
    assert (result.backend, bool(result.node and result.worker and result.ended)) == ("torch", True)
    part = read_part(locate(task.scores_uri).join(part_path(task.model_digest, chunk.id)))
    assert (part.chunk, part.num_rejected) == (chunk.id, 1)
    [(row, stage, reason)] = rejects_of(task, chunk)
    assert (row, stage) == (1, "decode")
    assert "null" in reason
    assert not (tmp_path / "run" / "sample").exists()


def test_scorer_sample(task, chunk, tmp_path):
    task = replace(task, sample={chunk.id: 3})
    ChunkScorer(task, ComputeOptions(backend="torch"))(chunk)
    sample = read_sample(locate(task.run_uri))
    assert [image.shard for image in sample] == ["a.parquet"] * 3
    scores = pq.read_table(next((tmp_path / "scores").rglob("rows-*")), partitioning=None)
    sums = scores["predicted_sum"].to_pylist()
    for image in sample:
        assert image.predicted_sum == sums[image.row]
        assert (image.error is not None) == (image.row == 1)
        if image.error is None:
            assert (image.pixels == image.row).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not a whole Parquet file"),
        (lambda path: path.touch(), "was replaced or removed during the run; run again"),
    ],
    ids=["removed", "cut", "replaced"],
)
def test_scorer_unreadable_chunk(task, chunk, scorer, archive, tmp_path, change, reason):
    change(archive / "a.parquet")
    result = scorer(chunk)
    assert reason in result.reason
    assert (result.num_rejected, result.attempts, result.predicted.num_images) == (5, 1, 0)
    assert rejects_of(task, chunk) == [(None, "read", result.reason)]
    assert not (tmp_path / "scores").exists()


def test_scorer_other_rows_than_promised(task, chunk, scorer, monkeypatch, tmp_path):
    read_chunk = worker_module.read_chunk
    for change, num_rows in ((lambda rows: rows[:-1], 4), (lambda rows: rows + rows, 10)):
        monkeypatch.setattr(
            worker_module,
            "read_chunk",
            lambda *given, change=change, **known: iter(
                change(list(read_chunk(*given, **known | {"batch_rows": 4})))
            ),
        )
        reason = scorer(chunk).reason
        assert f"gave {num_rows} rows from row 0 on, but its footer promises 5" in reason
    assert not (tmp_path / "scores").exists()


def test_scorer_scores_over_the_limit(task, chunk, monkeypatch):
    monkeypatch.setattr(ReadOptions, "max_read_bytes", property(lambda options: 10))
    monkeypatch.setattr(worker_module, "read_chunk", lambda *_, **__: iter([rows_of_shape(chunk)]))
    result = ChunkScorer(task, ComputeOptions(backend="torch"))(chunk)
    assert "take more than the 1,024 MB of --max-read-mb" in result.reason


def rows_of_shape(chunk) -> Rows:
    rows = rows_of(chunk.num_rows)
    return replace(rows, pixels=np.zeros((chunk.num_rows, 16, 24), np.uint8))


@pytest.fixture
def fail(monkeypatch):
    """Let a function of the worker fail n times."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda wait_s: None)

    def fail(name: str, times: int, kind: type[Exception]) -> None:
        function, calls = getattr(worker_module, name), []

        def failing(*given, **known):
            calls.append(name)
            if len(calls) <= times:
                raise kind("the storage refuses")
            return function(*given, **known)

        monkeypatch.setattr(worker_module, name, failing)

    return fail


@pytest.mark.parametrize(
    ("times", "attempts", "reason"),
    [(2, 3, ""), (STORAGE_ATTEMPTS, STORAGE_ATTEMPTS, "the storage refuses")],
)
def test_scorer_storage_refuses_reads(chunk, scorer, fail, times, attempts, reason):
    fail("check_unchanged", times, StorageError)
    result = scorer(chunk)
    assert (result.attempts, result.reason) == (attempts, reason)
    assert result.predicted.num_images == (0 if reason else 4)  # of the last attempt only


@pytest.mark.parametrize("name", ["commit_part", "write_rejects"])
def test_scorer_cannot_write(chunk, scorer, fail, name, tmp_path):
    fail(name, 99, InputError)
    with pytest.raises(InputError, match="the storage refuses"):
        scorer(chunk)
    assert not (tmp_path / "scores").exists()


def test_scorer_write_recovers(chunk, scorer, fail):
    fail("commit_part", 3, StorageError)
    assert scorer(chunk).reason == ""


def test_scorer_without_sample_still_scores(task, chunk, fail, tmp_path):
    fail("write_sample", 99, InputError)
    scorer = ChunkScorer(replace(task, sample={chunk.id: 3}), ComputeOptions(backend="torch"))
    assert scorer(chunk).reason == ""
    assert list((tmp_path / "scores").rglob("rows-*"))
