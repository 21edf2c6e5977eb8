import pytest
from ray.exceptions import RayTaskError

from digitsum.errors import (
    DigitsumError,
    DriftError,
    InputError,
    ScoresHeldError,
    StorageError,
    TooManyRejectedError,
    find_digitsum_error,
    one_line,
)

REASON = InputError("data/a.parquet: no such file; give another.")


class TaskError(Exception):
    """Carries what a task raised as Ray's RayTaskError does."""

    def __init__(self, cause: object) -> None:
        self.cause = cause


class TrainingFailedError(Exception):
    """Carries what workers raised as Ray Train's error does."""

    def __init__(self, worker_failures: object) -> None:
        self.worker_failures = worker_failures


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def met_while_handling_reason() -> Exception:
    error = RuntimeError("a bug met while an error was handled")
    error.__context__ = REASON
    return error


def cycle(cause_of_second: Exception | None = None) -> Exception:
    first, second = TaskError(None), TaskError(None)
    first.cause, second.cause = second, first
    second.__context__, second.__cause__ = second, cause_of_second
    return first


@pytest.mark.parametrize(
    "error",
    [
        REASON,
        caused(RuntimeError(), REASON),
        TaskError(REASON),
        TrainingFailedError({0: REASON}),
        TrainingFailedError({0: ValueError(), 1: KeyError(), 2: REASON}),
        TrainingFailedError({0: TaskError(caused(RuntimeError(), REASON))}),
        TaskError(TaskError(TaskError(REASON))),
        caused(TaskError(RuntimeError()), TrainingFailedError({3: TaskError(REASON)})),
        cycle(REASON),
        TrainingFailedError({0: TaskError(InputError("deeper")), 1: REASON}),
        caused(TaskError(REASON), TaskError(InputError("deeper"))),
    ],
    ids=repr,
)
def test_find_digitsum_error(error):
    assert find_digitsum_error(error) is REASON


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("plain"),
        met_while_handling_reason(),
        caused(RuntimeError(), ValueError()),
        TaskError("a text"),
        TaskError(None),
        TrainingFailedError({}),
        TrainingFailedError([REASON]),
        TrainingFailedError({0: "a text"}),
        cycle(),
    ],
    ids=repr,
)
def test_find_digitsum_error_absent(error):
    assert find_digitsum_error(error) is None


def test_find_error_behind_rays_twin():
    wrapped = RayTaskError("score", "Traceback ...", REASON).as_instanceof_cause()
    assert isinstance(wrapped, InputError)  # by its class it would pass for the error itself
    assert find_digitsum_error(wrapped) is REASON


@pytest.mark.parametrize(
    ("kind", "exit_code", "is_input"),
    [
        (DigitsumError, 1, False),
        (InputError, 2, True),
        (StorageError, 2, True),
        (TooManyRejectedError, 3, False),
        (ScoresHeldError, 4, False),
        (DriftError, 5, False),
    ],
)
def test_exit_codes(kind, exit_code, is_input):
    assert issubclass(kind, DigitsumError)
    assert issubclass(kind, InputError) == is_input
    assert kind("x").exit_code == exit_code


def test_one_line():
    assert one_line(ValueError(" a\n\tb  c\r\n")) == "a b c"
    assert one_line(ValueError()) == ""
