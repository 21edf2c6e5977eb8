import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from digitsum.training.metrics import Totals
from digitsum.training.progress import EpochProgress


def totals_of(*batches: tuple[list[int], list[int], float]) -> Totals:
    """Add batches, each of predicted sums, true sums and the mean loss."""
    totals = Totals(torch.device("cpu"))
    for predicted, true, mean_loss in batches:
        log_probs = torch.nn.functional.one_hot(torch.tensor(predicted), 10).float()
        totals.add(log_probs, torch.tensor(true), torch.tensor(mean_loss))
    return totals


def test_loss_and_accuracy_are_means_over_images_and_not_over_batches():
    totals = totals_of(([1, 2, 3], [1, 2, 4], 0.5), ([5], [6], 2.5))
    assert totals.num_images == 4
    assert totals.accuracy == 0.5
    assert totals.mean_loss == pytest.approx(1.0)


images = st.tuples(st.integers(0, 9), st.integers(0, 9))
batches = st.tuples(st.lists(images, min_size=1, max_size=9), st.floats(0, 100, width=32))


@given(st.lists(batches, max_size=5))
def test_figures_are_those_of_a_loop_over_the_images(made):
    totals = totals_of(*[([p for p, _ in rows], [t for _, t in rows], x) for rows, x in made])
    num = sum(len(rows) for rows, _ in made)
    assert totals.num_images == num
    if num:
        right = sum(predicted == true for rows, _ in made for predicted, true in rows)
        assert totals.accuracy == pytest.approx(right / num)
        loss = sum(mean_loss * len(rows) for rows, mean_loss in made)
        assert totals.mean_loss == pytest.approx(loss / num, rel=1e-6)


def test_nothing_added_has_no_images_and_no_loss():
    assert Totals(torch.device("cpu")).num_images == 0
    assert Totals(torch.device("cpu")).mean_loss == 0
    assert Totals(torch.device("cpu")).accuracy == 0


def test_without_other_workers_nothing_is_added_by_reducing():
    totals = totals_of(([1, 2], [1, 3], 0.25))
    assert totals.reduce() is totals
    assert (totals.num_images, totals.accuracy, totals.mean_loss) == (2, 0.5, 0.25)


def test_a_loss_that_is_no_number_is_seen_in_the_mean():
    totals = totals_of(([1], [1], 0.5), ([1], [1], float("nan")), ([1], [1], 0.5))
    assert not totals.mean_loss < float("inf")


def test_many_images_are_counted_exactly():
    totals = Totals(torch.device("cpu"))
    log_probs, sums = torch.eye(10)[[3]].expand(1000, 10), torch.full((1000,), 3)
    for _ in range(50):
        totals.add(log_probs, sums, torch.tensor(0.1, dtype=torch.bfloat16))
    totals._sums[2] += 2**30
    totals.add(log_probs[:1], sums[:1], torch.tensor(0.1))
    assert totals.num_images == 2**30 + 50_001


def test_progress_counts_from_the_epochs_before():
    progress = EpochProgress(3, 4, 100, 1)
    assert progress.num_seen == 200
    assert progress.fraction == 0.5
    progress.advance(30)
    progress.advance(20)
    assert progress.num_seen == 250
    assert progress.fraction == 0.625


def test_training_begins_at_0_and_ends_at_1():
    assert EpochProgress(1, 7, 100, 1).fraction == 0
    last = EpochProgress(7, 7, 100, 1)
    last.advance(100)
    assert last.fraction == 1


def test_a_worker_takes_the_others_to_be_as_far():
    progress = EpochProgress(1, 2, 120, 4)
    progress.advance(15)
    assert progress.num_seen == 60
    assert progress.fraction == 0.25


@given(st.integers(1, 20), st.integers(1, 500), st.integers(1, 8), st.data())
def test_the_next_epoch_goes_on_where_the_last_one_ended(epochs, share, workers, data):
    epoch = data.draw(st.integers(1, epochs))
    progress = EpochProgress(epoch, epochs, share * workers, workers)
    before = progress.fraction
    for _ in range(share):
        progress.advance(1)
        assert progress.fraction >= before
        before = progress.fraction
    following = EpochProgress(epoch + 1, epochs, share * workers, workers)
    assert progress.num_seen == following.num_seen
    assert progress.fraction == pytest.approx(epoch / epochs)


def test_images_beyond_what_an_epoch_was_said_to_have_do_not_lead_beyond_the_end():
    progress = EpochProgress(2, 2, 100, 1)
    progress.advance(150)
    assert progress.fraction == 1
    assert progress.num_seen == 250


def test_the_fraction_after_images_is_that_when_they_were_seen():
    progress = EpochProgress(2, 3, 100, 4)
    ahead = progress.fraction_after(20)
    progress.advance(20)
    assert progress.fraction == ahead == 0.6


def test_only_the_waiting_for_items_is_counted(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    progress = EpochProgress(1, 1, 100, 1)

    def slow():
        for number in range(3):
            clock[0] += 5
            yield number

    found = []
    for item in progress.waiting(slow()):
        clock[0] += 100
        found.append(item)
    assert (found, progress.waited_s) == ([0, 1, 2], 15)


def test_a_line_is_due_once_a_minute(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = EpochProgress(2, 3, 12_000, 2)
    said = []
    for _ in range(130):
        clock[0] += 1
        progress.advance(50)
        said.append(progress.due())
    assert [number + 1 for number, line in enumerate(said) if line] == [60, 120]
    assert said[59] == ("epoch 2 of 3, 50% of the training: 100 images/s, about 3 min 00 s left")
