import json
from pathlib import Path

import numpy as np
import pytest

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor

NUM_IMAGES = 600
METRICS = json.loads((Path(packaged_model()) / "metrics.json").read_text())


@pytest.fixture(scope="module")
def predictor(packaged):
    return TorchPredictor(packaged, batch_size=64, num_threads=2)


def test_files_are_complete_and_small():
    files = {file.name: file.stat().st_size for file in Path(packaged_model()).iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "metrics.json", "MODEL_CARD.md"}
    assert sum(files.values()) < 1_500_000
    assert METRICS["test"]["model_digest"] == load_model(packaged_model()).digest
    for name in files.keys() - {"model.safetensors"}:  # no places of the machine that trained it
        text = (Path(packaged_model()) / name).read_text()
        assert not any(place in text for place in ("/tmp", "/work", "/home"))


def test_accuracy_is_that_of_the_metrics(predictor, compose_images):
    images = compose_images(NUM_IMAGES)
    predictions = predictor.predict(images.pixels)
    accuracy = (predictions.sums == images.digit_sums).mean()
    # About three standard deviations of that many images.
    assert accuracy == pytest.approx(METRICS["test"]["accuracy"], abs=0.025)
    exact = (predictions.readings.digits[:, :4] == images.digits).all(axis=1)
    assert exact.mean() > 0.9


@pytest.mark.parametrize(("num_digits", "width"), [(1, 40), (2, 168), (8, 336)])
def test_other_counts_and_widths(predictor, compose_images, num_digits, width):
    images = compose_images(NUM_IMAGES, num_digits, width)
    predictions = predictor.predict(images.pixels)
    assert (predictions.sums == images.digit_sums).mean() > 0.97**num_digits
    counts = predictions.readings.count_probs.argmax(axis=1)
    assert (counts == num_digits).mean() > 0.95


def test_digit_x_is_the_centre(predictor):
    glyphs = load_glyphs(EMBEDDED, "test")
    pixels = np.zeros((100, 40, 168), np.uint8)
    x = np.arange(100) % 140
    for image in range(100):
        pixels[image, 6:34, x[image] : x[image] + 28] = glyphs.pixels[5 * image]
    readings = predictor.predict(pixels).readings
    is_one = (readings.digits >= 0).sum(axis=1) == 1
    assert is_one.mean() > 0.9
    assert np.abs(readings.digit_x[is_one, 0] - (x[is_one] + 14)).mean() < 5


def test_packaged_by_name():
    assert load_model("packaged").digest == load_model(packaged_model()).digest
