import json

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


@pytest.mark.parametrize("model", ["reader", "trained_baseline"])
def test_evaluate_plain_count(request, model, labelled, read_archive, tmp_path, capsys):
    path = request.getfixturevalue(model) / "model"
    capsys.readouterr()
    command = f"evaluate --archive {labelled} --model {path} --report {tmp_path}/report"
    assert main(command.split()) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])

    true_sums = ds.dataset(labelled).to_table(columns=["digit_sum"])["digit_sum"].to_numpy()
    model = load_model(str(path))
    posterior = posterior_of(model, read_archive(labelled))
    confidences, sums = (part.numpy() for part in posterior.sum_log_probs.exp().max(dim=1))
    off = np.abs(sums - true_sums)
    assert said["images"] == len(off)
    assert said["accuracy"] == pytest.approx((off == 0).mean())
    assert said["accuracy_within_1"] == pytest.approx((off <= 1).mean())
    assert said["mean_absolute_error"] == pytest.approx(off.mean())
    assert said["rejected"] == 0
    assert said["accuracy_low"] <= said["accuracy"] < said["accuracy_high"]
    bins = np.minimum((confidences * 15).astype(int), 14)
    gaps = [((off == 0)[bins == n] - confidences[bins == n]).sum() for n in range(15)]
    assert said["calibration_error"] == pytest.approx(np.abs(gaps).sum() / len(off), abs=0.005)
    assert said["digits_accuracy"] is None  # the archive does not say which digits there are
    assert (said["archive"], said["model"]) == (labelled, str(path))
    assert (said["model_digest"], said["known_count"]) == (model.digest, None)
    page = (tmp_path / "report/report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count('<img src="data:image/png') == 3
    assert json.loads((tmp_path / "report/evaluation.json").read_text()).items() >= said.items()


def test_evaluate_true_digits(reader, read_archive, tmp_path, capsys):
    archive = f"{tmp_path}/archive"
    synth = f"synth --out {archive} --images 200 --shards 2 --digits 2 --width 64 --true-digits"
    assert main(synth.split()) == 0
    true_digits = ds.dataset(archive).to_table(columns=["digits"])["digits"].to_pylist()
    model = load_model(f"{reader}/model")
    capsys.readouterr()
    command = f"evaluate --archive {archive} --model {reader}/model --report {tmp_path}/report"
    for options, num_digits in (([], None), (["--known-count", "2"], 2)):
        assert main([*command.split(), *options]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        read = posterior_of(model, read_archive(archive), num_digits).digits.tolist()
        exact = [
            [digit for digit in digits if digit >= 0] == true
            for digits, true in zip(read, true_digits, strict=True)
        ]
        assert 0.1 < np.mean(exact) < 0.9
        assert said["digits_accuracy"] == pytest.approx(np.mean(exact))
        assert said["known_count"] == num_digits
