import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch

from digitsum.cli import main
from digitsum.model.outputs import Posterior
from digitsum.model.saved_model import SavedModel, load_model

pytestmark = pytest.mark.usefixtures("one_ray")


def posterior_of(
    model: SavedModel, images: dict[str, np.ndarray], known_count: int | None = None
) -> Posterior:
    """Return the posterior of a model's network for all images, by a plain forward pass."""
    pixels = torch.from_numpy(np.stack(list(images.values()))).unsqueeze(1)
    with torch.inference_mode():
        logits = model.network(pixels.float() * model.pixel_scale)
        return model.network.posterior(logits / model.temperature, known_count)


def evaluate(capsys, archive: str, model: Path, report: Path, *options: str) -> dict:
    """Evaluate a model by the command; return the figures that it prints."""
    capsys.readouterr()
    places = ["--archive", archive, "--model", str(model), "--report", str(report)]
    assert main(["evaluate", *places, *options]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("model", ["reader", "trained_baseline"])
def test_evaluate_plain_count(request, model, labelled, read_archive, tmp_path, capsys):
    path = request.getfixturevalue(model) / "model"
    figures = evaluate(capsys, labelled, path, tmp_path / "report")
    true_sums = ds.dataset(labelled).to_table(columns=["digit_sum"])["digit_sum"].to_numpy()
    model = load_model(str(path))
    posterior = posterior_of(model, read_archive(labelled))
    confidences, sums = (part.numpy() for part in posterior.sum_log_probs.exp().max(dim=1))
    off = np.abs(sums - true_sums)
    bins = np.minimum((confidences * 15).astype(int), 14)
    gaps = [((off == 0)[bins == n] - confidences[bins == n]).sum() for n in range(15)]
    expected = {
        "images": len(off),
        "accuracy": pytest.approx((off == 0).mean()),
        "accuracy_within_1": pytest.approx((off <= 1).mean()),
        "mean_absolute_error": pytest.approx(off.mean()),
        "rejected": 0,
        "calibration_error": pytest.approx(np.abs(gaps).sum() / len(off), abs=0.005),
        "digits_accuracy": None,  # the archive does not say which digits there are
        "archive": labelled,
        "model": str(path),
        "model_digest": model.digest,
        "known_count": None,
    }
    assert figures | expected == figures
    assert figures["accuracy_low"] <= figures["accuracy"] < figures["accuracy_high"]
    page = (tmp_path / "report/report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count('<img src="data:image/png') == 3
    record = json.loads((tmp_path / "report/evaluation.json").read_text())
    assert record.items() >= figures.items()


def test_evaluate_true_digits(reader, read_archive, tmp_path, capsys):
    archive = f"{tmp_path}/archive"
    synth = f"synth --out {archive} --images 200 --shards 2 --digits 2 --width 64 --true-digits"
    assert main(synth.split()) == 0
    true_digits = ds.dataset(archive).to_table(columns=["digits"])["digits"].to_pylist()
    model = load_model(f"{reader}/model")
    for options, known_count in (([], None), (["--known-count", "2"], 2)):
        figures = evaluate(capsys, archive, reader / "model", tmp_path / "report", *options)
        read = posterior_of(model, read_archive(archive), known_count).digits.tolist()
        exact = [
            [digit for digit in digits if digit >= 0] == true
            for digits, true in zip(read, true_digits, strict=True)
        ]
        assert 0.1 < np.mean(exact) < 0.9
        assert figures["digits_accuracy"] == pytest.approx(np.mean(exact))
        assert figures["known_count"] == known_count
