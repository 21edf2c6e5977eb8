import base64
import re

import pytest

from digitsum.report.terminal import inline_picture

PNG = bytes(range(256)) * 40


@pytest.mark.parametrize("program", ["iTerm.app", "WezTerm"])
def test_iterm_gets_the_picture_in_one_piece(program):
    sent = inline_picture(PNG, {"TERM_PROGRAM": program})
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=10240:(.*)\x07", sent)
    assert base64.b64decode(found[1]) == PNG


def test_kitty_gets_the_picture_in_pieces():
    sent = inline_picture(PNG, {"TERM": "xterm-kitty"})
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", sent)
    assert base64.b64decode("".join(piece for _, piece in pieces)) == PNG
    assert [keys for keys, _ in pieces] == ["a=T,f=100,m=1", "m=1", "m=1", "m=0"]
    assert all(len(piece) <= 4096 for _, piece in pieces)


def test_other_terminals_get_nothing():
    assert inline_picture(PNG, {"TERM": "xterm-256color"}) is None
    assert inline_picture(PNG, {}) is None
