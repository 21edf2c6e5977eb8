import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.storage.prefetch import mapped_ahead, prefetched


@given(st.lists(st.integers() | st.none()))
def test_all_items_come_in_order(items):
    assert list(prefetched(iter(items))) == items


def test_the_next_item_is_made_while_one_is_in_use():
    made = threading.Event()

    def items():
        yield 1
        made.set()
        yield 2

    found = prefetched(items())
    assert next(found) == 1
    assert made.wait(10)
    assert list(found) == [2]


def test_no_more_than_one_is_made_ahead():
    made = []

    def items():
        for number in range(10):
            made.append(number)
            yield number

    found = prefetched(items())
    next(found)
    found.close()
    assert made in ([0], [0, 1])


def test_an_error_comes_after_what_came_before_it():
    def items():
        yield 1
        yield 2
        raise OSError("gone")

    found = prefetched(items())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(found)


@given(st.lists(st.integers()), st.integers(1, 4))
def test_what_is_mapped_ahead_comes_in_order(items, num_threads):
    assert list(mapped_ahead(str, items, num_threads)) == [str(item) for item in items]


def test_each_thread_is_one_item_ahead_and_no_more():
    made = []
    found = mapped_ahead(made.append, range(10), 2)
    next(found)
    found.close()
    assert len(made) <= 3


def test_what_is_mapped_ahead_is_made_at_once():
    both = threading.Barrier(2)
    assert list(mapped_ahead(lambda _: both.wait(10) >= 0, range(2), 2)) == [True, True]


def test_an_error_comes_after_what_was_mapped_before_it():
    found = mapped_ahead(lambda item: 1 // item, [1, 0, 1], 2)
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
