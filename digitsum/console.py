"""What commands say to a person: lines whose ids, reasons and names are text to the terminal."""

from __future__ import annotations

import sys
import unicodedata


def say(*lines: str) -> None:
    """Print lines; ids, reasons and names in them come from data, and are text to the terminal."""
    print(*map(printable, lines), sep="\n", end="\n" if lines else "", flush=True)


def warn(line: str) -> None:
    """Write a line to stderr, as `say` does to stdout."""
    sys.stderr.write(f"{printable(line)}\n")


# Controls (an escape sequence begins with one), formats (they can turn the direction of what
# follows), lone surrogates (no stream takes them), and what ends a line or a paragraph.
_NOT_SHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""Return a line without what a terminal would obey: ESC becomes `\x1b`, a newline `\n`.

    What is text stays as it is. So an archive can neither move the cursor, change colours, titles
    or the clipboard, nor put a line of its own into a log.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _NOT_SHOWN
        else character
        for character in text
    )


def printable_lines(text: str) -> str:
    """Return several lines, such as a traceback, each made printable; the line ends stay."""
    return "\n".join(map(printable, text.split("\n")))


def duration(seconds: float) -> str:
    """Return a number of seconds in hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
