"""Tests of the plain-English check (.ci/plain_english.py)."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("plain_english", ROOT / ".ci/plain_english.py")
plain_english = importlib.util.module_from_spec(_SPEC)
sys.modules["plain_english"] = plain_english  # dataclasses look their module up
_SPEC.loader.exec_module(plain_english)


def found(source, *, is_python=True):
    return [(c.line, c.found) for c in plain_english.check(source, is_python=is_python)]


@pytest.mark.parametrize(
    ("sentence", "phrase"),
    [
        ("A model that was told.", "told"),
        ("The Bundle.", "Bundle"),
        ("Mended in 2.0.", "Mended"),
        ("Raises InputError where there is no shard.", "InputError where"),
        ("None where it is 0.", "None where"),
        ("The rows, where asked for.", "rows, where"),
        ("A file that is no Parquet.", "is no Parquet"),
        ("Takes so long for a chunk.", "so long"),
    ],
)
def test_prose_forbidden(sentence, phrase):
    assert found(sentence, is_python=False) == [(1, phrase)]
    assert found(f'"""The module.\n\n{sentence}\n"""') == [(3, phrase)]
    assert found(f"x = 1  # {sentence}") == [(1, phrase)]
    assert found(f"print(f'{{x}} {sentence}')") == [(1, phrase)]


@pytest.mark.parametrize(
    "sentence",
    [
        "Raises InputError if there is no shard.",
        "Prints where the report is, and `told` or `x where y` are code.",
        "The place where a part is written.",
        "Nothing is no longer greater; there is no file.",
        "So many images that one process cannot hold them.",
    ],
)
def test_prose_plain(sentence):
    assert found(sentence, is_python=False) == []
    assert found(f"x = 1  # {sentence}") == []


def test_prose_over_two_lines():
    assert found("A part\nof\nbefore.", is_python=False) == [(2, "of before")]
    assert found("x = 1\n# A part of\n# before.") == [(2, "of before")]


def test_prose_f_string_value():
    assert found('x = f"a b {where}: c"') == []


def test_docstrings_first_word():
    source = '"""What it is."""\nclass A:\n    b: int\n    """Whether it is."""\n'
    assert found(source) == [(1, '"""What ...'), (4, '"""Whether ...')]


def test_names_forbidden():
    source = "def told_apart(said):\n    held = 1\n    holds = withheld = 1\n"
    assert [name for _, name in found(source)] == ["said", "told_apart", "held"]


def test_names_long_test():
    assert found(f"def test_{'a' * 40}():\n    pass\n") == []
    assert found(f"def test_{'a' * 60}():\n    pass\n") != []


def test_main_prints_places(tmp_path, capsys):
    (tmp_path / "a.md").write_text("Fine.\n\nThe ledger.\n")
    (tmp_path / "b.txt").write_text("The ledger.\n")
    assert plain_english.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path}/a.md:3: ledger -> footer cache" in out
    assert "1 places" in out
    (tmp_path / "a.md").write_text("The footer cache.\n")
    assert plain_english.main([str(tmp_path)]) == 0
