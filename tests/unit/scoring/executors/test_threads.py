"""Chunks through threads: each once, errors as Ray's actors would have them, cores shared out."""

import threading
import time
from typing import ClassVar

import pytest

from digitsum.archive.chunks import Chunk
from digitsum.errors import InputError
from digitsum.scoring.config import ActorOptions
from digitsum.scoring.executors import executor
from digitsum.scoring.executors.executor import FEW_IMAGES, chunk_engine, uses_ray
from digitsum.scoring.executors.threads import map_chunks_in_threads, share_out


class Worker:
    """Counts the workers and what they did; fails where it is told to."""

    made: ClassVar = []
    used: ClassVar = {}
    together: ClassVar = threading.Barrier(1)

    def __init__(self, actors, fails=None):
        self.cores, self.fails = actors.cpus_per_actor, fails or {}
        self.predictor = object()
        Worker.made.append(self)

    def __call__(self, row):
        if threading.get_ident() not in Worker.used:
            Worker.used[threading.get_ident()] = self
            Worker.together.wait(60)
        assert Worker.used[threading.get_ident()] is self
        time.sleep(0.01)
        if row["first_row"] in self.fails:
            raise self.fails[row["first_row"]]
        return {"first_row": row["first_row"]}


@pytest.fixture(autouse=True)
def fresh():
    Worker.made, Worker.used = [], {}


def chunks_of(number):
    return [Chunk("a.parquet", "f", 2, 3, None, (row,), row, 1) for row in range(number)]


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)


def scored(number, options=None, **more):
    options = options or ActorOptions()
    Worker.used = {}
    lose = more.pop("lose_failed", False)
    found = map_chunks_in_threads(Worker, more, chunks_of(number), options, lose_failed=lose)
    return sorted(result["first_row"] for result in found)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("number", "options", "threads", "cores"),
    [
        (90, ActorOptions(), 5, 4),
        (3, ActorOptions(), 3, 4),
        (1, ActorOptions(), 1, 4),
        (90, ActorOptions(cpus_per_actor=2), 3, 4),
        (90, ActorOptions(cpus_per_actor=3), 2, 4),
        (90, ActorOptions(max_actors=1), 2, 1),
        (1, ActorOptions(max_actors=3), 1, 3),
        (90, ActorOptions(max_actors=9), 5, 4),
    ],
)
def test_every_chunk_is_scored_once_on_all_cores(number, options, threads, cores, monkeypatch):
    # Each thread waits until all have a chunk: else one might do the work of two.
    monkeypatch.setattr(Worker, "together", threading.Barrier(threads))
    assert scored(number, options) == list(range(number))
    [made] = Worker.made
    assert made.cores == cores
    used = list(Worker.used.values())
    assert len({id(worker) for worker in used}) == len(used) == threads
    assert {id(worker.predictor) for worker in used} == {id(made.predictor)}
    assert share_out(4, options, number) == (threads, cores)


def test_more_cores_than_there_are_cannot_be_had():
    with pytest.raises(InputError, match="--cpus-per-actor 8: this process may use 4 cores"):
        share_out(4, ActorOptions(cpus_per_actor=8), 9)


@pytest.mark.usefixtures("four_cores")
def test_an_error_ends_the_run_and_what_had_not_begun_does_not_begin():
    done = []
    results = map_chunks_in_threads(
        Worker,
        {"fails": {0: InputError("cannot be written; make room.")}},
        chunks_of(500),
        ActorOptions(),
        lose_failed=True,
    )
    with pytest.raises(InputError, match="make room"):
        done.extend(results)
    assert len(done) < 100


def test_a_failed_chunk_has_no_result_where_it_may_be_lost(capsys):
    failing = {"fails": {1: ZeroDivisionError("by chance")}}
    assert scored(4, lose_failed=True, **failing) == [0, 2, 3]
    assert "by chance" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        scored(4, **failing)


class NeverMade:
    def __init__(self, actors):
        raise ValueError("no such network")


def test_a_worker_that_cannot_be_made_is_no_chunks_fault():
    results = map_chunks_in_threads(NeverMade, {}, chunks_of(3), ActorOptions(), lose_failed=True)
    with pytest.raises(ValueError, match="no such network"):
        list(results)


def test_who_stops_listening_stops_the_rest():
    results = map_chunks_in_threads(Worker, {}, chunks_of(2000), ActorOptions(max_actors=1))
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 5  # all 2000 would take 10


@pytest.fixture
def no_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(executor, "sys", type("NoModules", (), {"modules": {}}))


@pytest.mark.usefixtures("no_ray")
def test_few_images_need_no_ray_but_many_gpus_and_clusters_do(monkeypatch):
    assert not uses_ray(ActorOptions(), FEW_IMAGES)
    assert uses_ray(ActorOptions(), FEW_IMAGES, after_death=True)
    assert not uses_ray(ActorOptions(executor="threads"), 1, after_death=True)
    assert uses_ray(ActorOptions(), FEW_IMAGES + 1)
    assert uses_ray(ActorOptions(gpus_per_actor=0.5), 1)
    assert uses_ray(ActorOptions(executor="ray"), 1)
    assert not uses_ray(ActorOptions(executor="threads"), FEW_IMAGES + 1)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert uses_ray(ActorOptions(), 1)
    assert not uses_ray(ActorOptions(executor="threads"), 1)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("is_connected", [False, True])
def test_a_process_that_is_connected_to_ray_uses_it(monkeypatch, is_connected):
    ray = type("Ray", (), {"is_initialized": staticmethod(lambda: is_connected)})
    monkeypatch.setattr(executor, "sys", type("Modules", (), {"modules": {"ray": ray}}))
    assert uses_ray(ActorOptions(), 1) == is_connected


@pytest.mark.usefixtures("no_ray")
def test_without_ray_chunks_go_through_threads():
    with chunk_engine(ActorOptions(), 1) as map_chunks:
        assert map_chunks is map_chunks_in_threads


def test_threads_have_no_gpus():
    with pytest.raises(InputError, match="--executor threads"):
        ActorOptions(executor="threads", gpus_per_actor=1)
