import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from factories import commit_scores, make_counter, read_files, write_model, write_parquet

from digitsum.archive.score_parts import known_count_digest, model_directory, read_part
from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main
from digitsum.errors import InputError
from digitsum.model.saved_model import load_model
from digitsum.options import ImageShape
from digitsum.scoring import verify as verify_module
from digitsum.scoring.config import VerifyConfig
from digitsum.scoring.plan import OTHER_ROWS, SHARD_GONE
from digitsum.scoring.verify import REMEDY, Verification, verify
from digitsum.storage.location import locate

CHUNK_IMAGES = 8
SHAPE = ImageShape(28, 60)
NUM_IMAGES = 29


def change_images(shard: Path, change: Callable[[list], list]) -> None:
    """Write a shard with other images, in row groups of 4 rows."""
    table = pq.read_table(shard)
    images = pa.array(change(table["image"].to_pylist()), pa.binary())
    columns = {"image_id": table["image_id"], "image": images}
    options = {"metadata": table.schema.metadata, "row_group_size": 4, "compression": "none"}
    write_parquet(shard, columns, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory, glyph_file) -> Path:
    """Make an archive of 2 shards, one of them with an image that is null, a model, and scores."""
    made = tmp_path_factory.mktemp("made")
    shape = {"height": SHAPE.height, "width": SHAPE.width}
    options = {"images": NUM_IMAGES, "shards": 2, "digits": 2, "glyphs": glyph_file, **shape}
    synth(SynthConfig(out=str(made / "archive"), **options))
    change_images(made / "archive/shard-00000.parquet", lambda old: [*old[:3], None, *old[4:]])
    change_images(made / "archive/shard-00001.parquet", lambda old: old)
    images = pq.read_table(made / "archive")["image"].drop_null().to_pylist()
    pixels = np.frombuffer(b"".join(images), np.uint8).reshape(-1, 1, SHAPE.height, SHAPE.width)
    images = torch.tensor(pixels) / 255
    sizes = {"stem_channels": 4, "body_channels": 6, "row_channels": 8, "column_channels": 10}
    network = make_counter(SHAPE.height, SHAPE.width, 2, max_digits=3, num_mixers=1, **sizes)
    with torch.no_grad():  # make the sums differ from image to image
        for _ in range(20):
            network.train()(images)
        network.eval().head.weight *= 1000
        network.head.bias -= network(images).mean(dim=(0, 1))
        network.head.bias[0] += 4
    write_model(made / "model", network)
    for known in ({}, {"known_count": 2}):
        score(made, **known)
    return made


def score(place: Path, **options) -> None:
    model = load_model(str(place / "model"))
    commit_scores(place / "archive", place / "scores", model, chunk_images=CHUNK_IMAGES, **options)


@pytest.fixture
def place(made, tmp_path) -> Path:
    """Copy what was made, times too, so that it can be broken."""
    return shutil.copytree(made, tmp_path / "place", copy_function=shutil.copy2)


def verified(place: Path, **options) -> Verification:
    places = {name: str(place / name) for name in ("archive", "scores", "model")}
    return verify(VerifyConfig(**places, **{"chunk_images": CHUNK_IMAGES, **options}))


def part_of(place: Path, shard: int, first_row: int) -> Path:
    directory = f"model={load_model(str(place / 'model')).digest[:16]}"
    (path,) = (place / "scores" / directory / f"shard-{shard:05d}").glob(f"rows-{first_row:012d}-*")
    return path


def name_of(part: Path) -> str:
    return "/".join(part.parts[-3:])


def edit(part: Path, row: int | None = None, **values) -> None:
    """Write values into one row of a part, or into all; its metadata stay."""
    table = pq.read_table(part, partitioning=None)
    columns = table.to_pydict()
    for name, value in values.items():
        columns[name] = [
            value if row in (None, number) else old for number, old in enumerate(columns[name])
        ]
    pq.write_table(pa.table(columns, table.schema), part)


def test_verify_scores_as_committed(place):
    before = read_files(place)
    for options in ({}, {"known_count": 2}):
        expected = Verification(4, NUM_IMAGES, 1, NUM_IMAGES - 1, ())
        assert verified(place, **options) == expected
    assert read_files(place) == before
    sums = pq.read_table(part_of(place, 1, 0))["predicted_sum"].to_pylist()
    assert len(set(sums)) > 2  # else the tests below test nothing


@pytest.mark.parametrize(("sample", "least", "most"), [(0, 0, 0), (1, 3, 4), (8, 8, 12)])
def test_verify_sample_spread_over_chunks(place, sample, least, most):
    found = verified(place, sample=sample)
    assert least <= found.num_recomputed <= most
    assert (found.num_images, found.faults) == (NUM_IMAGES, ())


def test_verify_parts_missing(place):
    part_of(place, 0, 8).unlink()
    fault = "shard-00000.parquet, rows from 8 on: no current scores: not scored yet"
    assert verified(place).to_json() == {
        "chunks": 3,
        "images": NUM_IMAGES - 7,
        "rejected": 1,
        "recomputed": NUM_IMAGES - 8,
        "faults": (fault,),
    }
    shutil.rmtree(place / "scores")
    found = verified(place)
    assert (found.num_chunks, found.num_images, found.num_recomputed) == (0, 0, 0)
    assert len(found.faults) == 4


def test_verify_part_damaged(place):
    cut_short, damaged = part_of(place, 0, 0), part_of(place, 1, 0)
    cut_short.write_bytes(cut_short.read_bytes()[:-9])
    data = bytearray(damaged.read_bytes())
    data[4:200] = b"\xff" * 196
    damaged.write_bytes(data)
    broken = "no current scores: the part is broken, or of another format"
    first, second = verified(place).faults
    assert first == f"shard-00000.parquet, rows from 0 on: {broken}"
    assert second.startswith(f"{name_of(damaged)}: cannot be checked: ")


def test_verify_rows_swapped(place):
    part = part_of(place, 0, 8)
    table = pq.read_table(part, partitioning=None)
    order = [1, 0, *range(2, table.num_rows)]
    ids = table["image_id"].take(order)
    pq.write_table(table.set_column(0, table.schema.field("image_id"), ids), part)
    fault = f"{name_of(part)}: its ids from row 8 on are not the shard's"
    assert verified(place, sample=0).faults == (fault,)
    pq.write_table(table.take(order), part)
    assert fault in verified(place).faults


@pytest.mark.parametrize(
    "values",
    [
        *({"predicted_sum": value} for value in (99, None)),
        *({"confidence": value} for value in (0.0, 1.0, None, float("nan"))),
    ],
    ids=str,
)
def test_verify_row_changed(place, values):
    part = part_of(place, 1, 8)
    row = pq.read_table(part).slice(2, 1).to_pylist()[0]
    assert 0.002 < row["confidence"] < 0.998
    edit(part, 2, **values)
    (fault,) = verified(place).faults
    recorded, right = (row | values)["predicted_sum"], row["predicted_sum"]
    assert fault == (
        f"{name_of(part)}: row 10 has the sum {recorded}; scored again, it has {right}"
    )
    assert verified(place, sample=0).faults == ()


def test_verify_equally_probable_sums(place, monkeypatch):
    part = part_of(place, 1, 8)
    row = pq.read_table(part)
    right, confidence = row["predicted_sum"][2].as_py(), row["confidence"][2].as_py()
    edit(part, 2, predicted_sum=right - 1)
    # Two probabilities that differ by less than this are equal from here on; these do.
    monkeypatch.setattr(verify_module, "_CONFIDENCE_TOLERANCE", 1.01 * confidence)
    assert verified(place).faults == ()
    edit(part, 2, confidence=3 * confidence)
    assert len(verified(place).faults) == 1


@pytest.mark.parametrize(
    ("above", "num_faults"), [(0.0005, 0), (0.05, 1)], ids=["rounding decides", "certain"]
)
def test_verify_fast_pass_of_cascade(place, above, num_faults):
    fast = pq.read_table(part_of(place, 1, 8), partitioning=None)
    old = load_model(str(place / "model"))
    below = fast["confidence"][2].as_py() + above
    write_model(place / "model", old.network, pixel_scale=old.pixel_scale, cascade_below=below)
    score(place)
    assert verified(place).faults == ()
    part = part_of(place, 1, 8)
    assert pq.read_table(part)["confidence"][2] != fast["confidence"][2]
    edit(part, 2, **{name: fast[name][2].as_py() for name in ("predicted_sum", "confidence")})
    assert len(verified(place).faults) == num_faults


@pytest.mark.parametrize(("row", "error"), [(0, "no"), (3, None)])
def test_verify_other_rows_rejected(place, row, error):
    part = part_of(place, 0, 0)
    edit(part, row, error=error)
    fault = f"{name_of(part)}: from row 0 on, other rows are rejected"
    assert fault in verified(place, sample=0).faults


@pytest.mark.parametrize("num_rows", [6, 9, 16])
def test_verify_other_number_of_rows(place, num_rows):
    part = part_of(place, 1, 0)
    table = pq.read_table(part, partitioning=None)
    assert table.num_rows == 8
    pq.write_table(table.take(np.arange(num_rows) % 8), part)
    faults = verified(place).faults
    assert faults
    assert all(fault.startswith(f"{name_of(part)}: ") for fault in faults)


def test_verify_other_number_of_rejects(place):
    part = part_of(place, 1, 0)
    table = pq.read_table(part, partitioning=None)
    described = json.loads(table.schema.metadata[b"digitsum.part"]) | {"num_rejected": 5}
    metadata = {b"digitsum.part": json.dumps(described)}
    pq.write_table(table.replace_schema_metadata(metadata), part)
    fault = f"{name_of(part)}: it says 5 rows are rejected, and 0 are"
    assert verified(place).faults == (fault,)


def test_verify_part_of_other_kind(place):
    part = part_of(place, 1, 8)
    pq.write_table(pq.read_table(part, partitioning=None).drop_columns(["digits"]), part)
    shutil.copy2(part_of(place, 0, 0), part_of(place, 1, 0))
    other_chunk, other_columns = verified(place).faults
    assert other_chunk.startswith("shard-00001.parquet, rows from 0 on: no current scores: ")
    assert other_columns == f"{name_of(part)}: its columns are not those of scores"


def test_verify_part_of_older_bytes(place):
    path = place / "archive/shard-00001.parquet"
    time_ns = path.stat().st_mtime_ns
    os.utime(path, ns=(time_ns - 1, time_ns - 1))
    score(place)
    os.utime(path, ns=(time_ns, time_ns))
    changed = "no current scores: the shard's bytes changed, or how they are read"
    assert verified(place).faults == tuple(
        f"shard-00001.parquet, rows from {row} on: {changed}" for row in (0, 8)
    )


def test_verify_parts_too_many(place):
    part = part_of(place, 0, 0)
    extra = part.with_name("rows-000000000099-000000000107.parquet")
    shutil.copy2(part, extra)
    gone = part.parent.parent / "gone" / part.name
    gone.parent.mkdir()
    shutil.copy2(part, gone)
    assert verified(place).faults == (
        f"{name_of(gone)}: is a part, but {SHARD_GONE}",
        f"{name_of(extra)}: is a part, but {OTHER_ROWS}",
    )


def test_verify_shard_changed(place):
    path = place / "archive/shard-00001.parquet"
    before = path.stat()
    change_images(path, lambda images: images[::-1])
    assert [fault.partition(": ")[0] for fault in verified(place).faults] == [
        "shard-00001.parquet, rows from 0 on",
        "shard-00001.parquet, rows from 8 on",
    ]
    # If size and time are the same, only scoring again notices.
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    faults = verified(place).faults
    assert faults
    assert all("/shard-00001/" in fault and "scored again" in fault for fault in faults)


@pytest.mark.parametrize(
    ("name", "num_chunks"), [("shard-00001.parquet", 2), ("z.parquet", 4)], ids=["old", "new"]
)
def test_verify_shard_no_parquet(place, name, num_chunks):
    (place / "archive" / name).write_text("no Parquet")
    found = verified(place)
    (fault,) = found.faults
    assert fault.startswith(f"{name}: ")
    assert "not a whole Parquet file" in fault
    assert found.num_chunks == num_chunks


def test_verify_shard_renamed(place):
    path = place / "archive" / "shard-00001.parquet"
    path.rename(path.with_name("shard-00002.parquet"))
    kinds = [fault.rpartition(": ")[2] for fault in verified(place).faults]
    assert kinds == [f"is a part, but {SHARD_GONE}"] * 2 + ["not scored yet"] * 2


def test_verify_other_known_count(place):
    digest = known_count_digest(load_model(str(place / "model")).digest, 2)
    shutil.rmtree(place / "scores" / model_directory(digest))
    assert verified(place).faults == ()
    assert len(verified(place, known_count=2).faults) == 4


def test_verify_other_chunks(place):
    faults = verified(place, chunk_images=NUM_IMAGES).faults
    assert any("not scored yet" in fault for fault in faults)
    assert any(OTHER_ROWS in fault for fault in faults)


def test_verify_at_most_20_faults(place):
    for shard in (0, 1):
        for first_row in (0, 8):
            edit(part_of(place, shard, first_row), predicted_sum=99)
    assert len(verified(place).faults) == 20


@pytest.mark.parametrize("name", ["archive", "model"])
def test_verify_nothing_there(place, name):
    (place / name).rename(place / "elsewhere")
    with pytest.raises(InputError):
        verified(place)


def test_verify_rejected_chunk(place, monkeypatch):
    digest = load_model(str(place / "model")).digest
    part = part_of(place, 1, 8)
    chunk = read_part(locate(str(part))).chunk
    part.unlink()
    asked = []
    monkeypatch.setattr(
        verify_module,
        "failed_chunks",
        lambda scores, digest: asked.append(digest) or {chunk: "rejected by score-1: bad bytes"},
    )
    assert verified(place).faults == (
        "shard-00001.parquet, rows from 8 on: no current scores: rejected by score-1: bad bytes",
    )
    assert asked == [digest]


def test_verify_command_says_remedy(place, capsys):
    part = part_of(place, 1, 8)
    edit(part, 2, predicted_sum=99)
    command = " ".join(f"--{name} {place}/{name}" for name in ("archive", "scores", "model"))
    command = f"verify {command} --chunk-images {CHUNK_IMAGES}"
    assert main(command.split()) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{name_of(part)}: row 10 has the sum 99")
    assert printed.err.rstrip().endswith(f"{REMEDY}.")
