"""Text from data, such as ids, reasons and names of files, made fit for a terminal or a log."""

from __future__ import annotations

import unicodedata

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
