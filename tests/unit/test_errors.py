import pytest
from ray.exceptions import RayTaskError

from digitsum.errors import (
    DigitsumError,
    InputError,
    ScoresHeldError,
    StorageError,
    TooManyRejectedError,
    find_digitsum_error,
    one_line,
)

SAID = InputError("data/a.parquet: no such file; give another.")


class TaskError(Exception):
    """Carries what a task raised as Ray's RayTaskError does."""

    def __init__(self, cause: object) -> None:
        super().__init__("a task failed")
        self.cause = cause


class TrainingFailedError(Exception):
    """Carries what workers raised as Ray Train's error does."""

    def __init__(self, worker_failures: object) -> None:
        super().__init__("training failed")
        self.worker_failures = worker_failures


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def raised_while(error: Exception, context: BaseException) -> Exception:
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    "error",
    [
        SAID,
        caused(RuntimeError(), SAID),
        TaskError(SAID),
        TrainingFailedError({0: SAID}),
        TrainingFailedError({0: ValueError(), 1: KeyError(), 2: SAID}),
        TrainingFailedError({0: TaskError(caused(RuntimeError(), SAID))}),
        TaskError(TaskError(TaskError(SAID))),
        caused(TaskError(RuntimeError()), TrainingFailedError({3: TaskError(SAID)})),
    ],
    ids=repr,
)
def test_a_digitsum_error_is_found_wherever_it_lies(error):
    assert find_digitsum_error(error) is SAID


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("plain"),
        raised_while(RuntimeError("a bug met while an error was handled"), SAID),
        caused(RuntimeError(), ValueError()),
        TaskError("a text"),
        TaskError(None),
        TrainingFailedError({}),
        TrainingFailedError([SAID]),
        TrainingFailedError({0: "a text"}),
    ],
    ids=repr,
)
def test_where_there_is_none_none_is_found(error):
    assert find_digitsum_error(error) is None


def test_the_nearest_is_found_first():
    deeper = InputError("deeper")
    nearer = DigitsumError("nearer")
    assert find_digitsum_error(TrainingFailedError({0: TaskError(deeper), 1: nearer})) is nearer
    assert find_digitsum_error(caused(TaskError(nearer), TaskError(deeper))) is nearer


def test_a_cycle_without_one_ends():
    first, second = TaskError(None), TaskError(None)
    first.cause, second.cause = second, first
    second.__context__ = second
    assert find_digitsum_error(first) is None


def test_one_beyond_a_cycle_is_found():
    first, second = TaskError(None), TaskError(None)
    first.cause, second.cause = second, first
    second.__cause__ = SAID
    assert find_digitsum_error(first) is SAID


def test_bad_input_is_a_digitsum_error_with_exit_code_2():
    assert issubclass(InputError, DigitsumError)
    assert DigitsumError("x").exit_code == 1
    assert InputError("x").exit_code == 2


def test_of_rays_twin_of_an_error_only_the_sentence_is_taken():
    wrapped = RayTaskError("score", "Traceback ...", SAID).as_instanceof_cause()
    assert isinstance(wrapped, InputError)  # by its class it would pass for the error itself
    assert find_digitsum_error(wrapped) is SAID


def test_each_reason_to_fail_has_its_own_exit_code():
    assert StorageError("x").exit_code == 2
    assert TooManyRejectedError("x").exit_code == 3
    assert ScoresHeldError("x").exit_code == 4
    assert issubclass(StorageError, InputError)
    for kind in (TooManyRejectedError, ScoresHeldError):
        assert issubclass(kind, DigitsumError)
        assert not issubclass(kind, InputError)


def test_a_message_of_several_lines_becomes_one():
    assert one_line(ValueError(" a\n\tb  c\r\n")) == "a b c"
    assert one_line(ValueError()) == ""
