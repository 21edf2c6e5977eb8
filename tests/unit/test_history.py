import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.training.card import model_card
from digitsum.training.config import TrainConfig
from digitsum.training.history import Epoch, best_epoch, history_from_json, history_to_json

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


def test_the_card_says_what_was_trained_on_what_and_what_it_came_to():
    config = TrainConfig(archive="s3://images/train", bundle="b", seed=7, batch_size=32, digits=3)
    best = epoch(2, 0.9123, 0.4567)
    card = model_card(config, [EPOCH, best, EPOCH], best, 3_543_077, "runs/one")
    for said in (
        "sum of 3 handwritten digits",
        "3,543,077 parameters",
        "s3://images/train, 4,800 images",
        "20% of the same archive, held out (seed 7), 1,200 images",
        "91.23%, loss 0.4567",
        "of epoch 2 of 3",
        "step size 0.001, batch 32, pixels times 1, seed 7",
        "runs/one",
    ):
        assert said in card


def test_the_card_names_the_archive_it_was_validated_on():
    config = TrainConfig(archive="train", validation="s3://images/val", bundle="b")
    card = model_card(config, [EPOCH], EPOCH, 1, "runs/one")
    assert "s3://images/val, 1,200 images" in card
    assert "held out" not in card
