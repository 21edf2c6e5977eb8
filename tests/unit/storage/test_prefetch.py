import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.storage.prefetch import mapped_ahead, prefetched


@given(st.lists(st.integers() | st.none()))
def test_prefetched_order(items):
    assert list(prefetched(iter(items))) == items


def test_prefetched_works_ahead():
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    prefetching = prefetched(items())
    assert next(prefetching) == 1
    assert made.wait(10)
    assert list(prefetching) == [2]


def test_prefetched_one_ahead_only():
    made = []
    prefetching = prefetched(made.append(number) or number for number in range(10))
    next(prefetching)
    prefetching.close()
    assert made in ([0], [0, 1])


@given(st.lists(st.integers()), st.integers(1, 4))
def test_mapped_ahead_order(items, num_threads):
    assert list(mapped_ahead(str, items, num_threads)) == [str(item) for item in items]


def test_mapped_ahead_one_per_thread():
    made = []
    mapping = mapped_ahead(made.append, range(10), 2)
    next(mapping)
    mapping.close()
    assert len(made) <= 3


def test_mapped_ahead_is_parallel():
    both = threading.Barrier(2)
    assert list(mapped_ahead(lambda _: both.wait(10) >= 0, range(2), 2)) == [True, True]


@pytest.mark.parametrize(
    "start",
    [
        lambda: prefetched(1 // item for item in [1, 1, 0]),
        lambda: mapped_ahead(lambda item: 1 // item, [1, 1, 0, 1], 2),
    ],
    ids=["prefetched", "mapped_ahead"],
)
def test_error_after_earlier_items(start):
    iterator = start()
    assert [next(iterator), next(iterator)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(iterator)
