"""Pictures in terminals that show them: by iTerm2's protocol, WezTerm's too, or by kitty's."""

from __future__ import annotations

import base64
from collections.abc import Mapping

_KITTY_CHUNK = 4096


def inline_picture(png: bytes, environment: Mapping[str, str]) -> str | None:
    """Return what shows a PNG in the terminal that an environment tells of, or None.

    iterm2.com/documentation-images.html, sw.kovidgoyal.net/kitty/graphics-protocol.
    """
    encoded = base64.b64encode(png).decode()
    if environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm"):
        return f"\x1b]1337;File=inline=1;size={len(png)}:{encoded}\a"
    if environment.get("TERM") == "xterm-kitty":
        chunks = [encoded[i : i + _KITTY_CHUNK] for i in range(0, len(encoded), _KITTY_CHUNK)]
        sent = []
        for number, chunk in enumerate(chunks):
            head = "a=T,f=100," if number == 0 else ""
            more = int(number < len(chunks) - 1)
            sent.append(f"\x1b_G{head}m={more};{chunk}\x1b\\")
        return "".join(sent)
    return None
