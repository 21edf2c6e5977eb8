"""What every run leaves behind: `_runs/<run_id>/manifest.json`."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digitsum.storage.atomic_write import publish_bytes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from digitsum.storage.location import Location

RUNS_DIRECTORY = "_runs"
MANIFEST_FILE = "manifest.json"
_PACKAGES = ("digitsum", "ray", "torch", "openvino", "pyarrow", "numpy")


def new_run_id(kind: str, now: datetime) -> str:
    """Return a name for a run of a kind ("train", "score") that begins at `now`, in UTC."""
    return f"{kind}-{now.astimezone(UTC):%Y%m%dT%H%M%S.%f}Z"


def write_manifest(
    run: Location,
    kind: str,
    config: DataclassInstance,
    started: datetime,
    outcome: Mapping[str, Any],
) -> None:
    """Write the manifest of a run that ended: what was asked, by what, and what came of it."""
    manifest = {
        "run": run.name,
        "kind": kind,
        "started": started.astimezone(UTC).isoformat(),
        "ended": datetime.now(UTC).isoformat(),
        **origin(),
        "config": asdict(config),
        "outcome": dict(outcome),
    }
    content = json.dumps(manifest, indent=2).encode() + b"\n"
    publish_bytes(content, run.join(MANIFEST_FILE))


def origin() -> dict[str, Any]:
    """Return what computes here: the command, the versions of its packages, the git commit."""
    return {"command": sys.argv, "versions": _versions(), "git_commit": _git_commit()}


def _versions() -> dict[str, str]:
    """Return the versions of what computes, OpenVINO's only where there is one."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _git_commit() -> str | None:
    """Return the commit of the working tree that digitsum runs from; None where it is none."""
    package = Path(__file__).parent
    if not (package.parent / ".git").exists():
        return None
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
