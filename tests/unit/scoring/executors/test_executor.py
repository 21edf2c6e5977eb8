import logging
import threading
import time
from types import SimpleNamespace
from typing import ClassVar

import pytest
from factories import make_chunk
from hypothesis import given
from hypothesis import strategies as st

from digitsum.errors import InputError
from digitsum.scoring import executors
from digitsum.scoring.config import ComputeOptions
from digitsum.scoring.executors import FEW_IMAGES, open_executor, uses_ray
from digitsum.scoring.executors.executor import LostChunk, pool_size
from digitsum.scoring.executors.threads import ThreadsExecutor, thread_counts


@given(
    st.none() | st.integers(1, 50),
    st.integers(1, 20),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_pool_size_within_bounds(wanted, least, room, growth, num_chunks):
    if wanted is not None:
        wanted = max(wanted, least)  # the options refuse less
    compute = ComputeOptions(max_actors=wanted, min_actors=least)
    initial, largest = pool_size(compute, room, room + growth, num_chunks)
    assert least <= initial <= largest
    assert initial <= max(room, least)
    assert largest <= max(num_chunks, least)
    if wanted is not None:
        assert largest == max(min(wanted, num_chunks), least)
    elif num_chunks >= room + growth >= least:
        assert largest == room + growth  # all that the cluster can become is used


class Worker:
    """Records the workers made and the threads that call them; fails for some rows."""

    made: ClassVar[list] = []
    threads: ClassVar[set] = set()
    together = threading.Barrier(1)

    def __init__(self, compute, errors=None):
        self.num_cores, self.errors = compute.cpus_per_actor, errors or {}
        Worker.made.append(self)

    def __call__(self, chunk):
        if threading.get_ident() not in Worker.threads:
            Worker.threads.add(threading.get_ident())
            Worker.together.wait(60)
        time.sleep(0.01)
        if chunk.first_row in self.errors:
            raise self.errors[chunk.first_row]
        return chunk.first_row


@pytest.fixture
def run(monkeypatch):
    """Map n chunks, which fail with these errors, by threads of a machine of four cores."""
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    monkeypatch.setattr(Worker, "made", [])
    monkeypatch.setattr(Worker, "threads", set())

    def run(num_chunks, compute=None, errors=None, *, keep_going=False):
        executor = ThreadsExecutor(
            lambda compute: Worker(compute, errors),
            compute or ComputeOptions(),
            keep_going=keep_going,
        )
        return executor.map([make_chunk(1, row) for row in range(num_chunks)])

    return run


@pytest.mark.parametrize(
    ("num_chunks", "compute", "num_threads", "num_cores"),
    [
        (90, ComputeOptions(), 5, 4),
        (3, ComputeOptions(), 3, 4),
        (1, ComputeOptions(), 1, 4),
        (90, ComputeOptions(cpus_per_actor=2), 3, 4),
        (90, ComputeOptions(cpus_per_actor=3), 2, 4),
        (90, ComputeOptions(max_actors=1), 2, 1),
        (1, ComputeOptions(max_actors=3), 1, 3),
        (90, ComputeOptions(max_actors=9), 5, 4),
    ],
)
def test_threads_score_each_chunk_once(
    run, num_chunks, compute, num_threads, num_cores, monkeypatch
):
    # Each thread waits until all have a chunk: else one might do the work of two.
    monkeypatch.setattr(Worker, "together", threading.Barrier(num_threads))
    assert sorted(run(num_chunks, compute)) == list(range(num_chunks))
    (worker,) = Worker.made
    assert (len(Worker.threads), worker.num_cores) == (num_threads, num_cores)
    assert thread_counts(compute, 4, num_chunks) == (num_threads, num_cores)


def test_thread_counts_too_few_cores():
    with pytest.raises(InputError, match="--cpus-per-actor 8: this process may use 4 cores"):
        thread_counts(ComputeOptions(cpus_per_actor=8), 4, 9)


def test_threads_input_error_ends_the_run(run):
    results = []
    errors = {0: InputError("cannot be written; make room.")}
    with pytest.raises(InputError, match="make room"):
        results.extend(run(500, errors=errors, keep_going=True))
    assert len(results) < 100


def test_threads_failed_chunk(run, caplog):
    errors = {1: ZeroDivisionError("by chance")}
    with caplog.at_level(logging.ERROR):
        results = list(run(4, errors=errors, keep_going=True))
    lost = LostChunk(make_chunk(1, 1))
    assert lost in results
    assert sorted(result for result in results if result != lost) == [0, 2, 3]
    assert "a.parquet, rows 1 to 1: a chunk failed" in caplog.text
    assert "by chance" in caplog.text
    with pytest.raises(ZeroDivisionError):
        list(run(4, errors=errors))


def test_threads_worker_cannot_be_made():
    def make_worker(compute):
        raise ValueError("no such network")

    executor = ThreadsExecutor(make_worker, ComputeOptions(), keep_going=True)
    with pytest.raises(ValueError, match="no such network"):
        list(executor.map([make_chunk()]))


def test_threads_closed_early_stop(run):
    results = run(2000, ComputeOptions(max_actors=1))
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 5  # all 2000 would take 10


@pytest.fixture
def set_modules(monkeypatch):
    """Set the modules that are imported, as the executors see them; none at first."""

    def set_modules(**modules):
        monkeypatch.setattr(executors, "sys", SimpleNamespace(modules=modules))

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    set_modules()
    return set_modules


@pytest.mark.usefixtures("set_modules")
@pytest.mark.parametrize("address", [None, "auto"])
@pytest.mark.parametrize(
    ("compute", "num_images", "after_death", "expected"),
    [
        ({}, FEW_IMAGES, False, False),
        ({}, FEW_IMAGES, True, True),
        ({}, FEW_IMAGES + 1, False, True),
        ({"gpus_per_actor": 0.5}, 1, False, True),
        ({"executor": "ray"}, 1, False, True),
        ({"executor": "threads"}, 1, True, False),
        ({"executor": "threads"}, FEW_IMAGES + 1, False, False),
    ],
)
def test_uses_ray(monkeypatch, address, compute, num_images, after_death, expected):
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        expected = compute.get("executor") != "threads"
    assert uses_ray(ComputeOptions(**compute), num_images, after_death=after_death) == expected


@pytest.mark.parametrize("is_connected", [False, True])
def test_uses_ray_if_connected(set_modules, is_connected):
    set_modules(ray=SimpleNamespace(is_initialized=lambda: is_connected))
    assert uses_ray(ComputeOptions(), 1) == is_connected


@pytest.mark.usefixtures("set_modules")
def test_open_executor_few_images():
    with open_executor(Worker, ComputeOptions(), 1) as executor:
        assert isinstance(executor, ThreadsExecutor)
