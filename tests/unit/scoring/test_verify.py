import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from factories import commit_scores, make_counter, read_files, write_parquet

from digitsum.archive.score_parts import known_count_digest, model_directory, read_part
from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main
from digitsum.errors import InputError
from digitsum.model.saved_model import load_model, save_model
from digitsum.options import ImageShape
from digitsum.scoring import verify as verify_module
from digitsum.scoring.config import VerifyConfig
from digitsum.scoring.plan import BROKEN, NOT_SCORED, OTHER_ROWS, SHARD_GONE
from digitsum.scoring.plan import BYTES_CHANGED as CHANGED
from digitsum.scoring.verify import REMEDY, Verification, verify
from digitsum.storage.location import locate

CHUNK_IMAGES = 8
SHAPE = ImageShape(28, 60)
NUM_IMAGES = 29


@pytest.fixture(scope="module")
def made(tmp_path_factory, glyph_file) -> Path:
    """Make an archive of 2 shards, one of them with an image that is null, a model, and scores."""
    made = tmp_path_factory.mktemp("made")
    size = {"height": SHAPE.height, "width": SHAPE.width, "images": NUM_IMAGES}
    synth(SynthConfig(out=str(made / "archive"), shards=2, digits=2, glyphs=glyph_file, **size))
    for path in (made / "archive").glob("*.parquet"):  # cut into several chunks each
        table = pq.read_table(path)
        images = table["image"].to_pylist()
        images[3] = None if "00000" in path.name else images[3]
        columns = {"image_id": table["image_id"], "image": pa.array(images, pa.binary())}
        metadata = table.schema.metadata
        write_parquet(path, columns, metadata=metadata, row_group_size=4, compression="none")
    sizes = {"stem_channels": 4, "body_channels": 6, "row_channels": 8, "column_channels": 10}
    network = make_counter(SHAPE.height, SHAPE.width, 2, max_digits=3, num_mixers=1, **sizes)
    images = torch.tensor(pixels_of(made / "archive")).unsqueeze(1) / 255
    with torch.no_grad():  # make the sums differ from image to image
        for _ in range(20):
            network.train()(images)
        network.eval().head.weight *= 1000
        network.head.bias -= network(images).mean(dim=(0, 1))
        network.head.bias[0] += 4
    save_model(str(made / "model"), "counter", network, metrics={}, card="", pixel_scale=1 / 255)
    model = load_model(str(made / "model"))
    for known in ({}, {"known_count": 2}):
        commit_scores(made / "archive", made / "scores", model, chunk_images=CHUNK_IMAGES, **known)
    return made


def pixels_of(archive: Path) -> np.ndarray:
    tables = [pq.read_table(path, columns=["image"]) for path in sorted(archive.glob("*.parquet"))]
    images = pa.concat_tables(tables)["image"].drop_null().to_pylist()
    return np.frombuffer(b"".join(images), np.uint8).reshape(-1, SHAPE.height, SHAPE.width).copy()


@pytest.fixture
def place(made, tmp_path) -> Path:
    """Copy what was made, times too, so that it can be broken."""
    return shutil.copytree(made, tmp_path / "place", copy_function=shutil.copy2)


def verified(place: Path, **options) -> Verification:
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


def edit(part: Path, row: int, **values) -> None:
    """Write other values into one row of a part."""
    rewrite(
        part,
        **{
            name: lambda old, value=value: [*old[:row], value, *old[row + 1 :]]
            for name, value in values.items()
        },
    )


def replace_images(place: Path, write_parquet) -> Path:
    """Turn the order of a shard's images around; return its path."""
    path = place / "archive" / "shard-00001.parquet"
    table = pq.read_table(path)
    images = list(reversed(table["image"].to_pylist()))
    columns = {"image_id": table["image_id"], "image": images}
    metadata = table.schema.metadata
    write_parquet(path, columns, metadata=metadata, row_group_size=4, compression="none")
    return path


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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda part: part.unlink(), NOT_SCORED),
        (lambda part: part.write_bytes(part.read_bytes()[:-9]), BROKEN),
        (lambda part: shutil.copy2(next(part.parent.glob("rows-000000000000-*")), part), CHANGED),
    ],
)
def test_verify_no_current_scores(place, change, reason):
    change(part_of(place, 0, 8))
    fault = f"shard-00000.parquet, rows from 8 on: no current scores: {reason}"
    assert verified(place).to_json() == {
        "chunks": 3,
        "images": NUM_IMAGES - 7,
        "rejected": 1,
        "recomputed": NUM_IMAGES - 8,
        "faults": (fault,),
    }


def overwrite(part: Path) -> None:
    data = part.read_bytes()
    part.write_bytes(data[:4] + b"\xff" * 196 + data[200:])


def take_rows(part: Path, num_rows: int) -> None:
    table = pq.read_table(part, partitioning=None)
    pq.write_table(table.take(np.arange(num_rows) % table.num_rows), part)


def describe_otherwise(part: Path) -> None:
    table = pq.read_table(part, partitioning=None)
    described = json.loads(table.schema.metadata[b"digitsum.part"]) | {"num_rejected": 5}
    pq.write_table(table.replace_schema_metadata({"digitsum.part": json.dumps(described)}), part)


def drop_column(part: Path) -> None:
    pq.write_table(pq.read_table(part, partitioning=None).drop_columns(["digits"]), part)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        *[
            (lambda part, value=value: edit(part, 2, confidence=value), "row 10 has the sum ")
            for value in (0.0, 1.0, None, float("nan"))
        ],
        (lambda part: edit(part, 2, predicted_sum=None), "row 10 has the sum None"),
        (lambda part: edit(part, 0, error="no"), "from row 8 on, other rows are rejected"),
        *[
            (
                lambda part, number=number: take_rows(part, number),
                f"it has {number} rows, and the chunk 6",
            )
            for number in (5, 7, 12)
        ],
        (describe_otherwise, "it says 5 rows are rejected, and 0 are"),
        (drop_column, "its columns are not those of scores"),
        (overwrite, "cannot be checked: "),
    ],
)
def test_verify_part_changed(place, change, fault):
    part = part_of(place, 1, 8)
    assert 0.002 < pq.read_table(part)["confidence"][2].as_py() < 0.998
    change(part)
    faults = verified(place).faults
    assert all(found.startswith(f"{name_of(part)}: ") for found in faults)
    assert any(fault in found for found in faults)


def test_verify_rejected_row_scored(place):
    part = part_of(place, 0, 0)
    edit(part, 3, error=None)
    fault = f"{name_of(part)}: from row 0 on, other rows are rejected"
    assert fault in verified(place, sample=0).faults


def test_verify_rows_swapped(place):
    part = part_of(place, 0, 8)
    table = pq.read_table(part, partitioning=None)
    order = [1, 0, *range(2, table.num_rows)]
    rewrite(part, image_id=lambda ids: [ids[row] for row in order])
    fault = f"{name_of(part)}: its ids from row 8 on are not the shard's"
    assert verified(place, sample=0).faults == (fault,)
    pq.write_table(table.take(order), part)
    assert fault in verified(place).faults


def test_verify_sum_changed(place):
    part = part_of(place, 1, 8)
    right = pq.read_table(part)["predicted_sum"][2].as_py()
    edit(part, 2, predicted_sum=right + 1)
    assert verified(place).faults == (
        f"{name_of(part)}: row 10 has the sum {right + 1}; scored again, it has {right}",
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
    save_model(
        str(place / "model"),
        "counter",
        old.network,
        metrics={},
        card="",
        pixel_scale=old.pixel_scale,
        cascade_below=fast["confidence"][2].as_py() + above,
    )
    model = load_model(str(place / "model"))
    commit_scores(place / "archive", place / "scores", model, chunk_images=CHUNK_IMAGES)
    assert verified(place).faults == ()
    part = part_of(place, 1, 8)
    assert pq.read_table(part)["confidence"][2] != fast["confidence"][2]
    edit(part, 2, **{name: fast[name][2].as_py() for name in ("predicted_sum", "confidence")})
    assert len(verified(place).faults) == num_faults


def test_verify_part_of_older_bytes(place, tmp_path):
    older = shutil.copytree(place / "archive", tmp_path / "older", copy_function=shutil.copy2)
    path = older / "shard-00001.parquet"
    os.utime(path, ns=(path.stat().st_mtime_ns - 1, path.stat().st_mtime_ns - 1))
    model = load_model(str(place / "model"))
    commit_scores(older, place / "scores", model, chunk_images=CHUNK_IMAGES)
    assert verified(place).faults == tuple(
        f"shard-00001.parquet, rows from {row} on: no current scores: {CHANGED}" for row in (0, 8)
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
    replace_images(place, write_parquet)
    assert [fault.partition(": ")[0] for fault in verified(place).faults] == [
        "shard-00001.parquet, rows from 0 on",
        "shard-00001.parquet, rows from 8 on",
    ]


def test_verify_shard_changed_same_time_and_size(place):
    before = (place / "archive/shard-00001.parquet").stat()
    path = replace_images(place, write_parquet)
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
            rewrite(part_of(place, shard, first_row), predicted_sum=lambda sums: [99] * len(sums))
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
    command = (
        f"verify --archive {place}/archive --scores {place}/scores --model {place}/model "
        f"--chunk-images {CHUNK_IMAGES}"
    )
    assert main(command.split()) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{name_of(part)}: row 10 has the sum 99")
    assert printed.err.rstrip().endswith(f"{REMEDY}.")
