import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from digitsum.archive.score_parts import known_count_digest, model_directory
from digitsum.archive.synth import SynthConfig, synth
from digitsum.errors import InputError
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.saved_model import load_model, save_model
from digitsum.options import ImageShape
from digitsum.scoring import verify as verify_module
from digitsum.scoring.config import VerifyConfig
from digitsum.scoring.verify import Verified, verify

CHUNK_IMAGES = 8
SHAPE = ImageShape(28, 60)
NUM_IMAGES = 29


@pytest.fixture(scope="module")
def made(tmp_path_factory, glyph_file, write_parquet, commit_scores) -> Path:
    """Make an archive of 2 shards, one of them with an image that is null, a model, and scores."""
    made = tmp_path_factory.mktemp("made")
    synth(
        SynthConfig(
            out=str(made / "archive"),
            images=NUM_IMAGES,
            shards=2,
            digits=2,
            height=SHAPE.height,
            width=SHAPE.width,
            glyphs=glyph_file,
        )
    )
    for path in (made / "archive").glob("*.parquet"):  # cut into several chunks each
        table = pq.read_table(path)
        images = table["image"].to_pylist()
        images[3] = None if "00000" in path.name else images[3]
        columns = {"image_id": table["image_id"], "image": pa.array(images, pa.binary())}
        metadata = table.schema.metadata
        write_parquet(path, columns, metadata=metadata, row_group_size=4, compression="none")
    torch.manual_seed(0)
    config = CounterConfig(
        SHAPE.height,
        SHAPE.width,
        num_digits=2,
        max_digits=3,
        stem_channels=4,
        body_channels=6,
        row_channels=8,
        column_channels=10,
        num_mixers=1,
    )
    network = CounterNetwork(config)
    images = torch.tensor(pixels_of(made / "archive")).unsqueeze(1) / 255
    with torch.no_grad():  # make the sums differ from image to image
        for _ in range(20):
            network.train()(images)
        network.eval().head.weight *= 1000
        network.head.bias -= network(images).mean(dim=(0, 1))
        network.head.bias[0] += 4
    save_model(str(made / "model"), "counter", network, metrics={}, card="", pixel_scale=1 / 255)
    model = load_model(str(made / "model"))
    for told in ({}, {"num_digits": 2}):
        commit_scores(made / "archive", made / "scores", model, chunk_images=CHUNK_IMAGES, **told)
    return made


def pixels_of(archive: Path) -> np.ndarray:
    tables = [pq.read_table(path, columns=["image"]) for path in sorted(archive.glob("*.parquet"))]
    images = pa.concat_tables(tables)["image"].drop_null().to_pylist()
    return np.frombuffer(b"".join(images), np.uint8).reshape(-1, SHAPE.height, SHAPE.width).copy()


@pytest.fixture
def place(made, tmp_path) -> Path:
    """Copy what was made, times too, so that it can be broken."""
    return shutil.copytree(made, tmp_path / "place", copy_function=shutil.copy2)


def verified(place: Path, **options) -> Verified:
    config = VerifyConfig(
        archive=str(place / "archive"),
        scores=str(place / "scores"),
        model=str(place / "model"),
        **{"chunk_images": CHUNK_IMAGES, **options},
    )
    return verify(config)


def part_of(place: Path, shard: int, first_row: int) -> Path:
    directory = f"model={load_model(str(place / 'model')).digest[:16]}"
    (path,) = (place / "scores" / directory / f"shard-{shard:05d}").glob(f"rows-{first_row:012d}-*")
    return path


def name_of(part: Path) -> str:
    return "/".join(part.parts[-3:])


def rewrite(part: Path, **columns) -> None:
    """Write other values into columns of a part; its metadata stay."""
    table = pq.read_table(part, partitioning=None)
    for name, change in columns.items():
        number = table.schema.names.index(name)
        field = table.schema.field(number)
        values = change(table.column(name).to_pylist())
        table = table.set_column(number, field, pa.array(values, field.type))
    pq.write_table(table, part)


def swapped(values: list) -> list:
    return [values[1], values[0], *values[2:]]


def test_scores_as_they_were_committed_have_no_fault(place):
    assert verified(place) == Verified(4, NUM_IMAGES, 1, NUM_IMAGES - 1, ())
    assert verified(place, known_count=2) == Verified(4, NUM_IMAGES, 1, NUM_IMAGES - 1, ())


def test_the_images_are_worth_testing_with(place):
    sums = pq.read_table(part_of(place, 1, 0))["predicted_sum"].to_pylist()
    assert len(set(sums)) > 2


def test_verifying_changes_nothing(place, content):
    before = content(place)
    verified(place)
    assert content(place) == before


@pytest.mark.parametrize(("sample", "least", "most"), [(0, 0, 0), (1, 3, 4), (8, 8, 12)])
def test_a_sample_is_spread_over_the_chunks(place, sample, least, most):
    found = verified(place, sample=sample)
    assert least <= found.num_recomputed <= most
    assert (found.num_images, found.faults) == (NUM_IMAGES, ())


def test_a_part_that_is_missing_is_named(place):
    part_of(place, 0, 8).unlink()
    found = verified(place)
    assert found.faults == (
        "shard-00000.parquet, rows from 8 on: no current scores: not scored yet",
    )
    assert (found.num_chunks, found.num_images) == (3, NUM_IMAGES - 7)


def test_scores_of_which_there_are_none_are_named_chunk_by_chunk(place):
    shutil.rmtree(place / "scores")
    found = verified(place)
    assert (found.num_chunks, found.num_images, found.num_recomputed) == (0, 0, 0)
    assert len(found.faults) == 4


def test_a_part_that_is_broken_is_named(place):
    part = part_of(place, 1, 0)
    part.write_bytes(part.read_bytes()[:-9])
    (fault,) = verified(place).faults
    assert fault == (
        "shard-00001.parquet, rows from 0 on: no current scores: "
        "the part is broken, or of another format"
    )


def test_a_part_whose_data_cannot_be_read_is_named(place):
    part = part_of(place, 1, 0)
    data = bytearray(part.read_bytes())
    data[4:200] = b"\xff" * 196
    part.write_bytes(data)
    (fault,) = verified(place).faults
    assert fault.startswith(f"{name_of(part)}: cannot be checked: ")


def test_ids_that_are_swapped_are_named(place):
    part = part_of(place, 0, 8)
    rewrite(part, image_id=swapped)
    assert verified(place, sample=0).faults == (
        f"{name_of(part)}: its ids from row 8 on are not the shard's",
    )


def test_rows_that_are_swapped_as_a_whole_are_named(place):
    part = part_of(place, 0, 8)
    table = pq.read_table(part, partitioning=None)
    order = [1, 0, *range(2, table.num_rows)]
    pq.write_table(table.take(order), part)
    assert f"{name_of(part)}: its ids from row 8 on are not the shard's" in verified(place).faults


def test_a_sum_that_was_changed_is_named_with_its_row(place):
    part = part_of(place, 1, 8)
    said = pq.read_table(part)["predicted_sum"][2].as_py()
    rewrite(part, predicted_sum=lambda sums: [*sums[:2], sums[2] + 1, *sums[3:]])
    assert verified(place).faults == (
        f"{name_of(part)}: row 10 has the sum {said + 1}; scored again, it has {said}",
    )
    assert verified(place, sample=0).faults == ()


def test_of_two_sums_as_probable_either_will_do_but_none_with_another_confidence(
    place, monkeypatch
):
    part = part_of(place, 1, 8)
    row = pq.read_table(part)
    said, confidence = row["predicted_sum"][2].as_py(), row["confidence"][2].as_py()
    rewrite(part, predicted_sum=lambda sums: [*sums[:2], said - 1, *sums[3:]])
    # So far apart may two probabilities be from here on: these two are as near as that.
    monkeypatch.setattr(verify_module, "_CONFIDENCE_TOLERANCE", 1.01 * confidence)
    assert verified(place).faults == ()
    rewrite(part, confidence=lambda values: [*values[:2], 3 * confidence, *values[3:]])
    assert len(verified(place).faults) == 1


@pytest.mark.parametrize(
    ("above", "num_faults"), [(0.0005, 0), (0.05, 1)], ids=["rounding decides", "surely again"]
)
def test_one_look_will_do_where_rounding_decides_whether_there_was_a_second(
    place, commit_scores, above, num_faults
):
    once = pq.read_table(part_of(place, 1, 8), partitioning=None)
    old = load_model(str(place / "model"))
    save_model(
        str(place / "model"),
        "counter",
        old.network,
        metrics={},
        card="",
        pixel_scale=old.pixel_scale,
        cascade_below=once["confidence"][2].as_py() + above,
    )
    model = load_model(str(place / "model"))
    commit_scores(place / "archive", place / "scores", model, chunk_images=CHUNK_IMAGES)
    assert verified(place).faults == ()
    part = part_of(place, 1, 8)
    assert pq.read_table(part)["confidence"][2] != once["confidence"][2]
    of_once = {name: once[name][2].as_py() for name in ("predicted_sum", "confidence")}
    rewrite(
        part,
        predicted_sum=lambda sums: [*sums[:2], of_once["predicted_sum"], *sums[3:]],
        confidence=lambda values: [*values[:2], of_once["confidence"], *values[3:]],
    )
    assert len(verified(place).faults) == num_faults


@pytest.mark.parametrize("now", [0.0, 1.0, None, float("nan")], ids=str)
def test_a_confidence_that_was_changed_is_named_with_its_row(place, now):
    part = part_of(place, 1, 8)
    confidence = pq.read_table(part)["confidence"][2].as_py()
    assert 0.002 < confidence < 0.998
    rewrite(part, confidence=lambda values: [*values[:2], now, *values[3:]])
    (fault,) = verified(place).faults
    assert fault.startswith(f"{name_of(part)}: row 10 ")


def test_a_sum_that_was_taken_away_is_named_with_its_row(place):
    part = part_of(place, 1, 8)
    rewrite(part, predicted_sum=lambda sums: [None, *sums[1:]])
    (fault,) = verified(place).faults
    assert fault.startswith(f"{name_of(part)}: row 8 has the sum None; ")


@pytest.mark.parametrize("row", [0, 3])
def test_a_row_that_is_rejected_or_not_other_than_its_image_is_named(place, row):
    part = part_of(place, 0, 0)
    rewrite(
        part,
        error=lambda errors: [*errors[:row], None if errors[row] else "no", *errors[row + 1 :]],
    )
    said = f"{name_of(part)}: from row 0 on, other rows are rejected"
    assert said in verified(place, sample=0).faults


@pytest.mark.parametrize("num_rows", [6, 9, 16])
def test_a_part_of_more_or_fewer_rows_than_its_chunk_is_named(place, num_rows):
    part = part_of(place, 1, 0)
    table = pq.read_table(part, partitioning=None)
    assert table.num_rows == 8
    rows = np.arange(num_rows) % 8
    pq.write_table(table.take(rows), part)
    faults = verified(place).faults
    assert faults
    assert all(fault.startswith(f"{name_of(part)}: ") for fault in faults)


def test_a_number_of_rejected_rows_that_is_not_that_of_the_part_is_named(place):
    part = part_of(place, 1, 0)
    table = pq.read_table(part, partitioning=None)
    metadata = table.schema.metadata | {b"digitsum.num_rejected": b"5"}
    pq.write_table(table.replace_schema_metadata(metadata), part)
    assert verified(place).faults


def test_a_part_of_other_columns_is_named(place):
    part = part_of(place, 1, 0)
    table = pq.read_table(part, partitioning=None).drop_columns(["digits"])
    pq.write_table(table, part)
    assert verified(place).faults == (f"{name_of(part)}: its columns are not those of scores",)


def test_a_part_of_another_chunk_in_its_place_is_named(place):
    shutil.copy2(part_of(place, 0, 0), part_of(place, 1, 0))
    (fault,) = verified(place).faults
    assert fault.startswith("shard-00001.parquet, rows from 0 on: no current scores: ")


def test_a_part_of_other_bytes_is_named(place, commit_scores, tmp_path):
    older = shutil.copytree(place / "archive", tmp_path / "older", copy_function=shutil.copy2)
    path = older / "shard-00001.parquet"
    os.utime(path, ns=(path.stat().st_mtime_ns - 1, path.stat().st_mtime_ns - 1))
    model = load_model(str(place / "model"))
    commit_scores(older, place / "scores", model, chunk_images=CHUNK_IMAGES)
    changed = "no current scores: the shard's bytes changed, or how they are read"
    assert verified(place).faults == (
        f"shard-00001.parquet, rows from 0 on: {changed}",
        f"shard-00001.parquet, rows from 8 on: {changed}",
    )


def test_a_part_too_many_is_named(place):
    part = part_of(place, 0, 0)
    extra = part.with_name("rows-000000000099-000000000107.parquet")
    shutil.copy2(part, extra)
    gone = part.parent.parent / "gone" / part.name
    gone.parent.mkdir()
    shutil.copy2(part, gone)
    assert verified(place).faults == (
        f"{name_of(gone)}: is a part, but the shard is gone",
        f"{name_of(extra)}: is a part, but the shard has other rows now, or is cut otherwise",
    )


def test_a_shard_that_was_changed_is_named(place, write_parquet):
    path = place / "archive" / "shard-00001.parquet"
    table = pq.read_table(path)
    columns = {"image_id": table["image_id"], "image": list(reversed(table["image"].to_pylist()))}
    write_parquet(
        path, columns, metadata=table.schema.metadata, row_group_size=4, compression="none"
    )
    faults = verified(place).faults
    assert [fault.partition(": ")[0] for fault in faults] == [
        "shard-00001.parquet, rows from 0 on",
        "shard-00001.parquet, rows from 8 on",
    ]


def test_a_shard_whose_bytes_changed_behind_its_time_and_size_is_named(place, write_parquet):
    path = place / "archive" / "shard-00001.parquet"
    before, table = path.stat(), pq.read_table(path)
    columns = {"image_id": table["image_id"], "image": list(reversed(table["image"].to_pylist()))}
    write_parquet(
        path, columns, metadata=table.schema.metadata, row_group_size=4, compression="none"
    )
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    faults = verified(place).faults
    assert faults
    assert all("/shard-00001/" in fault and "scored again" in fault for fault in faults)


@pytest.mark.parametrize(("name", "is_new"), [("shard-00001.parquet", False), ("z.parquet", True)])
def test_a_shard_that_cannot_be_read_is_named(place, name, is_new):
    (place / "archive" / name).write_text("no Parquet")
    (fault,) = verified(place).faults
    assert fault.startswith(f"{name}: ")
    assert "not a whole Parquet file" in fault
    assert verified(place).num_chunks == (4 if is_new else 2)


def test_a_shard_that_was_added_or_removed_is_named(place):
    path = place / "archive" / "shard-00001.parquet"
    path.rename(path.with_name("shard-00002.parquet"))
    kinds = [fault.rpartition(": ")[2] for fault in verified(place).faults]
    assert kinds == ["is a part, but the shard is gone"] * 2 + ["not scored yet"] * 2


def test_scores_of_another_model_or_of_one_told_otherwise_are_not_these(place):
    digest = known_count_digest(load_model(str(place / "model")).digest, 2)
    directory = place / "scores" / model_directory(digest)
    assert directory.is_dir()
    shutil.rmtree(directory)
    assert verified(place).faults == ()
    assert len(verified(place, known_count=2).faults) == 4


def test_scores_cut_into_other_chunks_are_not_these(place):
    faults = verified(place, chunk_images=NUM_IMAGES).faults
    assert [fault for fault in faults if "not scored yet" in fault]
    assert [fault for fault in faults if "cut otherwise" in fault]


def test_no_more_than_20_faults_are_told(place):
    for shard in (0, 1):
        for first_row in (0, 8):
            rewrite(part_of(place, shard, first_row), predicted_sum=lambda sums: [99] * len(sums))
    assert len(verified(place).faults) == 20


def test_what_is_no_archive_or_no_bundle_is_refused(place):
    for name in ("archive", "model"):
        (place / name).rename(place / "elsewhere")
        with pytest.raises(InputError):
            verified(place)
        (place / "elsewhere").rename(place / name)


def test_as_one_object_it_has_counts_and_faults(place):
    part_of(place, 0, 8).unlink()
    found = verified(place)
    assert found.to_json() == {
        "chunks": 3,
        "images": NUM_IMAGES - 7,
        "rejected": 1,
        "recomputed": NUM_IMAGES - 8,
        "faults": list(found.faults),
    }


def test_a_chunk_that_a_run_rejected_is_said_to_be_so_and_why(place):
    model = load_model(str(place / "model"))
    shard, first_row = "shard-00001.parquet", 8
    part_of(place, 1, first_row).unlink()
    assert "not scored yet" in verified(place).faults[0]
    for night, digest in (("1", model.digest), ("2", "another model")):
        run = place / "scores" / "_runs" / f"score-2026010{night}T000000.000000Z"
        run.mkdir(parents=True)
        chunk = {"shard": shard, "first_row": first_row, "reason": f"bad bytes by {digest}"}
        outcome = {"model_digest": digest, "chunks": [chunk]}
        (run / "manifest.json").write_text(json.dumps({"outcome": outcome}))
    [fault] = verified(place).faults
    assert fault == (
        f"{shard}, rows from {first_row} on: no current scores: rejected by "
        f"score-20260101T000000.000000Z: bad bytes by {model.digest}"
    )
