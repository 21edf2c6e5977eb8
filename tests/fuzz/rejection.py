"""What may come out of a seam besides what was read: a sentence for the user."""

from collections.abc import Iterator
from contextlib import contextmanager

from digitsum.errors import DigitsumError


@contextmanager
def refused_in_a_line() -> Iterator[None]:
    """Let a DigitsumError of one line end the block; any other error is a finding and goes on."""
    try:
        yield
    except DigitsumError as error:
        said = str(error)
        assert said, "an error says nothing"
        assert "\n" not in said, f"an error is of several lines: {said!r}"
