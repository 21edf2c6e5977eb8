"""Errors that digitsum raises on purpose, with the exit code of a command and the remedy.

DigitsumError (1)                an error whose message is written for the user
├── InputError (2)               an input or an option cannot be used: do what the message says
│   └── StorageError (2)         a file system failed for now: run the command again
├── TooManyRejectedError (3)     more images or shards were rejected than allowed: see the rejects,
│                                repair their source or raise --max-rejected
├── ScoresHeldError (4)          another run writes to the same scores: wait until it ends
└── DriftError (5)               all is scored, but predictions differ from the reference: look at
                                 the images in the report (raised only if asked for)

Any other error that reaches a user is a bug and keeps its traceback.
"""


class DigitsumError(Exception):
    """An error whose message is a sentence for the user, not for a debugger."""

    exit_code = 1


class InputError(DigitsumError):
    """A file, a column, a value or an option cannot be used."""

    exit_code = 2


class StorageError(InputError):
    """A file system failed for a reason that may pass, such as a time-out."""


class TooManyRejectedError(DigitsumError):
    """More was rejected than the caller allows; everything else is done."""

    exit_code = 3


class ScoresHeldError(DigitsumError):
    """Another run is writing to the same scores."""

    exit_code = 4


class DriftError(DigitsumError):
    """The predictions of a finished run differ from the model's reference."""

    exit_code = 5


def one_line(error: BaseException) -> str:
    """Return an error's message with each run of white space replaced by one space."""
    return " ".join(str(error).split())


def find_digitsum_error(error: BaseException) -> DigitsumError | None:
    """Return `error`, or the error that caused it, if that is a DigitsumError; else None.

    Ray wraps what a task raised, sometimes several times: in `cause` of a RayTaskError (which is
    also an instance of its cause's class, but with a traceback as its message), in
    `worker_failures` of a failed training, elsewhere in `__cause__`. `__context__` is not searched:
    an error that was being handled meanwhile is not the reason.
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
