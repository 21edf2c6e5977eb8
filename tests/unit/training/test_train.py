import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.errors import InputError
from digitsum.training.config import TrainConfig
from digitsum.training.train import worker_cpus

LEAST = 0.01
cluster_sizes = st.integers(1, 512).map(float) | st.floats(1, 512)


def config(workers: int, cpus_per_worker: float | None = None) -> TrainConfig:
    return TrainConfig(
        archive="a",
        out="b",
        workers=workers,
        batch_size=workers,
        cpus_per_worker=cpus_per_worker,
    )


@given(st.integers(1, 300), cluster_sizes)
def test_worker_cpus_fit_by_default(workers, cpus):
    if LEAST * workers > cpus:
        with pytest.raises(InputError, match="--workers"):
            worker_cpus(config(workers), cpus)
        return
    share = worker_cpus(config(workers), cpus)
    assert LEAST <= share <= 1
    assert workers * share <= cpus + 1e-9


@given(st.integers(1, 40), cluster_sizes)
def test_worker_cpus_are_largest_share(workers, cpus):
    share = worker_cpus(config(workers), cpus)
    assert share == 1 or workers * (share + LEAST) > cpus - 1e-9


@pytest.mark.parametrize(
    ("workers", "cpus", "share"),
    [(1, 2, 1.0), (1, 1, 1.0), (2, 2, 1.0), (3, 2, 0.66), (4, 5, 1.0), (4, 1, 0.25), (8, 64, 1.0)],
)
def test_worker_cpus_of_some_clusters(workers, cpus, share):
    assert worker_cpus(config(workers), cpus) == share


@given(st.integers(1, 300), st.floats(0.01, 64), cluster_sizes)
def test_worker_cpus_as_given(workers, asked, cpus):
    wanted = config(workers, asked)
    if workers * asked <= cpus:
        assert worker_cpus(wanted, cpus) == asked
    elif workers * asked > cpus + 1e-5:
        with pytest.raises(InputError, match="--cpus-per-worker or --workers"):
            worker_cpus(wanted, cpus)


def test_worker_cpus_too_many():
    with pytest.raises(InputError, match=r"2 workers of 1\.5 CPUs do not fit on the"):
        worker_cpus(config(2, 1.5), 2)


def test_worker_cpus_rounding():
    config = TrainConfig(archive="archive", out="model", workers=5, batch_size=60)
    assert worker_cpus(config, 1.4) == 0.28
