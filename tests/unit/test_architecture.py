"""Tests of the diagram in docs/architecture.md (docs/architecture.py)."""

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parents[2] / "docs/architecture.py"
_SPEC = importlib.util.spec_from_file_location("architecture", _FILE)
architecture = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(architecture)


def test_page_has_current_imports():
    assert architecture.PAGE.read_text() == architecture.page(), "run `make architecture`"


def test_direct_leaves_out_what_follows():
    pairs = {("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("a", "d")}
    assert architecture.direct(pairs) == {("a", "b"), ("b", "c"), ("c", "d")}
