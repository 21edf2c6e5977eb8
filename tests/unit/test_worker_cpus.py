import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.errors import InputError
from digitsum.training.config import TrainConfig
from digitsum.training.data import READ_CPUS
from digitsum.training.train import worker_cpus

LEAST = 0.01
cluster_sizes = st.integers(1, 512).map(float) | st.floats(1, 512)


def config(workers: int, cpus_per_worker: float | None = None) -> TrainConfig:
    return TrainConfig(
        archive="a",
        bundle="b",
        workers=workers,
        batch_size=workers,
        cpus_per_worker=cpus_per_worker,
    )


@given(st.integers(1, 300), cluster_sizes)
def test_by_default_workers_leave_room_to_a_task_that_reads(workers, cpus):
    if LEAST * workers > cpus - READ_CPUS:
        with pytest.raises(InputError, match="--workers"):
            worker_cpus(config(workers), cpus)
        return
    share = worker_cpus(config(workers), cpus)
    assert LEAST <= share <= 1
    assert workers * share <= cpus - READ_CPUS + 1e-9


@given(st.integers(1, 40), cluster_sizes)
def test_by_default_workers_reserve_as_much_of_a_cpu_as_can_be(workers, cpus):
    share = worker_cpus(config(workers), cpus)
    assert share == 1 or workers * (share + LEAST) > cpus - READ_CPUS - 1e-9


@pytest.mark.parametrize(
    ("workers", "cpus", "share"),
    [(1, 2, 1.0), (1, 1, 0.5), (2, 2, 0.75), (3, 2, 0.5), (4, 5, 1.0), (4, 4, 0.87), (8, 64, 1.0)],
)
def test_the_share_of_clusters_of_some_sizes(workers, cpus, share):
    assert worker_cpus(config(workers), cpus) == share


@given(st.integers(1, 300), st.floats(0.01, 64), cluster_sizes)
def test_a_share_that_is_asked_for_is_given_or_refused_where_it_leaves_none(workers, asked, cpus):
    wanted = config(workers, asked)
    if workers * asked <= cpus - READ_CPUS:
        assert worker_cpus(wanted, cpus) == asked
    else:
        with pytest.raises(InputError, match="--cpus-per-worker or --workers"):
            worker_cpus(wanted, cpus)


def test_the_refusal_says_what_was_asked_of_what():
    with pytest.raises(InputError, match=r"2 workers of 1 CPUs leave less than the 0\.5 of the"):
        worker_cpus(config(2, 1.0), 2)


def test_shares_that_fill_what_is_left_but_for_rounding_are_taken():
    config = TrainConfig(archive="archive", bundle="bundle", workers=5, batch_size=60)
    assert worker_cpus(config, 1.9) == 0.28
