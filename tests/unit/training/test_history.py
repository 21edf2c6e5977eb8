import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.training.calibration import Calibration
from digitsum.training.config import TrainConfig
from digitsum.training.metrics import Epoch, best_epoch, history_from_json, history_to_json
from digitsum.training.model_card import model_card

EPOCH = Epoch(
    epoch=1,
    train_loss=3.5,
    train_accuracy=0.1,
    validation_loss=3.25,
    validation_accuracy=0.125,
    train_images=4800,
    validation_images=1200,
    seconds=12.5,
    train_images_per_s=640.0,
)
numbers = st.floats(0, 1e9)
counts = st.integers(0, 2**53)
epochs = st.builds(
    Epoch, counts, numbers, numbers, numbers, numbers, counts, counts, numbers, numbers
)


def epoch(number: int, accuracy: float, loss: float) -> Epoch:
    return replace(EPOCH, epoch=number, validation_accuracy=accuracy, validation_loss=loss)


@given(st.lists(epochs, max_size=5))
def test_a_record_is_the_same_after_a_round_trip_through_json(history):
    text = history_to_json(history)
    assert history_from_json(text) == history
    assert history_from_json(text.encode()) == history
    assert [epoch["epoch"] for epoch in json.loads(text)] == [epoch.epoch for epoch in history]


@pytest.mark.parametrize(
    ("history", "best"),
    [
        ([epoch(1, 0.5, 2.0)], 1),
        ([epoch(1, 0.5, 2.0), epoch(2, 0.7, 9.0), epoch(3, 0.6, 1.0)], 2),
        ([epoch(1, 0.5, 2.0), epoch(2, 0.5, 1.0), epoch(3, 0.5, 1.5)], 2),
        ([epoch(1, 0.5, 1.0), epoch(2, 0.5, 1.0)], 1),
        ([epoch(1, 0.0, 3.0), epoch(2, 0.0, 2.0)], 2),
    ],
    ids=["one", "highest accuracy", "lowest loss of equals", "first of equals", "none right"],
)
def test_the_best_epoch_is_the_most_accurate_and_of_equals_the_surest(history, best):
    assert best_epoch(history).epoch == best


@given(st.lists(epochs, min_size=1, max_size=6))
def test_no_epoch_is_better_than_the_best(history):
    best = best_epoch(history)
    assert best in history
    for other in history:
        assert other.validation_accuracy <= best.validation_accuracy
        if other.validation_accuracy == best.validation_accuracy:
            assert other.validation_loss >= best.validation_loss


CALIBRATION = Calibration(temperature=1.25, images=1000)


def test_the_card_says_what_was_trained_on_what_and_what_it_came_to():
    config = TrainConfig(
        archive="s3://images/train",
        out="b",
        network="baseline",
        seed=7,
        batch_size=32,
        digits=3,
    )
    best = epoch(2, 0.9123, 0.4567)
    network = BaselineNetwork(BaselineConfig())
    card = model_card(config, [EPOCH, best, EPOCH], best, CALIBRATION, network, "runs/one")
    for said in (
        "sum of 3 handwritten digits",
        "Network `baseline`, 3,543,077 parameters",
        "s3://images/train; 4,800 images",
        "20% of the same archive, held out (seed 7); 1,200 images",
        "91.23%, loss 0.4567",
        "of epoch 2 of 3",
        "temperature 1.250, fitted on 1,000 of the validation images",
        "step size 0.001, constant, batch 32, weight decay 0, distortion 0, pixels times 1, seed 7",
        "one look at each image",
        "runs/one",
    ):
        assert said in card


def test_the_card_names_the_archive_it_was_validated_on():
    config = TrainConfig(archive="train", validation="s3://images/val", out="b")
    network = CounterNetwork(CounterConfig())
    card = model_card(config, [EPOCH], EPOCH, CALIBRATION, network, "runs/one")
    assert "s3://images/val; 1,200 images" in card
    assert "held out" not in card
    assert "a second look at images whose confidence is below 0.58" in card


def test_the_card_of_a_network_that_learned_from_composed_images_says_so():
    config = TrainConfig(
        out="b",
        glyphs="glyphs.npz",
        min_digits=2,
        batch_size=32,
        learning_rate=0.25,
        distortion=0.5,
    )
    network = CounterNetwork(CounterConfig())
    card = model_card(config, [EPOCH], EPOCH, CALIBRATION, network, "runs/one")
    for said in (
        "counter: the sum of 2 to 4 handwritten digits",
        "images of 40x168 pixels, composed anew for each epoch of glyphs.npz glyphs; 4,800 images",
        "images composed of glyphs that are not trained on; 1,200 images",
        "step size 0.25, rising and falling once, batch 32, weight decay 0.02, distortion 0.5,",
    ):
        assert said in card
    assert "held out" not in card
