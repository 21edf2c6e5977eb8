"""The CUDA path: the same commands with GPUs, and the same sums as on CPUs."""

import json

import numpy as np
import pytest
import torch

from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.bundle import load_bundle, save_bundle
from digitsum.model.predictor import TorchPredictor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def test_predictions_on_the_gpu_are_those_on_the_cpu(tmp_path):
    save_bundle(f"{tmp_path}/b", "baseline", BaselineNetwork(BaselineConfig()), metrics={}, card="")
    pixels = np.random.default_rng(0).integers(256, size=(500, 40, 168)).astype(np.uint8)
    cpu, gpu = (
        TorchPredictor(load_bundle(f"{tmp_path}/b"), batch_size=64, device=device).predict(pixels)
        for device in ("cpu", "cuda")
    )
    # Networks of fresh weights have near ties, which rounding may decide either way.
    assert (cpu.sums == gpu.sums).mean() > 0.99
    np.testing.assert_allclose(cpu.confidences, gpu.confidences, atol=0.01)


@pytest.mark.slow
def test_training_and_scoring_run_on_the_gpu(tmp_path, capsys):
    archive = f"{tmp_path}/archive"
    synth(SynthConfig(out=archive, images=4000, shards=2, digits=1, width=48))
    train = f"train --archive {archive} --digits 1 --bundle {tmp_path}/b --epochs 3 --use-gpu"
    assert main(train.split()) == 0
    capsys.readouterr()
    evaluate = f"evaluate --archive {archive} --bundle {tmp_path}/b --gpus-per-actor 1"
    assert main([*evaluate.split(), "--report", f"{tmp_path}/report"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] > 0.8
