import json
from pathlib import Path

import numpy as np
import pytest

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.archive.synth import compose
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor
from digitsum.options import ImageShape

NUM_IMAGES = 1000


@pytest.fixture(scope="module")
def predictor():
    return TorchPredictor(load_model(packaged_model()), batch_size=64, num_threads=2)


def composed(num_digits: int, width: int = 168, seed: int = 0):
    rng = np.random.default_rng(seed)
    return compose(
        load_glyphs(EMBEDDED, "test"), rng, NUM_IMAGES, num_digits, ImageShape(40, width)
    )


def test_it_is_small_and_holds_what_a_bundle_holds():
    files = {file.name: file.stat().st_size for file in Path(packaged_model()).iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "metrics.json", "MODEL_CARD.md"}
    assert sum(files.values()) < 1_500_000
    metrics = json.loads((Path(packaged_model()) / "metrics.json").read_text())
    assert metrics["test"]["model_digest"] == load_model(packaged_model()).digest


def test_its_card_names_no_place_of_the_machine_it_was_trained_on():
    for file in ("MODEL_CARD.md", "metrics.json", "config.json"):
        text = (Path(packaged_model()) / file).read_text()
        assert "/tmp" not in text
        assert "/work" not in text
        assert "/home" not in text


def test_it_reads_what_it_never_saw_about_as_well_as_its_metrics_say(predictor):
    images = composed(4)
    predictions = predictor.predict(images.pixels)
    accuracy = (predictions.sums == images.digit_sums).mean()
    metrics = json.loads((Path(packaged_model()) / "metrics.json").read_text())
    # Three standard deviations of a thousand images, and no more.
    assert accuracy == pytest.approx(metrics["test"]["accuracy"], abs=0.022)
    exact = (predictions.readings.digits[:, :4] == images.digits).all(axis=1)
    assert exact.mean() > 0.9


@pytest.mark.parametrize(("num_digits", "width"), [(1, 40), (2, 168), (8, 336)])
def test_it_reads_other_numbers_of_digits_on_other_widths(predictor, num_digits, width):
    images = composed(num_digits, width)
    predictions = predictor.predict(images.pixels)
    assert (predictions.sums == images.digit_sums).mean() > 0.97**num_digits
    counts = predictions.readings.count_probs.argmax(axis=1)
    assert (counts == num_digits).mean() > 0.95


def test_digits_are_found_where_they_stand(predictor):
    tile = load_glyphs(EMBEDDED, "test")
    pixels = np.zeros((100, 40, 168), np.uint8)
    x = np.arange(100) % 140
    for image in range(100):
        pixels[image, 6:34, x[image] : x[image] + 28] = tile.pixels[5 * image]
    read = predictor.predict(pixels).readings
    centres = read.digit_x[:, 0]
    one = (read.digits >= 0).sum(axis=1) == 1
    assert one.mean() > 0.9
    assert np.abs(centres[one] - (x[one] + 14)).mean() < 5
