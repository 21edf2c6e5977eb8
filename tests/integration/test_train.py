import json
import shutil
from pathlib import Path

import pytest

from digitsum.cli import main
from digitsum.model.saved_model import load_model
from digitsum.training.metrics import history_from_json

pytestmark = pytest.mark.usefixtures("one_ray")


def curves(directory: Path, run: str):
    return history_from_json((directory / f"_runs/{run}/curves.json").read_text())


@pytest.mark.parametrize("model", ["trained", "trained_baseline"])
def test_two_workers_train_and_validate_on_every_image(request, model):
    history = curves(request.getfixturevalue(model), "pair")
    assert [epoch.epoch for epoch in history] == [1, 2]
    for epoch in history:
        # The equal split of training may leave out fewer images than there are workers.
        assert 599 <= epoch.train_images + epoch.validation_images <= 600
        assert epoch.validation_images == history[0].validation_images


def test_run_leaves_bundle_curves_and_manifest(trained):
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
    assert metrics["calibration"] == {
        "temperature": model.temperature,
        "images": best.validation_images,
    }


def test_more_epochs_under_the_same_name_continue_the_curve(labelled, tmp_path):
    command = (
        f"train --archive {labelled} --digits 1 --out {tmp_path}/model --name more "
        "--network baseline --validation-fraction 0.3"
    ).split()
    assert main([*command, "--epochs", "1"]) == 0
    first = curves(tmp_path, "more")
    assert main([*command, "--epochs", "3"]) == 0
    history = curves(tmp_path, "more")
    assert history[:1] == first
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    # Asked once more, there is nothing left to train.
    assert main([*command, "--epochs", "3"]) == 0
    assert curves(tmp_path, "more") == history


def test_a_finished_counter_is_trained_no_further_by_the_same_command(trained, labelled, tmp_path):
    shutil.copytree(trained / "_runs", tmp_path / "_runs")
    command = (
        f"train --archive {labelled} --digits 1 --out {tmp_path}/model --name pair --epochs 2 "
        "--workers 2 --batch-size 32"
    )
    assert main(command.split()) == 0
    assert curves(tmp_path, "pair") == curves(trained, "pair")
    assert load_model(f"{tmp_path}/model").digest == load_model(f"{trained}/model").digest


@pytest.mark.parametrize(
    ("options", "said"),
    [("--epochs 2 --learning-rate 0.5", "learning_rate"), ("--epochs 3", "epochs=2, not 3")],
)
def test_other_options_under_the_same_name_are_refused(trained, labelled, capsys, options, said):
    before = load_model(f"{trained}/model").digest
    command = (
        f"train --archive {labelled} --digits 1 --out {trained}/model --name pair "
        f"--workers 2 --batch-size 32 {options}"
    )
    assert main(command.split()) == 2
    assert said in capsys.readouterr().err
    assert load_model(f"{trained}/model").digest == before


@pytest.mark.parametrize(
    "options", ["--network baseline --epochs 3", "--epochs 10 --batch-size 32 --distortion 0.3"]
)
def test_training_learns_to_read_a_digit(tmp_path, options):
    archive = f"{tmp_path}/archive"
    synth = f"synth --out {archive} --images 4000 --shards 2 --digits 1 --width 48"
    assert main(synth.split()) == 0
    train = f"train --archive {archive} --digits 1 --out {tmp_path}/model --name learns {options}"
    assert main(train.split()) == 0
    # One class in ten would be right by guessing.
    assert max(epoch.validation_accuracy for epoch in curves(tmp_path, "learns")) > 0.8


def test_validation_archive_of_its_own_leaves_the_archive_whole(labelled, unlabelled, tmp_path):
    validation = f"{tmp_path}/validation"
    synth = f"synth --out {validation} --images 90 --shards 2 --split val --digits 1 --width 48"
    assert main(synth.split()) == 0
    train = (
        f"train --archive {labelled} --validation {validation} --digits 1 --epochs 1 --name whole "
        f"--out {tmp_path}/model --precision bf16"
    )
    assert main(train.split()) == 0
    [epoch] = curves(tmp_path, "whole")
    assert (epoch.train_images, epoch.validation_images) == (600, 90)


def test_same_seed_trains_the_same_model(trained, labelled, tmp_path):
    again = (
        f"train --archive {labelled} --digits 1 --out {tmp_path}/model --name pair --epochs 2 "
        "--workers 2 --batch-size 32"
    )
    assert main(again.split()) == 0
    assert load_model(f"{tmp_path}/model").digest == load_model(f"{trained}/model").digest


def test_archive_too_small_to_hold_images_out_is_refused(tmp_path, capsys):
    assert main(f"synth --out {tmp_path}/archive --images 1 --digits 1 --width 48".split()) == 0
    train = f"train --archive {tmp_path}/archive --digits 1 --out {tmp_path}/models/model"
    assert main(train.split()) == 2
    assert "held out" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_shard_damaged_in_the_middle_ends_the_run_with_its_sentence(
    labelled, copy_damaged, tmp_path, capsys
):
    archive = copy_damaged(labelled)
    train = f"train --archive {archive} --digits 1 --out {tmp_path}/model --max-failures 0"
    assert main(train.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    [said] = [line for line in lines if line.startswith("digitsum: ")]
    assert "shard-00001.parquet: cannot be read" in said
    assert not (tmp_path / "model").exists()
