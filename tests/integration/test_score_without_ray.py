"""Small archives are scored without Ray, with the same scores as on Ray."""

import json
import subprocess
import sys

import psutil
import pytest
from factories import read_scores

from digitsum.cli import main
from digitsum.model.saved_model import load_model
from digitsum.scoring.config import ComputeOptions

pytestmark = pytest.mark.usefixtures("one_ray")


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
