"""The model that comes with digitsum, on images that are as they should be, and that are not."""

import numpy as np
import pytest

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.archive.synth import compose
from digitsum.model.prediction_stats import Distributions
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.options import DEFAULT_SHAPE, ImageShape
from digitsum.scoring.drift import find_shifts

NIGHTS, IMAGES = 100, 200


@pytest.fixture(scope="module")
def model():
    return load_model(packaged_model())


@pytest.fixture(scope="module")
def predictor(model):
    return make_predictor(model)


def composed(num, digits=4, shape=DEFAULT_SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    return compose(load_glyphs(EMBEDDED, "test"), rng, num, digits, shape).pixels


def night(model, predictor, pixels):
    assert model.reference is not None
    return find_shifts(Distributions.of(predictor.predict(pixels)), model.reference)


def test_a_hundred_nights_of_images_as_they_should_be_raise_at_most_one_alarm(model, predictor):
    pixels = np.split(composed(NIGHTS * IMAGES), NIGHTS)
    found = [night(model, predictor, of_night) for of_night in pixels]
    assert all(len(shifts) == 3 for shifts in found)
    assert sum(any(shift.is_drift for shift in shifts) for shifts in found) <= 1


def scaled_down(pixels):
    small = pixels[:, ::2, ::2]
    return np.pad(small, ((0, 0), (10, 10), (42, 42)))


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(lambda: 255 - composed(IMAGES), id="inverted ink"),
        pytest.param(lambda: scaled_down(composed(IMAGES)), id="smaller digits"),
        pytest.param(lambda: composed(IMAGES, 5, ImageShape(40, 210)), id="five digits"),
    ],
)
def test_images_of_another_kind_raise_it(model, predictor, pixels):
    shifts = night(model, predictor, pixels())
    assert any(shift.is_drift for shift in shifts), shifts
