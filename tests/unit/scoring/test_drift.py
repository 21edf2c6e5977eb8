import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.archive.synth import compose
from digitsum.manifest import parse_json, to_json
from digitsum.model.outputs import CONFIDENCE_EDGES, DigitReadings, Predictions, PredictionStats
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.options import DEFAULT_SHAPE, ImageShape
from digitsum.scoring.drift import (
    MAX_INDEX,
    MAX_P_VALUE,
    MIN_IMAGES,
    Shift,
    drift_sentence,
    find_shift,
    find_shifts,
)

REFERENCE = PredictionStats((5000,), (5000,), (5000,))
counts = st.lists(st.integers(0, 400), min_size=1, max_size=40).map(tuple)


def predictions(sums, confidences, digits_of=None) -> Predictions:
    readings = None
    if digits_of is not None:
        probs = np.eye(9, dtype=np.float32)[list(digits_of)]
        nothing = np.zeros((len(sums), 0))
        readings = DigitReadings(nothing.astype(np.int8), nothing.astype(np.int16), probs)
    return Predictions(np.array(sums, np.int16), np.array(confidences, np.float32), readings)


def test_distributions_of_predictions():
    found = PredictionStats.of(predictions([3, 0, 3], [0.2, 0.5, 1.0], [4, 4, 2]))
    confidences = (1, 1, *[0] * (len(CONFIDENCE_EDGES) - 2), 1)
    assert found == PredictionStats((1, 0, 0, 2), confidences, (0, 0, 1, 0, 2))
    assert found.num_images == 3
    assert PredictionStats.of(predictions([3], [0.5])).digit_counts == ()
    none = PredictionStats.of(predictions([], [], []))
    assert (none.num_images, (none + found).num_images) == (0, 3)


def test_distributions_without_rejected_rows():
    found = predictions([1, 2, 3], [0.1, 0.2, 0.3], [1, 2, 3])
    kept = found.without({1: "cannot be decoded"})
    assert PredictionStats.of(kept).sums == (0, 1, 0, 1)
    assert PredictionStats.of(kept).digit_counts == (0, 1, 0, 1)
    assert found.without({}) is found


@given(counts, counts, counts)
def test_distributions_add_up(one, two, three):
    a, b = PredictionStats(one, two, ()), PredictionStats(two, three, one)
    assert (a + b).num_images == a.num_images + b.num_images
    assert a + b == b + a
    assert parse_json(PredictionStats, to_json(a + b), "here") == a + b


def test_find_shift_formula():
    expected = 0.1 * math.log(0.6 / 0.5) - 0.1 * math.log(0.4 / 0.5)
    shift = find_shift("sums", (600, 400), (500, 500))
    assert shift.index == pytest.approx(expected, rel=0.01)


@given(counts, counts)
def test_find_shift_any_counts(one, other):
    shift = find_shift("sums", one, other)
    assert 0 <= shift.index < math.inf
    assert 0 <= shift.p_value <= 1
    same = find_shift("sums", one, one)
    assert same.index == pytest.approx(0, abs=1e-12)
    assert same.p_value == pytest.approx(1)


@given(st.integers(0, 10_000))
def test_find_shift_samples_of_one_distribution(seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(rng.integers(2, 40), 1.0))
    found = rng.multinomial(rng.integers(MIN_IMAGES, 3000), probs)
    reference = rng.multinomial(5000, probs)
    shift = find_shift("sums", tuple(found.tolist()), tuple(reference.tolist()))
    assert not (shift.index > MAX_INDEX and shift.p_value < MAX_P_VALUE / 100)


def test_is_drift_large_and_certain():
    trifle = find_shift("sums", (520_000, 480_000), (500_000, 500_000))
    chance = find_shift("sums", (12, 18), (17, 13))
    assert trifle.p_value < MAX_P_VALUE
    assert trifle.index < MAX_INDEX
    assert not trifle.is_drift
    assert not chance.is_drift
    shift = find_shift("confidences", (300, 700), (700, 300))
    assert shift.is_drift
    assert "the confidences have drifted" in shift.sentence()


def test_find_shifts_enough_images():
    few = PredictionStats((MIN_IMAGES - 1,), (MIN_IMAGES - 1,), ())
    assert find_shifts(few, REFERENCE) == find_shifts(REFERENCE, few) == ()
    assert "not judged" in drift_sentence(())
    shifts = find_shifts(PredictionStats((200,), (200,), ()), REFERENCE)
    assert [shift.quantity for shift in shifts] == ["sums", "confidences"]


def test_drift_sentence_names_quantities():
    calm, wild = Shift("sums", 0.01, 0.5), Shift("digit_counts", 1.5, 1e-9)
    assert drift_sentence((calm, wild)).startswith("drift: the numbers of digits have drifted")
    assert "sums" not in drift_sentence((calm, wild))
    assert drift_sentence((calm,)).startswith("no drift: the predicted sums are as expected")


NIGHTS, NIGHT_IMAGES = 100, 200


def composed(num_images: int, digits: int = 4, shape: ImageShape = DEFAULT_SHAPE) -> np.ndarray:
    rng = np.random.default_rng(0)
    return compose(load_glyphs(EMBEDDED, "test"), rng, num_images, digits, shape).pixels


@pytest.fixture(scope="module")
def shifts_of():
    """Judge images by the model that comes with digitsum."""
    model = load_model(packaged_model())
    predict = make_predictor(model, num_threads=2).predict
    return lambda pixels: find_shifts(PredictionStats.of(predict(pixels)), model.reference)


def test_drift_alarms_of_usual_images(shifts_of):
    nights = [shifts_of(pixels) for pixels in np.split(composed(NIGHTS * NIGHT_IMAGES), NIGHTS)]
    assert [len(shifts) for shifts in nights] == [3] * NIGHTS
    assert sum(any(shift.is_drift for shift in shifts) for shifts in nights) <= 1


SMALL = ((0, 0), (10, 10), (42, 42))


@pytest.mark.parametrize(
    "make",
    [
        lambda: 255 - composed(NIGHT_IMAGES),
        lambda: np.pad(composed(NIGHT_IMAGES)[:, ::2, ::2], SMALL),
        lambda: composed(NIGHT_IMAGES, 5, ImageShape(40, 210)),
    ],
    ids=["inverted ink", "smaller digits", "five digits"],
)
def test_drift_alarm_of_other_images(shifts_of, make):
    shifts = shifts_of(make())
    assert any(shift.is_drift for shift in shifts), shifts
