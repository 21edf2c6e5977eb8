import json

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch

from digitsum.cli import main
from digitsum.model.bundle import load_bundle

pytestmark = pytest.mark.usefixtures("one_ray")


def test_figures_are_those_of_a_plain_count(trained, labelled, read_archive, tmp_path, capsys):
    command = f"evaluate --archive {labelled} --bundle {trained}/bundle --report {tmp_path}/report"
    assert main(command.split()) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])

    pixels = np.stack(list(read_archive(labelled).values()))
    true_sums = ds.dataset(labelled).to_table(columns=["digit_sum"])["digit_sum"].to_numpy()
    bundle = load_bundle(f"{trained}/bundle")
    with torch.inference_mode():
        images = torch.from_numpy(pixels).unsqueeze(1).float() * bundle.pixel_scale
        off = np.abs(bundle.network(images).argmax(dim=1).numpy() - true_sums)
    assert said["images"] == len(off)
    assert said["accuracy"] == pytest.approx((off == 0).mean())
    assert said["accuracy_within_1"] == pytest.approx((off <= 1).mean())
    assert said["mean_absolute_error"] == pytest.approx(off.mean())
    assert said["rejected"] == 0
    assert (tmp_path / "report/confusion.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "report/evaluation.json").read_text()) == said
