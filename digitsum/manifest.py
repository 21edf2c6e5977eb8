"""Manifests: what every run leaves in `_runs/<run_id>/manifest.json`, typed and versioned.

A record is a dataclass with a field `version`, a Literal. `to_json` writes it, and `parse_json`
reads it back as the same type, or says what is wrong with it.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from digitsum.errors import InputError
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RUNS_DIRECTORY = "_runs"
MANIFEST_FILE = "manifest.json"
_PACKAGES = ("digitsum", "ray", "torch", "openvino", "pyarrow", "numpy")

_REMEDY = "use the digitsum that wrote it, or make it again."

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Origin of a record: the command and the versions of its packages."""

    command: list[str]
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Record of a run that ended: its options, its origin and its outcome."""

    run: str
    """The run's id, which is its directory's name."""
    kind: str
    """"score" or "train"."""
    started: str
    """Time in UTC, ISO 8601."""
    ended: str
    origin: Origin
    config: dict[str, Any]
    """The run's options, resolved."""
    outcome: dict[str, Any]
    """The record of what came of it, by the type that the kind of run defines."""
    version: Literal[1] = 1


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
    """Write the manifest of a run that has just ended."""
    manifest = Manifest(
        run=run.name,
        kind=kind,
        started=started.astimezone(UTC).isoformat(),
        ended=datetime.now(UTC).isoformat(),
        origin=find_origin(),
        config=asdict(config),
        outcome=dict(outcome),
    )
    publish_bytes(to_json(manifest, indent=2) + b"\n", run.join(MANIFEST_FILE))


def read_manifest(run: Location) -> Manifest:
    """Return a run's manifest; raises InputError if it has none that this digitsum reads."""
    file = run.join(MANIFEST_FILE)
    if not file.is_file():
        remedy = "give the directory of a run that has ended."
        raise InputError(f"{run.uri}: holds no {MANIFEST_FILE}; {remedy}")
    return parse_json(Manifest, file.read_bytes(), file.uri)


def find_origin() -> Origin:
    """Return this process's command and the versions of its packages."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):  # OpenVINO exists for x86 only
            versions[package] = version_of(package)
    return Origin(command=list(sys.argv), versions=versions)


def to_json(record: DataclassInstance, indent: int | None = None) -> bytes:
    """Return a record, a dataclass, as JSON."""
    return _adapter(type(record)).dump_json(record, indent=indent)


def parse_json(kind: type[T], content: bytes | str, where: str) -> T:
    """Return the record that JSON holds; raises InputError, naming `where`, if it is not one."""
    try:
        record: T = _adapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        raise _invalid(kind, error, where) from error
    _check_has_version(kind, json.loads(content), where)
    return record


def from_python(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return the record that a parsed JSON object holds; raises as `parse_json` does."""
    try:
        record: T = _adapter(kind).validate_python(values)
    except ValidationError as error:
        raise _invalid(kind, error, where) from error
    _check_has_version(kind, values, where)
    return record


def to_python(record: DataclassInstance) -> dict[str, Any]:
    """Return a record as the object that its JSON is parsed to."""
    values: dict[str, Any] = _adapter(type(record)).dump_python(record, mode="json")
    return values


def _check_has_version(kind: type, values: Mapping[str, Any], where: str) -> None:
    """Raise InputError if a record's version was filled in by its default."""
    version = getattr(kind, "__dataclass_fields__", {}).get("version")
    if version and "version" not in values:
        raise _other_version(where, "has no version", version.default)


def _invalid(kind: type, error: ValidationError, where: str) -> InputError:
    errors = error.errors(include_url=False)
    for of_field in errors:
        if of_field["loc"][-1:] == ("version",) and of_field["type"] == "literal_error":
            found = f"is of version {of_field['input']!r}"
            return _other_version(where, found, of_field["ctx"]["expected"])
    field = ".".join(map(str, errors[0]["loc"]))
    problem = (f"{field}: " if field else "") + " ".join(errors[0]["msg"].split())
    name = re.sub("(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
    return InputError(f"{where}: not a {name} that this digitsum reads ({problem}); {_REMEDY}")


def _other_version(where: str, found: str, known: object) -> InputError:
    message = f"{found}, but this digitsum reads version {known}"
    return InputError(f"{where}: {message}; {_REMEDY}")


# Making one takes milliseconds, and a plan reads a part a millisecond.
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
