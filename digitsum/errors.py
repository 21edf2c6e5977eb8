"""The errors digitsum raises on purpose, each with the exit code of a command that meets it.

DigitsumError (1)
└── InputError (2)   what the caller gave cannot be used; the message says where and what to do

Anything else that reaches a user is a bug and keeps its traceback.
"""


class DigitsumError(Exception):
    """An error whose message is a sentence for the user, not for a debugger."""

    exit_code = 1


class InputError(DigitsumError):
    """The input cannot be used: a file, a column, a value or an option is wrong."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """Return an error's message with every run of white space, newlines too, as one blank."""
    return " ".join(str(error).split())


def find_digitsum_error(error: BaseException) -> DigitsumError | None:
    """Return the DigitsumError that lies under `error`, or None.

    Ray wraps what a task raised, sometimes several times and by different attributes: `cause` on
    a RayTaskError, `worker_failures` on a failed training, `__cause__` on the rest.
    """
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop(0)
        if isinstance(current, DigitsumError):
            return current
        if id(current) in seen:
            continue
        seen.add(id(current))
        failures = getattr(current, "worker_failures", None)
        under = [getattr(current, "cause", None), current.__cause__, current.__context__]
        under += list(failures.values()) if isinstance(failures, dict) else []
        pending += [e for e in under if isinstance(e, BaseException)]
    return None
