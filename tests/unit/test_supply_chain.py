"""Pins of all that digitsum needs, and the audit's verdict."""

import json
import runpy
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINNED = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()]
PINS = {canonicalize_name(name): pinned for name, pinned in PINNED}
# Packages of torch's CUDA build alone, which torch pins exactly.
OF_CUDA = ("nvidia-", "cuda-", "triton")
OF_VENV = {"setuptools"}  # comes with a new environment, and `pip freeze` leaves it out


def needed(name: str, extras: frozenset[str]) -> set[tuple[str, frozenset[str]]]:
    """Return the packages that an installed one needs here, each with its extras."""
    packages = set()
    for line in requires(name) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in extras | {""}):
            packages.add((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return packages


def everything_needed() -> set[str]:
    """Return all packages that digitsum and its tests need, directly or not."""
    pending, seen = [("digitsum", frozenset({"dev"}))], set()
    while pending:
        one = pending.pop()
        if one not in seen:
            seen.add(one)
            pending += needed(*one)
    return {name for name, _ in seen} - {"digitsum"} - OF_VENV


def test_pins_of_all_that_is_needed():
    names = {name for name in everything_needed() if not name.startswith(OF_CUDA)}
    assert len(names) > 100
    assert names - PINS.keys() == set()
    installed = {name: version(name).partition("+")[0] for name in names}
    assert {name: PINS[name] for name in names} == installed


def test_pins_of_nothing_else():
    def is_installed(name: str) -> bool:
        try:
            return bool(version(name))
        except PackageNotFoundError:
            return False

    unneeded = {name for name in PINS.keys() - everything_needed() if is_installed(name)}
    assert unneeded == set()


@pytest.mark.parametrize("file", [".ci/supply-chain.txt", "benchmarks/peers.txt"])
def test_pins_of_other_environments(file):
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        specifiers = list(Requirement(line).specifier)
        assert [specifier.operator for specifier in specifiers] == ["=="], line


def answer(*packages: dict) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("printed", "pinned", "code", "words"),
    [
        (answer(GOOD), 1, 0, "1 of 1"),
        (answer(GOOD, BAD), 2, 1, "b 1: CVE-1, fixed in 2"),
        # pip-audit itself ends with 0 for these:
        (answer(UNKNOWN), 1, 2, "not audited in full"),
        (answer(GOOD, UNKNOWN), 2, 2, "1 of 2"),
        (answer(BAD, UNKNOWN), 2, 1, "not audited in full"),
        (answer(GOOD), 2, 2, "1 of 2"),
        (answer(), 1, 2, "0 of 1"),
        ("", 1, 2, "cannot be reached"),
        ("[]", 1, 2, "cannot be reached"),
        ("no JSON", 1, 2, "cannot be reached"),
    ],
)
def test_audit_verdict(printed, pinned, code, words):
    ended, sentence = runpy.run_path(f"{ROOT}/.ci/audit.py")["verdict"](printed, pinned)
    assert ended == code
    assert words in sentence
