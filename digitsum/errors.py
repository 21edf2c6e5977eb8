"""The errors digitsum raises on purpose, each with the exit code of a command that meets it.

DigitsumError (1)
├── InputError (2)             what the caller gave cannot be used; the message says where and what
│   │                          to do
│   └── StorageError (2)       a file system refused, and may not when it is asked again
├── TooManyRejectedError (3)   more images or shards were rejected than the caller allows
├── ScoresHeldError (4)        another run is writing to the same scores
└── DriftError (5)             all was scored, but what was predicted has drifted; only where asked

Anything else that reaches a user is a bug and keeps its traceback.
"""


class DigitsumError(Exception):
    """An error whose message is a sentence for the user, not for a debugger."""

    exit_code = 1


class InputError(DigitsumError):
    """The input cannot be used: a file, a column, a value or an option is wrong."""

    exit_code = 2


class StorageError(InputError):
    """A file system refused for a reason that may pass: a time-out, a server in trouble."""


class TooManyRejectedError(DigitsumError):
    """Everything else was scored, but more was rejected than the caller allows."""

    exit_code = 3


class ScoresHeldError(DigitsumError):
    """Another run is writing to the same scores."""

    exit_code = 4


class DriftError(DigitsumError):
    """Everything was scored, but the predictions are distributed otherwise than they were."""

    exit_code = 5


def one_line(error: BaseException) -> str:
    """Return an error's message with every run of white space, newlines too, as one blank."""
    return " ".join(str(error).split())


def find_digitsum_error(error: BaseException) -> DigitsumError | None:
    """Return the DigitsumError that `error` is, or that it was raised for, or None.

    Ray wraps what a task raised, sometimes several times and by different attributes: `cause` on
    a RayTaskError (which is an instance of its cause's class too, but whose message is a
    traceback), `worker_failures` on a failed training, `__cause__` on the rest. What was merely
    being handled meanwhile (`__context__`) is not the reason.
    """
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        cause = getattr(current, "cause", None)
        if isinstance(current, DigitsumError) and not isinstance(cause, BaseException):
            return current
        failures = getattr(current, "worker_failures", None)
        reasons = [cause, current.__cause__]
        reasons += list(failures.values()) if isinstance(failures, dict) else []
        pending += [reason for reason in reasons if isinstance(reason, BaseException)]
    return None
