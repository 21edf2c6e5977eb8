"""The CUDA path: the same commands with GPUs give the same sums as on CPUs."""

import json

import numpy as np
import pytest
import torch
from factories import write_model

from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main
from digitsum.model.registry import build_network
from digitsum.model.torch_backend import TorchPredictor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


@pytest.mark.parametrize("cascade_below", [0.0, 1.0])
@pytest.mark.parametrize(("name", "least_equal"), [("baseline", 0.99), ("counter", 0.95)])
def test_predictions_equal_those_of_cpu(tmp_path, name, least_equal, cascade_below):
    network = build_network(name, {})
    if name == "counter":  # whose fresh weights predict nearly the same for all images
        with torch.no_grad():
            network.head.weight.mul_(20)
    saved = write_model(tmp_path / "model", network, cascade_below=cascade_below)
    pixels = np.random.default_rng(0).integers(256, size=(500, 40, 168)).astype(np.uint8)
    cpu, gpu = (
        TorchPredictor(saved, batch_size=64, device=device).predict(pixels)
        for device in ("cpu", "cuda")
    )
    # Networks of fresh weights have near ties, which rounding may decide either way.
    assert (cpu.sums == gpu.sums).mean() > least_equal
    np.testing.assert_allclose(cpu.confidences, gpu.confidences, atol=0.01)
    if name == "counter":
        counted = [predictions.readings.count_probs for predictions in (cpu, gpu)]
        np.testing.assert_allclose(*counted, atol=0.01)


@pytest.mark.parametrize(
    "options", ["--network baseline --epochs 3", "--epochs 10 --batch-size 32 --distortion 0.3"]
)
def test_train_and_evaluate_on_gpu(tmp_path, capsys, options):
    archive = f"{tmp_path}/archive"
    synth(SynthConfig(out=archive, images=4000, shards=2, digits=1, width=48))
    train = f"train --archive {archive} --digits 1 --out {tmp_path}/b --use-gpu {options}"
    assert main(train.split()) == 0
    capsys.readouterr()
    evaluate = f"evaluate --archive {archive} --model {tmp_path}/b --gpus-per-actor 1"
    assert main([*evaluate.split(), "--report", f"{tmp_path}/report"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] > 0.8
