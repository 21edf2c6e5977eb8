"""The errors that may leave a seam: a sentence for the user."""

from collections.abc import Iterator
from contextlib import contextmanager

from digitsum.errors import DigitsumError


@contextmanager
def refused_in_a_line() -> Iterator[None]:
    """Let a DigitsumError of one line end the block; any other error is a finding and passes."""
    try:
        yield
    except DigitsumError as error:
        message = str(error)
        assert message, "the error has no message"
        assert "\n" not in message, f"the error has several lines: {message!r}"
