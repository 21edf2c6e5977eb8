"""Few images are scored by the command alone: no Ray is started, and the scores are the same."""

import json
import subprocess
import sys

import psutil
import pytest

from digitsum.cli import main
from digitsum.model.saved_model import load_model
from digitsum.scoring.config import ActorOptions


def test_the_command_scores_a_small_archive_without_ray(reader, unlabelled, read_scores, tmp_path):
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
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    assert b"more cores or GPUs would make it faster" in ended.stdout

    [manifest] = (tmp_path / "scores").glob("_runs/score-*/manifest.json")
    chunks = json.loads(manifest.read_text())["outcome"]["chunks"]
    by = {type(ActorOptions().predictor(load_model(f"{reader}/model"), None)).backend}
    assert {chunk["backend"] for chunk in chunks} == by

    by_ray = f"--model {reader}/model --scores {tmp_path}/by-ray --executor ray"
    assert main(f"score --archive {unlabelled} {by_ray}".split()) == 0
    here, there = read_scores(tmp_path / "scores"), read_scores(tmp_path / "by-ray")
    assert len(here) == 500
    for row, expected in zip(here, there, strict=True):
        # Threads may compute on more cores each than actors do, and so round otherwise.
        for key in ("confidence", "count_probabilities"):
            assert row.pop(key) == pytest.approx(expected.pop(key), abs=1e-3)
        assert row == expected


def test_evaluations_need_no_ray_either(reader, labelled, tmp_path, one_ray):
    reports = []
    for engine in ("threads", "ray"):
        report = tmp_path / engine
        command = f"evaluate --archive {labelled} --model {reader}/model --report {report}"
        assert main(f"{command} --executor {engine}".split()) == 0
        reports.append(json.loads((report / "evaluation.json").read_text()))
    for figure in ("images", "accuracy", "mean_absolute_error"):
        assert reports[0][figure] == reports[1][figure]
    assert reports[0]["images"] == 600
