import json
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event

from digitsum.storage.location import locate
from digitsum.training.metrics import (
    Epoch,
    EpochProgress,
    EpochTotals,
    best_epoch,
    history_from_json,
    history_to_json,
    write_event_file,
)


def totals_of(*batches: tuple[list[int], list[int], float]) -> EpochTotals:
    """Add batches, each of predicted sums, true sums and the mean loss."""
    totals = EpochTotals(torch.device("cpu"))
    for predicted, true, mean_loss in batches:
        log_probs = torch.nn.functional.one_hot(torch.tensor(predicted), 10).float()
        totals.add(log_probs, torch.tensor(true), torch.tensor(mean_loss))
    return totals


images = st.tuples(st.integers(0, 9), st.integers(0, 9))
batches = st.tuples(st.lists(images, min_size=1, max_size=9), st.floats(0, 100, width=32))


@given(st.lists(batches, max_size=5))
def test_totals_are_means_over_images(made):
    totals = totals_of(*[([p for p, _ in rows], [t for _, t in rows], x) for rows, x in made])
    assert totals.reduce() is totals  # there are no other workers
    num = sum(len(rows) for rows, _ in made)
    num_right = sum(predicted == true for rows, _ in made for predicted, true in rows)
    loss = sum(mean_loss * len(rows) for rows, mean_loss in made)
    assert totals.num_images == num
    assert totals.accuracy == pytest.approx(num_right / max(num, 1))
    assert totals.mean_loss == pytest.approx(loss / max(num, 1), rel=1e-6)


def test_totals_nan_loss():
    totals = totals_of(([1], [1], 0.5), ([1], [1], float("nan")), ([1], [1], 0.5))
    assert not totals.mean_loss < float("inf")


def test_totals_count_exactly():
    totals = EpochTotals(torch.device("cpu"))
    log_probs, sums = torch.eye(10)[[3]].expand(1000, 10), torch.full((1000,), 3)
    for _ in range(50):
        totals.add(log_probs, sums, torch.tensor(0.1, dtype=torch.bfloat16))
    totals._sums[2] += 2**30
    totals.add(log_probs[:1], sums[:1], torch.tensor(0.1))
    assert totals.num_images == 2**30 + 50_001


EPOCH = Epoch(1, 3.5, 0.1, 3.25, 0.125, 4800, 1200, 12.5, 640.0, 0.25)
numbers = st.floats(0, 1e9)
counts = st.integers(0, 2**53)
epochs = st.builds(
    Epoch, counts, numbers, numbers, numbers, numbers, counts, counts, numbers, numbers
)


@given(st.lists(epochs, max_size=5))
def test_history_round_trip(history):
    text = history_to_json(history)
    assert history_from_json(text) == history_from_json(text.encode()) == history
    assert [epoch["epoch"] for epoch in json.loads(text)] == [epoch.epoch for epoch in history]


figures = st.tuples(st.sampled_from([0.0, 0.5, 0.7]), st.sampled_from([1.0, 2.0, 9.0]))


@given(st.lists(figures, min_size=1, max_size=6))
def test_best_epoch(made):
    history = [
        replace(EPOCH, epoch=number, validation_accuracy=accuracy, validation_loss=loss)
        for number, (accuracy, loss) in enumerate(made, 1)
    ]
    ranked = sorted(history, key=lambda e: (-e.validation_accuracy, e.validation_loss, e.epoch))
    assert best_epoch(history) == ranked[0]


def events(data: bytes) -> list[Event]:
    """Read an event file: length, its checksum, the record, its checksum."""
    records, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        records.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += 12 + length + 4
    return records


def test_event_file_of_each_epoch(tmp_path):
    for number in (1, 2):
        write_event_file(locate(str(tmp_path)), replace(EPOCH, epoch=number))
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert [file.name[-5:] for file in files] == ["00001", "00002"]
    assert all(file.name.startswith("events.out.tfevents.") for file in files)
    scalars = {
        value.tag: (event.step, value.simple_value)
        for event in events(files[1].read_bytes())
        for value in event.summary.value
    }
    assert scalars == {
        "loss/train": (2, 3.5),
        "loss/validation": (2, 3.25),
        "accuracy/train": (2, pytest.approx(0.1)),
        "accuracy/validation": (2, 0.125),
        "speed/images_per_s": (2, 640.0),
        "speed/data_wait": (2, 0.25),
    }


@pytest.mark.parametrize(
    ("epoch", "num_epochs", "workers", "num_own", "seen", "fraction"),
    [
        (3, 4, 1, 0, 200, 0.5),
        (3, 4, 1, 50, 250, 0.625),
        (2, 3, 4, 20, 180, 0.6),
        (2, 2, 1, 150, 250, 1),
    ],
    ids=["begun", "own", "of all workers", "more than expected"],
)
def test_progress(epoch, num_epochs, workers, num_own, seen, fraction):
    progress = EpochProgress(epoch, num_epochs, 100, workers)
    assert progress.fraction_after(num_own) == fraction
    for _ in range(num_own // 10):
        progress.advance(10)
    assert (progress.num_seen, progress.fraction) == (seen, fraction)


@given(st.integers(1, 20), st.integers(1, 500), st.integers(1, 8), st.data())
def test_progress_is_continuous(epochs, share, workers, data):
    assert EpochProgress(1, epochs, share * workers, workers).fraction == 0
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


def test_waiting_excludes_use(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    progress = EpochProgress(1, 1, 100, 1)

    def slow():
        for number in range(3):
            clock[0] += 5
            yield number

    items = []
    for item in progress.waiting(slow()):
        clock[0] += 100
        items.append(item)
    assert (items, progress.waited_s) == ([0, 1, 2], 15)


def test_line_once_a_minute(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = EpochProgress(2, 3, 12_000, 2)
    lines = []
    for _ in range(130):
        clock[0] += 1
        progress.advance(50)
        lines.append(progress.line())
    assert [number + 1 for number, line in enumerate(lines) if line] == [60, 120]
    assert lines[59] == ("epoch 2 of 3, 50% of the training: 100 images/s, about 3 min 00 s left")
