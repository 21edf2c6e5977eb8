from unittest.mock import Mock

import pytest

from digitsum.errors import InputError, StorageError
from digitsum.storage.retries import STORAGE_ATTEMPTS, retried


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Collect the seconds that would be waited, and wait for nothing."""
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    return waits


def failing(error: type[BaseException], times: int = 99) -> Mock:
    """Return a function that fails so often, each time with another message, and then returns."""
    return Mock(side_effect=[*(error(f"call {n + 1}") for n in range(times)), "done"])


@pytest.mark.parametrize("times", range(STORAGE_ATTEMPTS))
def test_retried_recovers(waits, times):
    function = failing(StorageError, times)
    assert retried(function) == "done"
    assert (function.call_count, len(waits)) == (times + 1, times)


@pytest.mark.parametrize(
    ("kind", "num_calls"),
    [(StorageError, 8), (InputError, 1), (OSError, 1), (ValueError, 1), (KeyboardInterrupt, 1)],
)
def test_retried_raises_last_error(waits, kind, num_calls):
    function = failing(kind)
    with pytest.raises(kind, match=rf"^call {num_calls}$"):
        retried(function)
    assert (function.call_count, len(waits)) == (num_calls, num_calls - 1)


def test_retried_waits_double_with_jitter(waits):
    first_waits = set()
    for _ in range(5):
        waits.clear()
        with pytest.raises(StorageError):
            retried(failing(StorageError))
        for wait, least in zip(waits, (0.5, 1, 2, 4, 8, 16, 20), strict=True):
            assert least <= wait <= min(least + 1, 20)
        first_waits.add(waits[0])
    assert len(first_waits) > 1
