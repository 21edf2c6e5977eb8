import json
import platform
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import version

import pytest

from digitsum import manifest as manifests
from digitsum.manifest import new_run_id, write_manifest
from digitsum.options import ReadOptions
from digitsum.storage.location import locate

NOW = datetime(2026, 1, 31, 23, 59, 58, 7, tzinfo=UTC)


@dataclass(frozen=True)
class Config:
    archive: str = "a"
    digits: int = 4
    validation: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)


@pytest.fixture
def manifest(tmp_path) -> dict:
    run = locate(str(tmp_path / "_runs" / "score-1"))
    local = NOW.astimezone(timezone(timedelta(hours=-8)))
    write_manifest(run, "score", Config(), local, {"images": 3})
    assert [path.name for path in (tmp_path / "_runs" / "score-1").iterdir()] == ["manifest.json"]
    return json.loads((tmp_path / "_runs" / "score-1" / "manifest.json").read_text())


def test_run_id_is_kind_and_utc_time():
    assert new_run_id("score", NOW) == "score-20260131T235958.000007Z"
    for hours in (-8, 5.5, 14):
        local = NOW.astimezone(timezone(timedelta(hours=hours)))
        assert new_run_id("score", local) == new_run_id("score", NOW)


def test_run_ids_sort_by_time():
    steps = [timedelta(microseconds=1), timedelta(seconds=1), timedelta(hours=9), timedelta(99)]
    ids = [new_run_id("train", NOW)] + [new_run_id("train", NOW + step) for step in steps]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_manifest_config_and_outcome(manifest):
    assert manifest["run"] == "score-1"
    assert manifest["kind"] == "score"
    assert manifest["outcome"] == {"images": 3}
    assert manifest["config"] == {
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


def test_manifest_times_in_utc(manifest):
    assert manifest["started"] == "2026-01-31T23:59:58.000007+00:00"
    ended = datetime.fromisoformat(manifest["ended"])
    assert ended.utcoffset() == timedelta(0)


def test_manifest_versions(manifest):
    versions = manifest["versions"]
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == version("torch")
    assert set(versions) - {"openvino"} == {
        "python",
        "digitsum",
        "ray",
        "torch",
        "pyarrow",
        "numpy",
    }


def test_manifest_is_replaced_whole(tmp_path):
    run = locate(str(tmp_path / "run"))
    for images in (1, 2):
        write_manifest(run, "score", Config(), NOW, {"images": images})
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["outcome"] == {"images": 2}
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_manifest_git_commit(manifest, monkeypatch):
    commit = manifest["git_commit"]
    assert commit is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", commit)
    monkeypatch.setattr(manifests.subprocess, "run", no_git)
    assert manifests._git_commit() is None


def no_git(*_arguments, **_named):
    raise FileNotFoundError("git")
