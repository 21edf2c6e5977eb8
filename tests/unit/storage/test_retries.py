import pytest

from digitsum.errors import InputError, StorageError
from digitsum.storage.retries import ATTEMPTS, retried


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Collect what would be waited, in seconds, and wait for nothing."""
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    return waits


def failing(times: int, error: type[Exception]):
    """Return a function that fails so often, each time with another message, and its calls."""
    calls: list[int] = []

    def function() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error(f"for the {len(calls)}. time")
        return "done"

    return function, calls


@pytest.mark.parametrize("times", range(ATTEMPTS))
def test_storage_that_recovers_within_eight_calls_is_not_noticed(waits, times):
    function, calls = failing(times, StorageError)
    assert retried(function) == "done"
    assert len(calls) == times + 1
    assert len(waits) == times


def test_storage_that_does_not_recover_raises_its_last_error(waits):
    function, calls = failing(99, StorageError)
    with pytest.raises(StorageError, match=r"^for the 8\. time$"):
        retried(function)
    assert len(calls) == ATTEMPTS == 8
    assert len(waits) == ATTEMPTS - 1


@pytest.mark.parametrize("kind", [InputError, OSError, ValueError, KeyboardInterrupt])
def test_any_other_error_is_raised_at_once(waits, kind):
    function, calls = failing(99, kind)
    with pytest.raises(kind, match=r"^for the 1\. time$"):
        retried(function)
    assert len(calls) == 1
    assert waits == []


def test_waits_double_from_half_a_second_on_with_up_to_a_second_of_chance(waits):
    firsts = set()
    for _ in range(5):
        waits.clear()
        with pytest.raises(StorageError):
            retried(failing(99, StorageError)[0])
        for wait, least in zip(waits, (0.5, 1, 2, 4, 8, 16, 20), strict=True):
            assert least <= wait <= min(least + 1, 20)
        firsts.add(waits[0])
    assert len(firsts) > 1
