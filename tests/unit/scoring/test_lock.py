import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from factories import read_files
from pyarrow import fs as pafs

from digitsum.errors import InputError, ScoresHeldError
from digitsum.manifest import RUNS_DIRECTORY
from digitsum.scoring.lock import (
    ARCHIVE_FILE,
    HOLDER_FILE,
    LOCK_FILE,
    check_same_archive,
    lock_scores,
)
from digitsum.storage.location import Location, locate

HOLDING = """
import sys
from digitsum.storage.location import locate
from digitsum.scoring.lock import lock_scores
with lock_scores(locate(sys.argv[1]), "score-other"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(scores):
    """Lock the scores in another process within the block; it ends when its input does."""
    command = [sys.executable, "-c", HOLDING, scores.uri]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def holder(scores) -> Path:
    return Path(scores.path) / RUNS_DIRECTORY / HOLDER_FILE


def lock(scores) -> None:
    with lock_scores(scores, "score-1"):
        assert holder(scores).exists()
    assert not holder(scores).exists()


def test_lock_names_its_holder(scores):
    with another_process(scores) as process:
        before = read_files(Path(scores.path))
        who = f"run score-other, process {process.pid} on {socket.gethostname()}"
        with pytest.raises(ScoresHeldError, match=rf"^{scores.uri}: is held by {who}; wait"):
            lock(scores)
        assert read_files(Path(scores.path)) == before
        for damaged in (None, b"", b"{", b"[]", b"{}", b'{"run": "a"}', b"\xff"):
            holder(scores).unlink(missing_ok=True)
            if damaged is not None:
                holder(scores).write_bytes(damaged)
            with pytest.raises(ScoresHeldError, match="another run, which has just begun or ended"):
                lock(scores)
        process.communicate("")
        assert process.returncode == 0
    lock(scores)


def test_lock_after_holder_was_killed(scores):
    with another_process(scores) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert f'"process": {process.pid}' in holder(scores).read_text()
        with lock_scores(scores, "score-next"):
            assert f'"process": {os.getpid()}' in holder(scores).read_text()
            assert '"run": "score-next"' in holder(scores).read_text()
        assert not holder(scores).exists()


@pytest.mark.parametrize("kind", [RuntimeError, InputError, KeyboardInterrupt, SystemExit])
def test_lock_is_released_by_exceptions(scores, kind):
    error = kind("message")

    def interrupted() -> None:
        with lock_scores(scores, "score-1"):
            raise error

    with pytest.raises(kind) as raised:
        interrupted()
    assert raised.value is error
    assert not Path(scores.path).exists()  # as before: nothing was written
    with another_process(scores):
        pass


def test_lock_keeps_what_was_written(tmp_path):
    for name in ("part", f"{RUNS_DIRECTORY}/plan.json"):
        scores = locate(str(tmp_path / Path(name).name))
        with lock_scores(scores, "score-1"):
            (Path(scores.path) / name).write_text("written")
            with pytest.raises(ScoresHeldError, match="run score-1, process"):
                lock(scores)
        lock(scores)
        assert read_files(Path(scores.path))[name] == b"written"
    (tmp_path / "empty").mkdir()
    lock(locate(str(tmp_path / "empty")))
    assert set(read_files(tmp_path / "empty")) <= {f"{RUNS_DIRECTORY}/{LOCK_FILE}"}


def test_lock_place_not_a_directory(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / RUNS_DIRECTORY).write_text("in the way")
    before = read_files(tmp_path)
    for name in ("file", "scores", "file/below"):
        with pytest.raises(InputError, match=f"{tmp_path}/{name}: cannot be written: ") as refusal:
            lock(locate(str(tmp_path / name)))
        assert not isinstance(refusal.value, ScoresHeldError)
    assert read_files(tmp_path) == before


@pytest.mark.parametrize("name", [LOCK_FILE, HOLDER_FILE])
def test_lock_file_is_a_directory(scores, name):
    directory = holder(scores).parent / name
    directory.mkdir(parents=True)
    with pytest.raises(InputError, match=f"^{scores.uri}.*: cannot be written: "):
        lock(scores)
    directory.rmdir()
    lock(scores)


def test_lock_on_object_store(tmp_path):
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    scores = Location("store://bucket/scores", store, "scores")
    with lock_scores(scores, "score-1"), lock_scores(scores, "score-2"):
        assert read_files(tmp_path) == {}


def test_check_same_archive(scores, tmp_path):
    archive, other = locate(str(tmp_path / "archive")), locate(str(tmp_path / "other"))
    for _ in range(2):
        check_same_archive(scores, archive)
    message = f"{scores.uri}: holds scores of {archive.uri}, not of {other.uri}; give other --scor"
    with pytest.raises(InputError, match=message):
        check_same_archive(scores, other)
    place = tmp_path / "scores" / RUNS_DIRECTORY / ARCHIVE_FILE
    place.write_text(f"{other.uri}\n")  # as the message says
    check_same_archive(scores, other)
