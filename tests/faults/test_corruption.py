"""Bytes of shards are flipped, and shards cut short, seeded: no crash, and no row is lost.

DIGITSUM_PLACES is how many shards are damaged.
"""

import json
import os
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from without_ray import run_here

from digitsum.model.saved_model import load_model
from digitsum.model.torch_backend import TorchPredictor

PLACES = int(os.environ.get("DIGITSUM_PLACES", "40"))
IMAGES, SHARDS, GROUP_ROWS = 60, 3, 20
HURT = "shard-00001"


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


def scores_by_shard(scores):
    tables = {}
    for part in sorted(scores.glob("model=*/**/rows-*")):
        table = pq.read_table(part, partitioning=None).drop_columns("count_probabilities")
        tables.setdefault(part.parent.name, []).append(table)
    return {shard: pa.concat_tables(parts) for shard, parts in tables.items()}


def damage(content, rng):
    """Return bytes of a shard with one to four of them changed, or cut short."""
    content = bytearray(content)
    if rng.random() < 0.2:
        return bytes(content[: rng.randrange(len(content))])
    # Most of a shard is pixels; 40% of the damage is to the footer, which describes them.
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    first = footer if rng.random() < 0.4 else 0
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(first, len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def test_damaged_shard(make_archive, model, tmp_path, capsys):
    archive = make_archive(tmp_path / "archive", IMAGES * SHARDS, SHARDS, GROUP_ROWS)
    options = f"--model {model} --chunk-images {GROUP_ROWS} --max-rejected 100%"
    assert run_here(f"score --archive {archive} --scores {tmp_path}/whole {options}") == 0
    whole = scores_by_shard(tmp_path / "whole")
    original = (archive / f"{HURT}.parquet").read_bytes()
    predictor = TorchPredictor(load_model(model), batch_size=64)
    rng = random.Random(3)
    counts = {"rejected as a whole": 0, "rejected in part": 0, "scored": 0}
    for place in range(PLACES):
        directory = tmp_path / str(place)
        shutil.copytree(archive, directory / "archive")
        (directory / f"archive/{HURT}.parquet").write_bytes(damage(original, rng))
        command = f"score --archive {directory}/archive --scores {directory}/scores {options}"
        assert run_here(command) == 0, f"place {place}"
        scores = scores_by_shard(directory / "scores")
        for shard in whole.keys() - {HURT}:
            assert scores[shard].equals(whole[shard]), f"place {place}"
        counts[check_hurt(directory, scores, predictor)] += 1
        shutil.rmtree(directory)
    with capsys.disabled():
        print(f"\n{PLACES} damaged shards: " + ", ".join(f"{n} {w}" for w, n in counts.items()))
    assert counts["rejected as a whole"]
    assert counts["rejected in part"]


def check_hurt(directory, scores, predictor):
    """Check that each row of the damaged shard is scored, or rejected with a reason, once.

    Returns what became of the shard.
    """
    [run] = (directory / "scores/_runs").glob("score-*")
    outcome = json.loads((run / "manifest.json").read_text())["outcome"]
    if f"{HURT}.parquet" in outcome["rejected_shards"]:
        assert HURT not in scores
        return "rejected as a whole"
    totals = outcome["totals"]
    assert totals["scored"] + totals["rejected"] == totals["images"] == SHARDS * IMAGES
    rejected = [chunk for chunk in outcome["chunks"] if chunk["reason"]]
    assert all(chunk["chunk"]["shard"] == f"{HURT}.parquet" for chunk in rejected)
    num_rows = len(scores[HURT]) if HURT in scores else 0
    assert num_rows + sum(chunk["chunk"]["num_rows"] for chunk in rejected) == IMAGES
    if HURT in scores:
        has_error = scores[HURT]["error"].is_valid().to_numpy()
        has_sum = scores[HURT]["predicted_sum"].is_valid().to_numpy()
        assert np.array_equal(has_error, ~has_sum)
    check_against_bytes(directory, predictor)
    return "rejected in part" if totals["rejected"] else "scored"


def check_against_bytes(directory, predictor):
    """Check the parts of the damaged shard against its bytes, read and predicted by other means."""
    file = pq.ParquetFile(directory / f"archive/{HURT}.parquet")
    for part in (directory / "scores").glob(f"model=*/{HURT}/rows-*"):
        first, after = (int(number) for number in part.stem.removeprefix("rows-").split("-"))
        assert after - first == GROUP_ROWS
        rows = file.read_row_group(first // GROUP_ROWS, ["image_id", "image"])
        pixels = np.frombuffer(b"".join(rows["image"].to_pylist()), np.uint8)
        predictions = predictor.predict(pixels.reshape(-1, 40, 96))
        scores = pq.read_table(part, partitioning=None)
        assert scores["image_id"].to_pylist() == rows["image_id"].to_pylist()
        assert scores["predicted_sum"].to_pylist() == predictions.sums.tolist()
