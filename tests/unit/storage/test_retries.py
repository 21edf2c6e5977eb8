import pytest

from digitsum.errors import InputError, StorageError
from digitsum.storage.retries import STORAGE_ATTEMPTS, retried


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Collect the seconds that would be waited, and wait for nothing."""
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    return waits


class Failing:
    """A function that fails so often, each time with another message."""

    def __init__(self, times: int, error: type[BaseException]) -> None:
        self.times, self.error, self.num_calls = times, error, 0

    def __call__(self) -> str:
        self.num_calls += 1
        if self.num_calls <= self.times:
            raise self.error(f"call {self.num_calls}")
        return "done"


@pytest.mark.parametrize("times", range(STORAGE_ATTEMPTS))
def test_retried_recovers(waits, times):
    function = Failing(times, StorageError)
    assert retried(function) == "done"
    assert function.num_calls == times + 1
    assert len(waits) == times


def test_retried_raises_last_error(waits):
    function = Failing(99, StorageError)
    with pytest.raises(StorageError, match=r"^call 8$"):
        retried(function)
    assert function.num_calls == STORAGE_ATTEMPTS == 8
    assert len(waits) == STORAGE_ATTEMPTS - 1


@pytest.mark.parametrize("kind", [InputError, OSError, ValueError, KeyboardInterrupt])
def test_retried_other_errors_once(waits, kind):
    function = Failing(99, kind)
    with pytest.raises(kind, match=r"^call 1$"):
        retried(function)
    assert function.num_calls == 1
    assert waits == []


def test_retried_waits_double_with_jitter(waits):
    first_waits = set()
    for _ in range(5):
        waits.clear()
        with pytest.raises(StorageError):
            retried(Failing(99, StorageError))
        for wait, least in zip(waits, (0.5, 1, 2, 4, 8, 16, 20), strict=True):
            assert least <= wait <= min(least + 1, 20)
        first_waits.add(waits[0])
    assert len(first_waits) > 1
