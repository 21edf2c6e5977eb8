"""Scoring by the command, on a real Ray and without it."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from commands import printed_json
from factories import make_baseline, read_parts, read_scores
from PIL import Image

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.shards import open_archive
from digitsum.cli import main
from digitsum.model.outputs import Posterior
from digitsum.model.saved_model import load_model
from digitsum.options import ReadOptions
from digitsum.scoring.config import ComputeOptions
from digitsum.scoring.executors import ray_data
from digitsum.scoring.executors.executor import MakeWorker
from digitsum.scoring.executors.ray_data import RayDataExecutor

WAIT_S = 120
THREADS = ("--executor", "threads", "--backend", "torch")
pytestmark = pytest.mark.usefixtures("one_ray")


def score(archive: str | Path, scores: Path, model: Path, *options: str) -> int:
    command = ["score", "--archive", str(archive), "--scores", str(scores), "--model", str(model)]
    return main([*command, *options])


def directory_of(model: Path) -> str:
    return f"model={load_model(str(model)).digest[:16]}"


@pytest.fixture(scope="session")
def model(reader) -> Path:
    return reader / "model"


@pytest.fixture(scope="module")
def scores(model, unlabelled, tmp_path_factory) -> Path:
    """Score the archive on Ray, once for all tests."""
    out = tmp_path_factory.mktemp("scores") / "scores"
    assert score(unlabelled, out, model) == 0
    return out


def posterior_of(images: dict[str, np.ndarray], path: Path) -> Posterior:
    """Return a model's posterior of all images at once, by a plain forward pass."""
    model = load_model(str(path))
    pixels = torch.from_numpy(np.stack(list(images.values())))
    with torch.inference_mode():
        logits = model.network(pixels.unsqueeze(1).float() * model.pixel_scale)
        return model.network.posterior(logits / model.temperature, None)


def check_sums(rows: list[dict], posterior: Posterior) -> None:
    most_probable = posterior.sum_log_probs.exp().max(dim=1)
    assert [row["predicted_sum"] for row in rows] == most_probable.indices.tolist()
    confidences = np.array([row["confidence"] for row in rows])
    np.testing.assert_allclose(confidences, most_probable.values.numpy(), atol=1e-4)
    assert all(row["error"] is None for row in rows)


def digit_lists(padded: torch.Tensor) -> list[list[int]]:
    return [[digit for digit in row if digit >= 0] for row in padded.tolist()]


def test_score_counter(scores, model, unlabelled, read_archive):
    rows = read_scores(scores).to_pylist()
    assert [row["image_id"] for row in rows] == list(read_archive(unlabelled))
    posterior = posterior_of(read_archive(unlabelled), model)
    check_sums(rows, posterior)
    assert [row["digits"] for row in rows] == digit_lists(posterior.digits)
    assert [row["digit_x"] for row in rows] == digit_lists(posterior.digit_x)
    counts = np.array([row["count_probabilities"] for row in rows])
    np.testing.assert_allclose(counts, posterior.count_probs.numpy(), atol=1e-4)
    assert all(sum(row["digits"]) == row["predicted_sum"] for row in rows)
    assert len({tuple(row["digits"]) for row in rows}) > 9  # else a wrong order would not show


def test_score_baseline(trained_baseline, unlabelled, tmp_path, read_archive):
    assert score(unlabelled, tmp_path, trained_baseline / "model", *THREADS) == 0
    rows = read_scores(tmp_path).to_pylist()
    assert [row["image_id"] for row in rows] == list(read_archive(unlabelled))
    check_sums(rows, posterior_of(read_archive(unlabelled), trained_baseline / "model"))
    for column in ("digits", "digit_x", "count_probabilities"):
        assert all(row[column] is None for row in rows)


def test_score_known_count(model, unlabelled, tmp_path):
    assert score(unlabelled, tmp_path, model, "--known-count", "2", *THREADS) == 0
    of_known = read_parts(tmp_path)
    rows = read_scores(tmp_path).to_pylist()
    assert all(len(row["digits"]) == 2 for row in rows)
    assert all(sum(row["digits"]) == row["predicted_sum"] for row in rows)
    directory = directory_of(model)
    assert {path.split("/")[0] for path in of_known} == {f"{directory}-digits2"}
    assert (tmp_path / "CURRENT").read_text() == f"{directory}-digits2\n"

    assert score(unlabelled, tmp_path, model, *THREADS) == 0
    parts = read_parts(tmp_path)
    assert {path.split("/")[0] for path in parts.keys() - of_known.keys()} == {directory}
    assert parts.items() >= of_known.items()
    assert (tmp_path / "CURRENT").read_text() == f"{directory}\n"


def test_score_another_model(model, unlabelled, tmp_path):
    out = tmp_path / "scores"
    assert score(unlabelled, out, model, *THREADS) == 0
    first = read_parts(out)
    torch.save(make_baseline(40, 48, 1).state_dict(), tmp_path / "model.pth")
    other = tmp_path / "other"
    imported = f"import model {tmp_path}/model.pth --out {other} --width 48 --pixel-scale 0.01"
    assert main(imported.split()) == 0
    assert score(unlabelled, out, other, *THREADS) == 0
    both = read_parts(out)
    assert len(both) == 2 * len(first)
    assert both.items() >= first.items()
    assert (out / "CURRENT").read_text() == f"{directory_of(other)}\n"


def test_score_leaves_manifest(scores, model):
    digest = load_model(str(model)).digest
    [run] = (scores / "_runs").glob("score-*")
    outcome = json.loads((run / "manifest.json").read_text())["outcome"]
    assert (outcome["images"], outcome["rejected"]) == (500, 0)
    assert outcome["complete"] is True
    assert outcome["model_digest"] == digest
    assert sum(outcome["predicted"]["sums"]) == 500
    assert [(c["chunk"]["shard"], c["chunk"]["num_rows"]) for c in outcome["chunks"]] == [
        ("shard-00000.parquet", 167),
        ("shard-00001.parquet", 167),
        ("shard-00002.parquet", 166),
    ]
    assert all(c["forward_s"] > 0 and c["attempts"] == 1 for c in outcome["chunks"])
    assert json.loads((run / "plan.json").read_text())["new"]["images"] == 500
    assert (run / "report.html").read_bytes().startswith(b"<!doctype html>")
    assert (scores / "CURRENT").read_text() == f"{directory_of(model)}\n"


def test_score_second_run(model, unlabelled, tmp_path, capsys):
    archive, second = tmp_path / "archive", tmp_path / "scores"
    shutil.copytree(unlabelled, archive)
    options = (*THREADS, "--json")
    assert score(archive, second, model, *options) == 0
    before = read_parts(second)
    capsys.readouterr()

    assert score(archive, second, model, *options) == 0
    assert printed_json(capsys.readouterr().out)["images"] == 0
    assert read_parts(second) == before

    lost = sorted(before)[1]
    (second / lost).unlink()
    assert score(archive, second, model, *options, "--plan") == 0
    assert printed_json(capsys.readouterr().out)["new"]["chunks"] == 1
    assert lost not in read_parts(second)
    assert score(archive, second, model, *options) == 0
    assert read_parts(second) == before
    capsys.readouterr()

    # A shard with fewer rows, a shard that is gone, and a shard that is new.
    table = pq.read_table(archive / "shard-00000.parquet")
    pq.write_table(table.slice(0, 100), archive / "shard-00000.parquet")
    (archive / "shard-00001.parquet").unlink()
    pq.write_table(table.slice(100), archive / "shard-00003.parquet")
    assert score(archive, second, model, *options) == 0
    assert printed_json(capsys.readouterr().out)["images"] == len(table)
    kept = pq.read_table(archive / "shard-00002.parquet")["image_id"].to_pylist()
    expected = table["image_id"].to_pylist()
    ids = read_scores(second)["image_id"].to_pylist()
    assert ids == expected[:100] + kept + expected[100:]


def test_score_small_chunks(scores, model, unlabelled, tmp_path, read_archive):
    archive, out = tmp_path / "archive", tmp_path / "scores"
    archive.mkdir()
    images = read_archive(unlabelled)
    table = pa.table({"image_id": list(images), "image": [i.tobytes() for i in images.values()]})
    pq.write_table(table, archive / "one.parquet", row_group_size=60)
    options = ("--chunk-images", "100", "--batch-size", "7", "--max-actors", "1")
    assert score(archive, out, model, *options) == 0
    assert len(read_parts(out)) == 5  # 9 row groups, two a chunk
    columns = ["image_id", "predicted_sum"]
    assert read_scores(out).select(columns).equals(read_scores(scores).select(columns))


def test_score_bad_images(model, tmp_path, capsys):
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(buffer, "PNG")
    good = buffer.getvalue()
    archive = tmp_path / "archive"
    archive.mkdir()
    images = [good, b"\x89PNG\r\n\x1a\n broken", good, None]
    pq.write_table(pa.table({"picture": images}), archive / "a.parquet")
    out = tmp_path / "scores"
    options = ("--image-column", "picture", "--json")
    assert score(archive, out, model, *options) == 3
    assert "2 of 4 images were rejected" in capsys.readouterr().err
    assert not (out / "CURRENT").exists()

    again = (*options, *THREADS, "--max-rejected", "50%", "--retry-rejected")
    assert score(archive, out, model, *again) == 0
    outcome = printed_json(capsys.readouterr().out)
    assert (outcome["images"], outcome["rejected"]) == (4, 2)
    assert (out / "CURRENT").exists()
    runs = sorted((out / "_runs").glob("score-*"))
    assert len(runs) == 2
    for run in runs:
        rejects = pq.read_table(run / "rejected").to_pylist()
        assert [(r["shard"], r["row"], r["image_id"], r["stage"]) for r in rejects] == [
            ("a.parquet", row, f"a.parquet#{row}", "decode") for row in (1, 3)
        ]
    rows = read_scores(out).to_pylist()
    assert [row["image_id"] for row in rows] == [f"a.parquet#{row}" for row in range(4)]
    for column in ("predicted_sum", "confidence", "digits", "digit_x", "count_probabilities"):
        assert [row[column] is None for row in rows] == [False, True, False, True]
    assert "decoded" in rows[1]["error"]
    assert "null" in rows[3]["error"]


def test_score_damaged_shard(model, scores, unlabelled, copy_damaged, tmp_path, capsys):
    archive, out = copy_damaged(unlabelled), tmp_path / "scores"
    assert score(archive, out, model) == 3
    lines = capsys.readouterr().err.splitlines()
    [error] = [line for line in lines if line.startswith("digitsum: ")]
    assert "167 of 500 images were rejected" in error
    assert not (out / "CURRENT").exists()
    whole = read_parts(scores)
    healthy = {path: part for path, part in whole.items() if "shard-00001" not in path}
    assert read_parts(out) == healthy
    [run] = (out / "_runs").glob("score-*")
    [reject] = pq.read_table(run / "rejected").to_pylist()
    assert (reject["shard"], reject["row"]) == ("shard-00001.parquet", None)
    assert "cannot be read" in reject["reason"]
    assert json.loads((run / "manifest.json").read_text())["outcome"]["complete"] is False

    shutil.copy2(Path(unlabelled) / "shard-00001.parquet", archive)
    assert score(archive, out, model, "--json", *THREADS) == 0
    assert printed_json(capsys.readouterr().out)["images"] == 167
    assert read_parts(out).keys() == whole.keys()
    assert main(["status", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "167 images scored" in lines[1]
    assert "incomplete: 167 of 500 images" in lines[2]


def test_verify_scores_of_ray(scores, model, unlabelled, capsys):
    line = f"verify --archive {unlabelled} --scores {scores} --model {model}"
    assert main(line.split()) == 0
    assert "500 images in 3 chunks are scored once each" in capsys.readouterr().out


@pytest.fixture
def six_chunks(unlabelled, tmp_path) -> list[Chunk]:
    for copy in ("a", "b"):
        shutil.copytree(unlabelled, tmp_path / "six" / copy)
    shards = open_archive(str(tmp_path / "six"), ReadOptions()).shards
    return [chunk for shard in shards for chunk in plan_chunks(shard, 50_000)]


@pytest.fixture
def wait_for_another(tmp_path) -> MakeWorker[bool]:
    """Give workers that keep a chunk until a second has one too: True, or until time is over."""

    def make_worker(compute: ComputeOptions):  # local, so that Ray pickles it whole
        def wait(chunk: Chunk) -> bool:
            (tmp_path / f"{os.getpid()}.worker").touch()
            deadline = time.monotonic() + WAIT_S
            while time.monotonic() < deadline:
                if len(list(tmp_path.glob("*.worker"))) > 1:
                    return True
                time.sleep(0.05)
            return False

        return wait

    return make_worker


def test_two_chunks_two_actors(wait_for_another, six_chunks):
    """A chunk must not wait behind another while an actor is idle."""
    compute = ComputeOptions(min_actors=2)
    executor = RayDataExecutor(wait_for_another, compute, keep_going=False)
    assert list(executor.map(six_chunks[:2])) == [True, True]


def test_pool_grows_with_cluster(wait_for_another, six_chunks, monkeypatch):
    # As if the second CPU's node had come only after the pool was made.
    monkeypatch.setattr(ray_data, "_room", lambda compute: (1, 2))
    executor = RayDataExecutor(wait_for_another, ComputeOptions(), keep_going=False)
    assert list(executor.map(six_chunks)) == [True] * 6


def test_score_exports_metrics(model, unlabelled, tmp_path):
    assert score(unlabelled, tmp_path / "scores", model) == 0
    [run] = (tmp_path / "scores/_runs").glob("score-*")
    [node] = [node for node in ray.nodes() if node["Alive"]]
    endpoint = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    pattern = re.compile(
        rf"^ray_digitsum_(\w+){{.*run=\"{re.escape(run.name)}\".*}} ([\d.e+]+)$", re.M
    )
    deadline = time.monotonic() + WAIT_S
    exported: dict[str, float] = {}
    while exported.get("images_scored_total") != 500 and time.monotonic() < deadline:
        time.sleep(1)
        body = urllib.request.urlopen(endpoint, timeout=10).read().decode()
        exported = {name: float(value) for name, value in pattern.findall(body)}
    assert exported["images_scored_total"] == 500
    counts = ("chunks_total", "chunk_seconds_count", "batch_seconds_count")
    assert [exported[name] for name in counts] == [3, 3, 3]
    assert "images_rejected_total" not in exported


def test_score_small_archive_without_ray(reader, unlabelled, tmp_path):
    code = f"""
import sys
from digitsum.cli import main

command = "score --archive {unlabelled} --model {reader}/model --scores {tmp_path}/scores"
assert main(command.split()) == 0
assert main(f"{{command}} --plan --json".split()) == 0
ray = sys.modules.get("ray")
assert ray is None or not ray.is_initialized()
"""
    environment = {k: v for k, v in psutil.Process().environ().items() if k != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"would make it faster" in done.stdout  # what would depends on the machine's load

    [manifest] = (tmp_path / "scores").glob("_runs/score-*/manifest.json")
    chunks = json.loads(manifest.read_text())["outcome"]["chunks"]
    default = type(ComputeOptions().predictor(load_model(f"{reader}/model"), None)).backend
    assert {chunk["backend"] for chunk in chunks} == {default}

    on_ray = f"--model {reader}/model --scores {tmp_path}/on-ray --executor ray"
    assert main(f"score --archive {unlabelled} {on_ray}".split()) == 0
    rows, expected_rows = (
        read_scores(tmp_path / name).to_pylist() for name in ("scores", "on-ray")
    )
    assert len(rows) == 500
    for row, expected in zip(rows, expected_rows, strict=True):
        # Threads may compute on more cores each than actors do, which rounds differently.
        for key in ("confidence", "count_probabilities"):
            assert row.pop(key) == pytest.approx(expected.pop(key), abs=1e-3)
        assert row == expected


def test_evaluate_without_ray(reader, labelled, tmp_path):
    evaluations = []
    for executor in ("threads", "ray"):
        report = tmp_path / executor
        command = f"evaluate --archive {labelled} --model {reader}/model --report {report}"
        assert main(f"{command} --executor {executor}".split()) == 0
        evaluations.append(json.loads((report / "evaluation.json").read_text()))
    for figure in ("images", "accuracy", "mean_absolute_error"):
        assert evaluations[0][figure] == evaluations[1][figure]
    assert evaluations[0]["images"] == 600
