import io
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.shards import open_archive
from digitsum.cli import main
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.outputs import Posterior
from digitsum.model.saved_model import load_model
from digitsum.options import ReadOptions
from digitsum.scoring.config import ActorOptions
from digitsum.scoring.executors import ray_data as actors
from digitsum.scoring.executors.ray_data import map_chunks

METRICS_WAIT_S = 60
pytestmark = pytest.mark.usefixtures("one_ray")


def score(archive: str, scores: Path, model: Path, *options: str) -> int:
    command = ["score", "--archive", archive, "--scores", str(scores), "--model", str(model)]
    return main([*command, *options])


def scored_in_last_run(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def parts(scores: Path) -> dict[str, bytes]:
    return {str(p.relative_to(scores)): p.read_bytes() for p in scores.glob("model=*/**/*.parquet")}


@pytest.fixture(scope="module")
def scores(reader, unlabelled, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scores") / "scores"
    assert score(unlabelled, out, reader / "model") == 0
    return out


@pytest.fixture
def said_of(read_archive) -> Callable[[str, Path], Posterior]:
    """Give what a model's network says of all images at once, by a plain forward pass."""

    def said(archive: str, path: Path) -> Posterior:
        model = load_model(str(path))
        pixels = torch.from_numpy(np.stack(list(read_archive(archive).values())))
        with torch.inference_mode():
            logits = model.network(pixels.unsqueeze(1).float() * model.pixel_scale)
            return model.network.posterior(logits / model.temperature, None)

    return said


def check_sums(rows: list[dict], said: Posterior) -> None:
    most_probable = said.sum_log_probs.exp().max(dim=1)
    assert [row["predicted_sum"] for row in rows] == most_probable.indices.tolist()
    confidences = np.array([row["confidence"] for row in rows])
    np.testing.assert_allclose(confidences, most_probable.values.numpy(), atol=1e-4)
    assert all(row["error"] is None for row in rows)


def read_digits(digits: torch.Tensor) -> list[list[int]]:
    return [[digit for digit in row if digit >= 0] for row in digits.tolist()]


def test_every_image_is_scored_once_in_order_as_the_network_says(
    scores, reader, unlabelled, read_scores, read_archive, said_of
):
    rows = read_scores(scores)
    assert [row["image_id"] for row in rows] == list(read_archive(unlabelled))
    said = said_of(unlabelled, reader / "model")
    check_sums(rows, said)
    assert [row["digits"] for row in rows] == read_digits(said.digits)
    assert [row["digit_x"] for row in rows] == read_digits(said.digit_x)
    counts = np.array([row["count_probabilities"] for row in rows])
    np.testing.assert_allclose(counts, said.count_probs.numpy(), atol=1e-4)
    assert all(sum(row["digits"]) == row["predicted_sum"] for row in rows)
    assert len({tuple(row["digits"]) for row in rows}) > 9  # else the order would not show


def test_a_baseline_scores_sums_and_reads_no_digits(
    trained_baseline, unlabelled, tmp_path, read_scores, read_archive, said_of
):
    assert score(unlabelled, tmp_path, trained_baseline / "model") == 0
    rows = read_scores(tmp_path)
    assert [row["image_id"] for row in rows] == list(read_archive(unlabelled))
    check_sums(rows, said_of(unlabelled, trained_baseline / "model"))
    for column in ("digits", "digit_x", "count_probabilities"):
        assert all(row[column] is None for row in rows)


def test_a_model_that_is_told_how_many_digits_there_are_scores_beside_the_one_that_is_not(
    reader, unlabelled, tmp_path, read_scores
):
    model = reader / "model"
    assert score(unlabelled, tmp_path, model, "--known-count", "2") == 0
    told = parts(tmp_path)
    rows = read_scores(tmp_path)
    assert all(len(row["digits"]) == 2 for row in rows)
    assert all(sum(row["digits"]) == row["predicted_sum"] for row in rows)
    model = f"model={load_model(str(model)).digest[:16]}"
    assert {path.split("/")[0] for path in told} == {f"{model}-digits2"}
    assert (tmp_path / "CURRENT").read_text() == f"{model}-digits2\n"

    assert score(unlabelled, tmp_path, model) == 0
    assert {path.split("/")[0] for path in parts(tmp_path).keys() - told.keys()} == {model}
    assert parts(tmp_path).items() >= told.items()
    assert (tmp_path / "CURRENT").read_text() == f"{model}\n"


def test_a_baseline_cannot_be_told_of_other_digits_than_it_adds_up(
    trained_baseline, unlabelled, tmp_path, capsys
):
    model = trained_baseline / "model"
    assert score(unlabelled, tmp_path / "scores", model, "--known-count", "2") == 2
    assert "--known-count 2: the model adds up 1 digits" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


def test_run_leaves_a_manifest_a_sample_and_the_pointer(scores, reader):
    digest = load_model(f"{reader}/model").digest
    [run] = (scores / "_runs").glob("score-*")
    outcome = json.loads((run / "manifest.json").read_text())["outcome"]
    assert (outcome["images"], outcome["rejected"]) == (500, 0)
    assert outcome["complete"] is True
    assert outcome["model_digest"] == digest
    assert sum(outcome["predicted"]["sums"]) == 500
    assert [(c["shard"], c["num_rows"]) for c in outcome["chunks"]] == [
        ("shard-00000.parquet", 167),
        ("shard-00001.parquet", 167),
        ("shard-00002.parquet", 166),
    ]
    assert all(c["forward_s"] > 0 and c["attempts"] == 1 for c in outcome["chunks"])
    assert json.loads((run / "plan.json").read_text())["new"]["images"] == 500
    assert (run / "report.html").read_bytes().startswith(b"<!doctype html>")
    assert (scores / "CURRENT").read_text() == f"model={digest[:16]}\n"


def test_second_run_scores_only_what_is_missing_new_or_changed(
    scores, reader, unlabelled, tmp_path, capsys, read_scores
):
    archive, second = tmp_path / "archive", tmp_path / "scores"
    shutil.copytree(unlabelled, archive)
    model = reader / "model"
    assert score(str(archive), second, model) == 0
    before = parts(second)
    capsys.readouterr()

    assert score(str(archive), second, model, "--json") == 0
    assert scored_in_last_run(capsys)["images"] == 0
    assert parts(second) == before

    lost = sorted(before)[1]
    (second / lost).unlink()
    assert score(str(archive), second, model, "--plan", "--json") == 0
    assert scored_in_last_run(capsys)["new"]["chunks"] == 1
    assert lost not in parts(second)
    assert score(str(archive), second, model) == 0
    assert parts(second) == before
    capsys.readouterr()

    # A shard with fewer rows, a shard that is gone, and a shard that is new.
    table = pq.read_table(archive / "shard-00000.parquet")
    pq.write_table(table.slice(0, 100), archive / "shard-00000.parquet")
    (archive / "shard-00001.parquet").unlink()
    pq.write_table(table.slice(100), archive / "shard-00003.parquet")
    assert score(str(archive), second, model, "--json") == 0
    outcome = scored_in_last_run(capsys)
    assert outcome["images"] == len(table)
    ids = [row["image_id"] for row in read_scores(second)]
    kept = pq.read_table(archive / "shard-00002.parquet")["image_id"].to_pylist()
    expected = table["image_id"].to_pylist()
    assert ids == expected[:100] + kept + expected[100:]


def test_small_chunks_give_the_same_scores(
    scores, reader, unlabelled, tmp_path, read_scores, read_archive
):
    archive, out = tmp_path / "archive", tmp_path / "scores"
    archive.mkdir()
    images = read_archive(unlabelled)
    table = pa.table({"image_id": list(images), "image": [i.tobytes() for i in images.values()]})
    pq.write_table(table, archive / "one.parquet", row_group_size=60)
    options = ("--chunk-images", "100", "--batch-size", "7", "--max-actors", "1")
    assert score(str(archive), out, reader / "model", *options) == 0
    assert len(parts(out)) == 5  # 9 row groups, two a chunk
    sums = [(row["image_id"], row["predicted_sum"]) for row in read_scores(out)]
    assert sums == [(row["image_id"], row["predicted_sum"]) for row in read_scores(scores)]


def test_bad_images_cost_their_rows_only(reader, tmp_path, read_scores, capsys):
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(buffer, "PNG")
    good = buffer.getvalue()
    archive = tmp_path / "archive"
    archive.mkdir()
    images = [good, b"\x89PNG\r\n\x1a\n broken", good, None]
    pq.write_table(pa.table({"picture": images}), archive / "a.parquet")
    out = tmp_path / "scores"
    options = ("--image-column", "picture", "--json")
    assert score(str(archive), out, reader / "model", *options) == 3
    assert "2 of 4 images were rejected" in capsys.readouterr().err
    assert not (out / "CURRENT").exists()
    again = (*options, "--max-rejected", "50%", "--retry-rejected")
    assert score(str(archive), out, reader / "model", *again) == 0
    outcome = scored_in_last_run(capsys)
    assert (outcome["images"], outcome["rejected"]) == (4, 2)
    assert (out / "CURRENT").exists()
    *_, run = sorted((out / "_runs").glob("score-*"))
    rejects_written = pq.read_table(run / "rejected").to_pylist()
    assert [(q["shard"], q["row"], q["image_id"], q["stage"]) for q in rejects_written] == [
        ("a.parquet", row, f"a.parquet#{row}", "decode") for row in (1, 3)
    ]
    rows = read_scores(out)
    assert [row["image_id"] for row in rows] == [f"a.parquet#{row}" for row in range(4)]
    assert [row["predicted_sum"] is None for row in rows] == [False, True, False, True]
    for column in ("confidence", "digits", "digit_x", "count_probabilities"):
        assert [row[column] is None for row in rows] == [False, True, False, True]
    assert "decoded" in rows[1]["error"]
    assert "null" in rows[3]["error"]


def test_another_model_scores_beside_the_first(reader, unlabelled, tmp_path):
    out = tmp_path / "scores"
    assert score(unlabelled, out, reader / "model") == 0
    first = parts(out)
    network = BaselineNetwork(BaselineConfig(width=48, num_digits=1))
    torch.save(network.state_dict(), tmp_path / "model.pth")
    other = tmp_path / "other"
    imported = f"import model {tmp_path}/model.pth --out {other} --width 48 --pixel-scale 0.01"
    assert main(imported.split()) == 0
    assert score(unlabelled, out, other) == 0
    both = parts(out)
    assert len(both) == 2 * len(first)
    assert {path: both[path] for path in first} == first
    digest = load_model(str(other)).digest
    assert (out / "CURRENT").read_text() == f"model={digest[:16]}\n"


def test_shard_damaged_in_the_middle_costs_that_shard_until_it_is_mended(
    reader, scores, unlabelled, copy_damaged, tmp_path, capsys
):
    archive, out, model = copy_damaged(unlabelled), tmp_path / "scores", reader / "model"
    assert score(str(archive), out, model) == 3
    lines = capsys.readouterr().err.splitlines()
    [said] = [line for line in lines if line.startswith("digitsum: ")]
    assert "167 of 500 images were rejected" in said
    assert not (out / "CURRENT").exists()
    healthy = {path: part for path, part in parts(scores).items() if "shard-00001" not in path}
    assert parts(out) == healthy
    [run] = (out / "_runs").glob("score-*")
    [rejects_written] = pq.read_table(run / "rejected").to_pylist()
    assert (rejects_written["shard"], rejects_written["row"]) == ("shard-00001.parquet", None)
    assert "cannot be read" in rejects_written["reason"]
    assert json.loads((run / "manifest.json").read_text())["outcome"]["complete"] is False

    shutil.copy2(Path(unlabelled) / "shard-00001.parquet", archive)
    assert score(str(archive), out, model, "--json") == 0
    assert scored_in_last_run(capsys)["images"] == 167
    assert [p.removesuffix(".parquet") for p in parts(out)] == [
        p.removesuffix(".parquet") for p in parts(scores)
    ]
    assert main(["status", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "167 images scored" in said[1]
    assert "incomplete: 167 of 500 images" in said[2]


def test_what_is_verified_is_what_was_scored(scores, reader, unlabelled, tmp_path, capsys):
    def verify(where: Path) -> int:
        line = f"verify --archive {unlabelled} --scores {where} --model {reader}/model"
        return main(line.split())

    assert verify(scores) == 0
    assert "500 images in 3 chunks are scored once each" in capsys.readouterr().out
    tampered = tmp_path / "scores"
    shutil.copytree(scores, tampered)
    part = min(tampered.glob("model=*/**/rows-*"))
    table = pq.read_table(part, partitioning=None)
    sums = table["predicted_sum"].to_pylist()
    changed = pa.array([(s + 1) % 9 for s in sums], pa.int16())
    pq.write_table(table.set_column(1, table.schema.field(1), changed), part)
    assert verify(tampered) == 2
    assert "scored again, it has" in capsys.readouterr().out


@pytest.fixture
def six_chunks(unlabelled, tmp_path) -> list[Chunk]:
    for copy in ("a", "b"):
        shutil.copytree(unlabelled, tmp_path / "six" / copy)
    shards = open_archive(str(tmp_path / "six"), ReadOptions()).shards
    return [chunk for shard in shards for chunk in plan_chunks(shard, 50_000)]


def test_two_chunks_are_scored_by_two_actors(six_chunks, tmp_path):
    """A chunk must not wait behind another while an actor is idle."""
    options = ActorOptions(min_actors=2)
    results = map_chunks(WaitForAnother, {"meeting": tmp_path}, six_chunks[:2], options)
    assert [result["met"] for result in results] == [True, True]


def test_the_pool_grows_when_the_cluster_has(six_chunks, tmp_path, monkeypatch):
    # As if the second CPU's node had come only after the pool was made.
    monkeypatch.setattr(actors, "_room", lambda options: (1, 2))
    results = map_chunks(WaitForAnother, {"meeting": tmp_path}, six_chunks, ActorOptions())
    assert all(result["met"] for result in results)


class WaitForAnother:
    """An actor that holds its chunk until a second actor has one too, or a minute is over."""

    def __init__(self, meeting: Path) -> None:
        self._meeting = meeting

    def __call__(self, row):
        (self._meeting / f"{os.getpid()}.actor").touch()
        ended = time.monotonic() + 60
        while time.monotonic() < ended:
            if len(list(self._meeting.glob("*.actor"))) > 1:
                return {"met": True}
            time.sleep(0.05)
        return {"met": False}


def test_prometheus_is_told_of_the_images_and_of_their_batches(reader, unlabelled, tmp_path):
    assert score(unlabelled, tmp_path / "scores", reader / "model") == 0
    [run] = (tmp_path / "scores/_runs").glob("score-*")
    [node] = [node for node in ray.nodes() if node["Alive"]]
    endpoint = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    pattern = re.compile(
        rf"^ray_digitsum_(\w+){{.*run=\"{re.escape(run.name)}\".*}} ([\d.e+]+)$", re.M
    )
    ended = time.monotonic() + METRICS_WAIT_S
    told: dict[str, float] = {}
    while told.get("images_scored_total") != 500 and time.monotonic() < ended:
        time.sleep(1)
        body = urllib.request.urlopen(endpoint, timeout=10).read().decode()
        told = {name: float(value) for name, value in pattern.findall(body)}
    assert told["images_scored_total"] == 500
    assert told["chunks_total"] == told["chunk_seconds_count"] == told["batch_seconds_count"] == 3
    assert "images_rejected_total" not in told
