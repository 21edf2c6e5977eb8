import json
import platform
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import version
from typing import Literal

import pytest

from digitsum.errors import InputError
from digitsum.manifest import (
    MANIFEST_FILE,
    Manifest,
    from_python,
    new_run_id,
    parse_json,
    read_manifest,
    to_json,
    to_python,
    write_manifest,
)
from digitsum.options import ReadOptions
from digitsum.storage.location import Location, locate

NOW = datetime(2026, 1, 31, 23, 59, 58, 7, tzinfo=UTC)


@dataclass(frozen=True)
class Config:
    archive: str = "a"
    digits: int = 4
    validation: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True)
class Record:
    rows: tuple[int, ...]
    reason: str | None = None


@pytest.fixture
def run(tmp_path) -> Location:
    run = locate(str(tmp_path / "_runs" / "score-1"))
    local = NOW.astimezone(timezone(timedelta(hours=-8)))
    write_manifest(run, "score", Config(), local, {"images": 3})
    return run


@pytest.mark.parametrize("hours", [0, -8, 5.5, 14])
def test_run_id_is_kind_and_utc_time(hours):
    local = NOW.astimezone(timezone(timedelta(hours=hours)))
    assert new_run_id("score", local) == "score-20260131T235958.000007Z"


def test_run_ids_sort_by_time():
    steps = [timedelta(microseconds=1), timedelta(seconds=1), timedelta(hours=9), timedelta(99)]
    ids = [new_run_id("train", NOW)] + [new_run_id("train", NOW + step) for step in steps]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_manifest_config_and_outcome(run):
    manifest = read_manifest(run)
    assert (manifest.run, manifest.kind) == ("score-1", "score")
    assert manifest.outcome == {"images": 3}
    assert manifest.config == {
        "archive": "a",
        "digits": 4,
        "validation": None,
        "read": {
            "image_column": "image",
            "id_column": "image_id",
            "label_column": "digit_sum",
            "height": None,
            "width": None,
            "max_read_mb": 1024,
            "follow_links": False,
        },
    }


def test_manifest_times_in_utc(run):
    manifest = read_manifest(run)
    assert manifest.started == "2026-01-31T23:59:58.000007+00:00"
    assert datetime.fromisoformat(manifest.ended).utcoffset() == timedelta(0)


def test_manifest_origin(run):
    origin = read_manifest(run).origin
    assert origin.command == sys.argv
    assert origin.versions["python"] == platform.python_version()
    assert origin.versions["torch"] == version("torch")
    packages = {"python", "digitsum", "ray", "torch", "pyarrow", "numpy"}
    assert set(origin.versions) - {"openvino"} == packages


def test_manifest_is_replaced_whole(run, tmp_path):
    write_manifest(run, "score", Config(), NOW, {"images": 2})
    assert read_manifest(run).outcome == {"images": 2}
    assert [path.name for path in (tmp_path / "_runs/score-1").iterdir()] == [MANIFEST_FILE]


def test_manifest_of_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no manifest"):
        read_manifest(locate(str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "is of version 2, but this digitsum reads version 1"),
        ({"kind": 3}, "kind: Input should be a valid string"),
        ({"origin": {}}, "origin.command: Field required"),
    ],
)
def test_manifest_of_another_form(run, changes, message):
    file = run.join(MANIFEST_FILE)
    changed = json.loads(file.read_bytes()) | changes
    with file.filesystem.open_output_stream(file.path) as stream:
        stream.write(json.dumps(changed).encode())
    with pytest.raises(InputError, match=message):
        read_manifest(run)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_parse_json_refuses_in_a_line(content):
    with pytest.raises(InputError, match="there: not a manifest") as refused:
        parse_json(Manifest, content, "there")
    assert "\n" not in str(refused.value)


@dataclass(frozen=True)
class Versioned:
    version: Literal[3] = 3


def test_record_without_version():
    assert parse_json(Versioned, to_json(Versioned()), "there") == Versioned()
    message = "there: has no version, but this digitsum reads version 3"
    with pytest.raises(InputError, match=message):
        parse_json(Versioned, b"{}", "there")
    with pytest.raises(InputError, match=message):
        from_python(Versioned, {}, "there")


def test_record_round_trip():
    record = Record((1, 2), "why")
    assert parse_json(Record, to_json(record), "there") == record
    assert from_python(Record, to_python(record), "there") == record
