"""What every run leaves behind: `_runs/<run_id>/manifest.json`."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from digitsum.archive.publish import publish_bytes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from digitsum.archive.location import Location

RUNS_DIRECTORY = "_runs"
MANIFEST_FILE = "manifest.json"
_PACKAGES = ("digitsum", "ray", "torch", "pyarrow", "numpy")


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
    """Write the manifest of a run that ended well: what was asked, by what, and what came of it."""
    manifest = {
        "run": run.name,
        "kind": kind,
        "command": sys.argv,
        "started": started.astimezone(UTC).isoformat(),
        "ended": datetime.now(UTC).isoformat(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "config": asdict(config),
        "outcome": dict(outcome),
    }
    content = json.dumps(manifest, indent=2).encode() + b"\n"
    publish_bytes(content, run.join(MANIFEST_FILE))
