from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import make_chunk, make_scores, read_files

from digitsum.archive.reader import Rows
from digitsum.errors import InputError
from digitsum.scoring.rejects import chunk_name
from digitsum.scoring.sample import (
    SAMPLE_DIRECTORY,
    SAMPLE_IMAGES,
    choose_sample,
    read_sample,
    sample_rows,
    write_sample,
)
from digitsum.storage.location import Location, locate


@pytest.fixture
def run(tmp_path) -> Location:
    return locate(str(tmp_path / "_runs" / "score-1"))


def rows_of(num_rows: int, first_row: int = 0, height: int = 2, width: int = 3) -> Rows:
    pixels = np.arange(num_rows * height * width, dtype=np.uint64).astype(np.uint8)
    ids = pa.array([f"image-{first_row + row}" for row in range(num_rows)])
    return Rows(first_row, ids, pixels.reshape(num_rows, height, width), {}, None)


@pytest.mark.parametrize(("num_chunks", "num_chosen"), [(0, 0), (1, 1), (5, 5), (6, 6), (99, 6)])
def test_choose_sample(num_chunks, num_chosen):
    chunks = [make_chunk(4, 4 * number) for number in range(num_chunks)]
    chosen = choose_sample(chunks, "score-1")
    assert chosen == choose_sample(chunks, "score-1")
    assert len(chosen) == num_chosen
    assert set(chosen) <= {chunk.id for chunk in chunks}
    if chosen:
        assert SAMPLE_IMAGES <= sum(chosen.values()) < SAMPLE_IMAGES + num_chosen
    if num_chunks > 6:
        assert chosen != choose_sample(chunks, "score-2")


@pytest.mark.parametrize(("num_rows", "num_images"), [(9, 4), (3, 24), (1, 1)])
def test_sample_round_trip(run, num_rows, num_images):
    chunk, rows = make_chunk(9, 5).id, rows_of(num_rows, 5)
    errors = ["bad" if row % 3 == 1 else None for row in range(num_rows)]
    scores = make_scores(*errors, first=5)
    write_sample(run, chunk, sample_rows(chunk, rows, scores, num_images))
    sample = read_sample(run)
    assert len(sample) == min(num_rows, num_images)
    assert [image.row for image in sample] == sorted({image.row for image in sample})
    for image in sample:
        number = image.row - 5
        np.testing.assert_array_equal(image.pixels, rows.pixels[number])
        scored = scores.to_pylist()[number]
        names = ("image_id", "predicted_sum", "confidence", "digits", "error")
        assert {name: asdict(image)[name] for name in names} == {n: scored[n] for n in names}
        assert image.shard == "a.parquet"


@pytest.mark.parametrize(("num_rows", "width"), [(0, 3), (2, 2**19 + 1)])
def test_sample_big_or_no_images(run, tmp_path, num_rows, width):
    chunk = make_chunk(4).id
    rows = rows_of(num_rows, width=width)
    write_sample(run, chunk, sample_rows(chunk, rows, make_scores(*[None] * num_rows), 4))
    assert read_sample(run) == ()
    assert read_files(tmp_path) == {}


def test_sample_of_several_chunks(run):
    assert read_sample(run) == ()
    for first_row in range(0, 60, 10):
        chunk = make_chunk(10, first_row).id
        scores = make_scores(*[None] * 10, first=first_row)
        write_sample(run, chunk, sample_rows(chunk, rows_of(10, first_row), scores, 5))
    sample = read_sample(run)
    assert len({(image.shard, image.row) for image in sample}) == len(sample) == SAMPLE_IMAGES


def rewrite(path, **columns):
    table = pq.read_table(path, partitioning=None)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, [values])
    pq.write_table(table, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_text("not Parquet"),
        lambda path: pq.write_table(pa.table({"row": [1]}), path),
        lambda path: rewrite(path, height=[7, 7]),
        lambda path: rewrite(path, image=["text", "text"]),
        lambda path: rewrite(path, image=pa.nulls(2, pa.binary())),
    ],
    ids=["cut", "text", "other columns", "other shape", "other type", "null"],
)
def test_read_sample_damaged(run, damage, tmp_path):
    chunk = make_chunk(2).id
    write_sample(run, chunk, sample_rows(chunk, rows_of(2), make_scores(None, None), 2))
    path = tmp_path / "_runs" / "score-1" / SAMPLE_DIRECTORY / f"{chunk_name(chunk)}.parquet"
    damage(path)
    with pytest.raises(InputError, match=f"^{path}: cannot be read .*; remove it") as refusal:
        read_sample(run)
    assert "\n" not in str(refusal.value)
