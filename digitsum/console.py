"""Lines for a person at a terminal: printing, escaping, durations.

Ids, reasons and names come from data. `say` and `warn` escape them, so an archive can neither move
the cursor, change colours, titles or the clipboard, nor forge a line of output.
"""

from __future__ import annotations

import sys
import unicodedata

# Controls (escape sequences begin with one), formats (they can reverse the direction of text),
# lone surrogates (no stream can encode them), line and paragraph separators.
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def say(*lines: str) -> None:
    """Print lines to stdout, escaped."""
    print(*map(printable, lines), sep="\n", end="\n" if lines else "", flush=True)


def warn(line: str) -> None:
    """Print a line to stderr, escaped."""
    sys.stderr.write(f"{printable(line)}\n")


def printable(text: str) -> str:
    r"""Return a line whose control characters are spelled out: ESC as `\x1b`, a newline as `\n`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _ESCAPED_CATEGORIES
        else character
        for character in text
    )


def printable_lines(text: str) -> str:
    """Return several lines, such as a traceback, each made printable; the newlines stay."""
    return "\n".join(map(printable, text.split("\n")))


def duration(seconds: float) -> str:
    """Return a number of seconds as `2 h 05 min`, `3 min 07 s` or `9 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
