import os
import threading

import pytest
from pyarrow import fs as pafs

from digitsum.archive.shards import list_shards
from digitsum.errors import InputError
from digitsum.storage.atomic_write import TEMPORARY_PREFIX, publish_bytes, published
from digitsum.storage.location import Location, locate


@pytest.fixture(params=["local", "object store"])
def target(request, tmp_path, monkeypatch) -> Location:
    """Return the place `scores/part`; the second way is that of everything that is not local."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "scores").mkdir()
    if request.param == "local":
        return locate(str(tmp_path / "scores" / "part"))
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    return Location("store://bucket/scores/part", store, "scores/part")


def publish_half(target: Location, error: type[BaseException]) -> None:
    with published(target) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_published_appears_at_end(target, tmp_path, content):
    with published(target) as temporary:
        temporary.write_bytes(b"half")
        assert not target.is_file()
        with open(temporary, "ab") as file:
            file.write(b", whole")
    assert content(tmp_path) == {"scores/part": b"half, whole"}


@pytest.mark.parametrize("before", [{}, {"scores/part": b"old and longer"}], ids=["new", "old"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_published_keeps_old_on_error(error, before, target, tmp_path, content):
    for old in before.values():
        publish_bytes(old, target)
    with pytest.raises(error):
        publish_half(target, error)
    assert content(tmp_path) == before
    publish_bytes(b"new", target)
    assert content(tmp_path) == {"scores/part": b"new"}


def test_published_nothing_written(target, tmp_path, content):
    with pytest.raises(FileNotFoundError), published(target):
        pass
    assert content(tmp_path) == {}


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_publish_bytes_any_size(size, target):
    data = os.urandom(size)
    publish_bytes(data, target)
    assert target.read_bytes() == data


def test_publish_bytes_places(tmp_path, content):
    publish_bytes(b"x", locate(str(tmp_path / "a" / "b" / "c")))
    for place in ("a/b/c/part", "a/b"):  # a file is in the way, or a directory that is not empty
        with pytest.raises(InputError, match=f"{tmp_path}/{place}: cannot be written: "):
            publish_bytes(b"y", locate(str(tmp_path / place)))
    assert content(tmp_path) == {"a/b/c": b"x"}


def test_temporary_beside_target_hidden(tmp_path):
    with published(locate(str(tmp_path / "shard.parquet"))) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == tmp_path  # a rename is atomic within one file system only
        assert temporary.name.startswith(TEMPORARY_PREFIX)
        with pytest.raises(InputError, match="holds no"):
            list_shards(locate(str(tmp_path)))


def test_readers_see_whole_files(tmp_path):
    path = tmp_path / "part"
    contents = [bytes([number]) * 400_000 for number in range(30)]
    publish_bytes(contents[0], locate(str(path)))
    seen: list[bytes] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for data in contents[1:]:
            publish_bytes(data, locate(str(path)))
    finally:
        stop.set()
        reader.join()
    assert seen
    assert set(seen) <= set(contents)
