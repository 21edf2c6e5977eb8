import json
import shutil
from pathlib import Path

import pytest

from digitsum.cli import main
from digitsum.model.saved_model import load_model
from digitsum.training.metrics import history_from_json

pytestmark = pytest.mark.usefixtures("one_ray")

PAIR = "--name pair --epochs 2 --workers 2 --batch-size 32"


def train(archive, directory: Path, options: str) -> int:
    command = f"train --archive {archive} --digits 1 --out {directory}/model {options}"
    return main(command.split())


def curves(directory: Path, run: str):
    return history_from_json((directory / f"_runs/{run}/curves.json").read_text())


@pytest.mark.parametrize("model", ["trained", "trained_baseline"])
def test_train_on_every_image(request, model):
    history = curves(request.getfixturevalue(model), "pair")
    assert [epoch.epoch for epoch in history] == [1, 2]
    for epoch in history:
        # Equal shares may leave out fewer images than there are workers.
        assert 599 <= epoch.train_images + epoch.validation_images <= 600
        assert epoch.validation_images == history[0].validation_images


def test_train_leaves_model_and_run(trained):
    run = trained / "_runs/pair"
    assert (run / "report.html").read_bytes().startswith(b"<!doctype html>")
    manifest = json.loads((run / "manifest.json").read_text())
    model = load_model(f"{trained}/model")
    assert manifest["outcome"]["model_digest"] == model.digest
    assert model.network_name == "counter"
    assert model.network.config.num_digits == 1
    assert str(model.shape) == "40x48"
    metrics = json.loads((trained / "model/metrics.json").read_text())
    best = max(curves(trained, "pair"), key=lambda epoch: epoch.validation_accuracy)
    assert metrics["best"]["validation_accuracy"] == best.validation_accuracy
    calibration = {"temperature": model.temperature, "images": best.validation_images}
    assert metrics["calibration"] == calibration
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["model_digest"] == model.digest
    assert evaluation["images"] == best.validation_images


def test_report_needs_run_only(trained, tmp_path):
    shutil.copytree(trained / "_runs/pair", tmp_path / "pair")
    report = (tmp_path / "pair/report.html").read_bytes()
    (tmp_path / "pair/report.html").unlink()
    assert main(["report", f"{tmp_path}/pair"]) == 0
    again = (tmp_path / "pair/report.html").read_bytes()
    assert len(again) == len(report)
    assert b"Hits and worst misses" in again


def test_resume_with_more_epochs(labelled, tmp_path):
    options = "--name more --network baseline --validation-fraction 0.3 --epochs"
    assert train(labelled, tmp_path, f"{options} 1") == 0
    first = curves(tmp_path, "more")
    assert train(labelled, tmp_path, f"{options} 3") == 0
    history = curves(tmp_path, "more")
    assert history[:1] == first
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    # Once more, there is nothing left to train.
    assert train(labelled, tmp_path, f"{options} 3") == 0
    assert curves(tmp_path, "more") == history


def test_resume_finished_run(trained, labelled, tmp_path):
    shutil.copytree(trained / "_runs", tmp_path / "_runs")
    assert train(labelled, tmp_path, PAIR) == 0
    assert curves(tmp_path, "pair") == curves(trained, "pair")
    assert load_model(f"{tmp_path}/model").digest == load_model(f"{trained}/model").digest


@pytest.mark.parametrize(
    ("options", "message"),
    [("--learning-rate 0.5", "learning_rate"), ("--epochs 3", "epochs=2, not 3")],
)
def test_resume_with_other_options(trained, labelled, capsys, options, message):
    before = load_model(f"{trained}/model").digest
    assert train(labelled, trained, f"{PAIR} {options}") == 2
    assert message in capsys.readouterr().err
    assert load_model(f"{trained}/model").digest == before


def test_train_same_seed(trained, labelled, tmp_path):
    assert train(labelled, tmp_path, PAIR) == 0
    assert load_model(f"{tmp_path}/model").digest == load_model(f"{trained}/model").digest


@pytest.mark.parametrize(
    "options", ["--network baseline --epochs 3", "--epochs 10 --batch-size 32 --distortion 0.3"]
)
def test_train_learns_a_digit(tmp_path, options):
    archive = f"{tmp_path}/archive"
    synth = f"synth --out {archive} --images 4000 --shards 2 --digits 1 --width 48"
    assert main(synth.split()) == 0
    assert train(archive, tmp_path, f"--name learns {options}") == 0
    # Guessing would get one in ten right.
    assert max(epoch.validation_accuracy for epoch in curves(tmp_path, "learns")) > 0.8


def test_train_with_validation_archive(labelled, tmp_path):
    validation = f"{tmp_path}/validation"
    synth = f"synth --out {validation} --images 90 --shards 2 --split val --digits 1 --width 48"
    assert main(synth.split()) == 0
    options = f"--validation {validation} --epochs 1 --name whole --precision bf16"
    assert train(labelled, tmp_path, options) == 0
    [epoch] = curves(tmp_path, "whole")
    assert (epoch.train_images, epoch.validation_images) == (600, 90)


def test_train_on_too_few_images(tmp_path, capsys):
    archive = f"{tmp_path}/archive"
    assert main(f"synth --out {archive} --images 1 --digits 1 --width 48".split()) == 0
    assert train(archive, tmp_path / "models", "") == 2
    assert "held out" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_train_on_damaged_shard(labelled, copy_damaged, tmp_path, capsys):
    assert train(copy_damaged(labelled), tmp_path, "--max-failures 0") == 2
    lines = capsys.readouterr().err.splitlines()
    [error] = [line for line in lines if line.startswith("digitsum: ")]
    assert "shard-00001.parquet: cannot be read" in error
    assert not (tmp_path / "model").exists()
