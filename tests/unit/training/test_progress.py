import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.training.progress import EpochProgress


def test_progress_counts_earlier_epochs():
    progress = EpochProgress(3, 4, 100, 1)
    assert (progress.num_seen, progress.fraction) == (200, 0.5)
    progress.advance(30)
    progress.advance(20)
    assert (progress.num_seen, progress.fraction) == (250, 0.625)


def test_progress_assumes_equal_workers():
    progress = EpochProgress(2, 3, 100, 4)
    ahead = progress.fraction_after(20)
    progress.advance(20)
    assert progress.num_seen == 180
    assert progress.fraction == ahead == 0.6


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


def test_progress_ends_at_1():
    progress = EpochProgress(2, 2, 100, 1)
    progress.advance(150)
    assert (progress.num_seen, progress.fraction) == (250, 1)


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
