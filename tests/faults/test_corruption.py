"""Bytes of shards are flipped, and shards cut short, seeded: no crash, and no row is lost."""

import contextlib
import json
import os
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from without_ray import run_here

from digitsum.archive.synth import SynthConfig, synth
from digitsum.model.saved_model import load_model
from digitsum.model.torch_backend import TorchPredictor

PLACES = int(os.environ.get("DIGITSUM_PLACES", "120"))
IMAGES, SHARDS, ROWS_OF_GROUP = 60, 3, 20
HURT = "shard-00001.parquet"


@pytest.fixture(scope="module")
def archive(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("corrupted") / "archive"
    config = SynthConfig(
        out=str(out), images=IMAGES * SHARDS, shards=SHARDS, digits=2, width=96, unlabelled=True
    )
    synth(config)
    for shard in out.glob("*.parquet"):
        pq.write_table(pq.read_table(shard), shard, row_group_size=ROWS_OF_GROUP)
    return out


def scored(scores):
    tables = {}
    for part in sorted(scores.glob("model=*/**/rows-*")):
        table = pq.read_table(part, partitioning=None)
        tables.setdefault(part.parent.name, []).append(table)
    return {shard: pa.concat_tables(found) for shard, found in tables.items()}


def damaged(content, rng):
    """Return bytes of a shard with one to four of them changed, or cut short."""
    content = bytearray(content)
    if rng.random() < 0.2:
        return bytes(content[: rng.randrange(len(content))])
    # Most of a shard is pixels; a third of the damage is to the footer, which says what they are.
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    first = footer if rng.random() < 0.4 else 0
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(first, len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def test_damage_is_reported_or_scored_as_the_bytes_say(archive, model, tmp_path, capsys):
    healthy = tmp_path / "healthy"
    options = f"--model {model} --chunk-images 20 --max-rejected 100%"
    assert run_here(f"score --archive {archive} --scores {healthy} {options}") == 0
    whole = scored(healthy)
    original = (archive / HURT).read_bytes()
    predictor = TorchPredictor(load_model(model), batch_size=64)
    rng = random.Random(3)
    counted = {"rejected as a whole": 0, "rejected in part": 0, "scored": 0}
    for place in range(PLACES):
        directory = tmp_path / str(place)
        shutil.copytree(archive, directory / "archive")
        (directory / "archive" / HURT).write_bytes(damaged(original, rng))
        scores = directory / "scores"
        line = f"score --archive {directory}/archive --scores {scores} {options}"
        assert run_here(line) == 0, f"place {place}"
        found = scored(scores)
        for shard in ("shard-00000", "shard-00002"):
            assert (
                found[shard]
                .drop_columns("count_probabilities")
                .equals(whole[shard].drop_columns("count_probabilities"))
            ), f"place {place}"
        check_hurt(directory, found, counted, predictor)
        shutil.rmtree(directory)
    with capsys.disabled():
        print(f"\n{PLACES} damaged shards: " + ", ".join(f"{n} {w}" for w, n in counted.items()))
    assert counted["rejected as a whole"]
    assert counted["rejected in part"]


def check_hurt(directory, found, counted, predictor):
    """Check that each row of the damaged shard is scored, or rejected with a reason, once."""
    [run] = (directory / "scores/_runs").glob("score-*")
    outcome = json.loads((run / "manifest.json").read_text())["outcome"]
    if HURT in outcome["rejected_shards"]:
        assert "shard-00001" not in found
        counted["rejected as a whole"] += 1
        return
    totals = outcome["totals"]
    assert totals["scored"] + totals["rejected"] == totals["images"] == SHARDS * IMAGES
    rejected = [c for c in outcome["chunks"] if c["reason"]]
    assert all(chunk["shard"] == HURT for chunk in rejected)
    num_rows = len(found["shard-00001"]) if "shard-00001" in found else 0
    assert num_rows + sum(c["num_rows"] for c in rejected) == IMAGES
    counted["rejected in part" if totals["rejected"] else "scored"] += 1
    if "shard-00001" in found:
        errors = found["shard-00001"]["error"].is_valid().to_numpy()
        sums = found["shard-00001"]["predicted_sum"].is_valid().to_numpy()
        assert np.array_equal(errors, ~sums)
    check_said_of_bytes(directory, predictor)


def check_said_of_bytes(directory, predictor):
    """Check the parts of the damaged shard against its bytes, read and predicted by other means."""
    file = pq.ParquetFile(directory / "archive" / HURT)
    for part in (directory / "scores").glob("model=*/shard-00001/rows-*"):
        first, after = (int(number) for number in part.stem.removeprefix("rows-").split("-"))
        assert after - first == ROWS_OF_GROUP
        rows = file.read_row_group(first // ROWS_OF_GROUP, ["image_id", "image"])
        pixels = np.frombuffer(b"".join(rows["image"].to_pylist()), np.uint8)
        predictions = predictor.predict(pixels.reshape(-1, 40, 96))
        scores = pq.read_table(part, partitioning=None)
        assert scores["image_id"].to_pylist() == rows["image_id"].to_pylist()
        assert scores["predicted_sum"].to_pylist() == predictions.sums.tolist()


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    with contextlib.suppress(ImportError):
        monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
