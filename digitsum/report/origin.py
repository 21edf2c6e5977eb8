"""The part of a report that says where its figures come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from digitsum.report.page import Section, Table


def origin_section(
    origin: Mapping[str, Any], model_digest: str, more: Sequence[tuple[str, str]] = ()
) -> Section:
    """Return what computed something: a manifest, or `runs.origin`, and what more there is."""
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    rows = [
        ("model", model_digest),
        ("command", " ".join(origin["command"])),
        ("git commit", origin["git_commit"] or "unknown"),
        ("versions", versions),
        *more,
    ]
    return Section("Where it comes from", table=Table(("what", "which"), rows))
