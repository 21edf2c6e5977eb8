import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.errors import InputError
from digitsum.training.config import TrainConfig
from digitsum.training.train import worker_resources

LEAST = 0.01
cluster_sizes = st.integers(1, 512).map(float) | st.floats(1, 512)


def resources(workers: int, num_cpus: float, num_gpus: float = 0, **options) -> dict[str, float]:
    batch = {"workers": workers, "batch_size": workers}
    return worker_resources(
        TrainConfig(archive="archive", out="model", **batch, **options), num_cpus, num_gpus
    )


@given(st.integers(1, 300), cluster_sizes)
def test_resources_are_largest_share(workers, cpus):
    if LEAST * workers > cpus:
        with pytest.raises(InputError, match="--workers"):
            resources(workers, cpus)
        return
    share = resources(workers, cpus)["CPU"]
    assert LEAST <= share <= 1
    assert workers * share <= cpus + 1e-9
    assert share == 1 or workers * (share + LEAST) > cpus - 1e-9


@pytest.mark.parametrize(
    ("workers", "cpus", "share"),
    [(1, 2, 1.0), (1, 1, 1.0), (3, 2, 0.66), (4, 5, 1.0), (4, 1, 0.25), (5, 1.4, 0.28), (8, 64, 1)],
)
def test_resources_of_some_clusters(workers, cpus, share):
    assert resources(workers, cpus) == {"CPU": share}


@given(st.integers(1, 300), st.floats(0.01, 64), cluster_sizes)
def test_resources_as_given(workers, asked, cpus):
    if workers * asked <= cpus:
        assert resources(workers, cpus, cpus_per_worker=asked) == {"CPU": asked}
    elif workers * asked > cpus + 1e-5:
        with pytest.raises(InputError, match="--cpus-per-worker or --workers"):
            resources(workers, cpus, cpus_per_worker=asked)


def test_resources_lacking():
    with pytest.raises(InputError, match=r"2 workers of 1\.5 CPUs do not fit on the"):
        resources(2, 2, cpus_per_worker=1.5)
    with pytest.raises(InputError, match="2 workers need a GPU each, but the cluster has 1"):
        resources(2, 2, 1, use_gpu=True)
    assert resources(2, 2, 2, use_gpu=True) == {"CPU": 1.0, "GPU": 1}
