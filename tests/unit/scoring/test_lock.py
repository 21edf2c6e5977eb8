import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from digitsum.errors import InputError, ScoresHeldError
from digitsum.manifest import RUNS_DIRECTORY
from digitsum.scoring.lock import HOLDER_FILE, LOCK_FILE, held
from digitsum.storage.location import Location, locate

HOLDING = """
import sys
from digitsum.storage.location import locate
from digitsum.scoring.lock import held
with held(locate(sys.argv[1]), "score-other"):
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def scores(tmp_path) -> Location:
    return locate(str(tmp_path / "scores"))


@contextmanager
def another_process(scores):
    """Hold the scores in another process within the block; its input's end ends it."""
    command = [sys.executable, "-c", HOLDING, scores.uri]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            assert process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()


def holder(scores) -> Path:
    return Path(scores.path) / RUNS_DIRECTORY / HOLDER_FILE


def hold(scores) -> None:
    with held(scores, "score-1"):
        assert holder(scores).exists()


def test_a_second_holder_is_told_which_run_holds_in_which_process_on_which_host(scores, content):
    with another_process(scores) as process:
        before = content(Path(scores.path))
        who = f"run score-other, process {process.pid} on {socket.gethostname()}"
        with pytest.raises(ScoresHeldError, match=rf"^{scores.uri}: is held by {who}; wait"):
            hold(scores)
        assert content(Path(scores.path)) == before
        process.communicate("")
        assert process.returncode == 0
    hold(scores)


def test_a_second_holder_in_the_same_process_is_refused_too(scores):
    with held(scores, "score-1"), pytest.raises(ScoresHeldError, match="run score-1, process"):
        hold(scores)
    hold(scores)


def test_after_a_holder_was_killed_the_next_has_the_scores_at_once(scores):
    with another_process(scores) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert f'"process": {process.pid}' in holder(scores).read_text()
        with held(scores, "score-next"):
            assert f'"process": {os.getpid()}' in holder(scores).read_text()
            assert '"run": "score-next"' in holder(scores).read_text()
        assert not holder(scores).exists()


def test_scores_are_free_after_the_block(scores):
    hold(scores)
    assert not holder(scores).exists()
    with another_process(scores):
        pass


@pytest.mark.parametrize("kind", [RuntimeError, InputError, KeyboardInterrupt, SystemExit])
def test_scores_are_free_after_an_exception_which_is_not_changed(scores, kind):
    error = kind("said")

    def interrupted() -> None:
        with held(scores, "score-1"):
            raise error

    with pytest.raises(kind) as raised:
        interrupted()
    assert raised.value is error
    assert not holder(scores).exists()
    with another_process(scores):
        pass


@pytest.mark.parametrize("said", [None, b"", b"{", b"[]", b"{}", b'{"run": "a"}', b"\xff"])
def test_where_a_holder_says_nothing_of_use_it_is_just_another_run(scores, said):
    with another_process(scores):
        holder(scores).unlink()
        if said is not None:
            holder(scores).write_bytes(said)
        with pytest.raises(ScoresHeldError, match="another run, which has just begun or ended"):
            hold(scores)


def test_the_directory_is_made_and_nothing_but_the_lock_stays(scores, content):
    hold(scores)
    assert list(content(Path(scores.path))) in ([], [f"{RUNS_DIRECTORY}/{LOCK_FILE}"])


def test_scores_whose_place_is_no_directory_are_refused(tmp_path, content):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / RUNS_DIRECTORY).write_text("in the way")
    before = content(tmp_path)
    for name in ("file", "scores", "file/below"):
        with pytest.raises(InputError, match=f"{tmp_path}/{name}: cannot be written: ") as refusal:
            hold(locate(str(tmp_path / name)))
        assert not isinstance(refusal.value, ScoresHeldError)
    assert content(tmp_path) == before


def test_a_directory_in_the_place_of_the_lock_is_refused(scores):
    (holder(scores).parent / LOCK_FILE).mkdir(parents=True)
    with pytest.raises(InputError, match=f"^{scores.uri}: cannot be written: "):
        hold(scores)


def test_a_directory_in_the_place_of_the_holders_file_is_refused_and_the_lock_is_let_go(scores):
    holder(scores).mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written"):
        hold(scores)
    holder(scores).rmdir()
    hold(scores)


def test_an_object_store_is_held_by_anyone_and_nothing_is_written_to_it(tmp_path, content):
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    scores = Location("store://bucket/scores", store, "scores")
    with held(scores, "score-1"), held(scores, "score-2"):
        assert content(tmp_path) == {}
