from pathlib import Path

import pytest
from pyarrow import fs as pafs

from digitsum.archive.location import Location, locate
from digitsum.errors import InputError


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = locate("archive/a")
    assert place.uri == place.path == str(tmp_path / "archive" / "a")
    assert place.is_local


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/archive").path == str(tmp_path / "archive")


def test_a_path_and_its_file_uri_are_one_place(tmp_path):
    (tmp_path / "a b").write_bytes(b"x")
    by_uri = locate(f"file://{tmp_path}/a%20b")
    assert by_uri.is_local
    assert by_uri.path == locate(str(tmp_path / "a b")).path
    assert by_uri.read_bytes() == b"x"


@pytest.mark.parametrize("uri", ["nosuch://bucket/a", "s3:// bucket", "file://elsewhere/a"])
def test_a_uri_that_nothing_opens_is_refused_naming_it(uri):
    with pytest.raises(InputError, match=f"^{uri}: "):
        locate(uri)


def in_store(uri: str, path: str) -> Location:
    return Location(uri, pafs.SubTreeFileSystem("/", pafs.LocalFileSystem()), path)


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        ("s3://bucket/a", "s3://bucket/a/b/c.parquet"),
        ("s3://bucket/a/", "s3://bucket/a/b/c.parquet"),
        ("s3://bucket/a?region=eu", "s3://bucket/a/b/c.parquet?region=eu"),
    ],
)
def test_joining_and_the_parent_keep_a_uris_query(given, joined):
    place = in_store(given, "bucket/a").join("b/c.parquet")
    assert (place.uri, place.path) == (joined, "bucket/a/b/c.parquet")
    assert place.name == "c.parquet"
    back = place.parent.parent
    assert (back.uri, back.path) == (given.replace("a/", "a"), "bucket/a")
    assert not back.is_local


@pytest.mark.parametrize("name", ["plain", "a b", "what?", "50%", "a#b", "x=1"])
def test_joining_and_the_parent_are_inverse_for_local_paths(name, tmp_path):
    directory = locate(str(tmp_path / name))
    place = directory.join("a.parquet")
    assert place.path == place.uri == str(tmp_path / name / "a.parquet")
    assert place.parent.path == directory.path
    assert place.parent.uri == directory.uri


def test_the_root_is_the_parent_of_what_lies_in_it():
    parent = locate("/a.parquet").parent
    assert parent.join("b").path == "/b"
    assert locate(parent.uri).path == str(Path("/"))


def test_files_are_told_from_directories_and_from_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert locate(str(tmp_path / "file")).is_file()
    assert not locate(str(tmp_path)).is_file()
    assert not locate(str(tmp_path / "nothing")).is_file()
    assert locate(str(tmp_path / "file")).info().size == 7


def test_reading_what_is_not_there_is_refused_naming_it(tmp_path):
    with pytest.raises(InputError, match=r"nothing: cannot be read"):
        locate(str(tmp_path / "nothing")).read_bytes()


def test_a_password_in_a_uri_is_refused_and_not_repeated():
    with pytest.raises(InputError) as refusal:
        locate("s3://key:hidden-word@bucket/archive")
    assert "hidden-word" not in str(refusal.value)
