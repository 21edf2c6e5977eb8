from pathlib import Path

import pytest
from filelock import FileLock

from digitsum.ray_runtime import SESSION_LOCK_FILE, lock_session, remove_ended_sessions


def make_session(directory: Path, number: int, *, of_digitsum: bool = True) -> Path:
    session = directory / f"session_2026-11-26_06-00-{number:02}_000000_{number}"
    (session / "logs").mkdir(parents=True)
    (session / "logs/raylet.out").write_text("log")
    if of_digitsum:
        (session / SESSION_LOCK_FILE).touch()
    return session


@pytest.mark.parametrize(("num_sessions", "num_kept"), [(5, 2), (3, 3), (2, 3)])
def test_remove_sessions_keeps_last(tmp_path, num_sessions, num_kept):
    sessions = [make_session(tmp_path, number) for number in range(num_sessions)]
    for _ in range(2):
        remove_ended_sessions(tmp_path, num_kept)
        assert sorted(tmp_path.iterdir()) == sessions[-num_kept:]
    assert (sessions[-1] / "logs/raylet.out").read_text() == "log"


def test_remove_sessions_not_in_use(tmp_path):
    sessions = [make_session(tmp_path, number) for number in range(4)]
    with FileLock(sessions[0] / SESSION_LOCK_FILE):
        remove_ended_sessions(tmp_path, 1)
        assert sorted(tmp_path.iterdir()) == [sessions[0], sessions[3]]
    remove_ended_sessions(tmp_path, 1)
    assert sorted(tmp_path.iterdir()) == [sessions[3]]


def test_remove_sessions_not_of_others(tmp_path):
    others = make_session(tmp_path, 0, of_digitsum=False)
    own = [make_session(tmp_path, number) for number in range(1, 4)]
    latest = tmp_path / "session_latest"
    latest.symlink_to(own[2])
    elsewhere = tmp_path / "elsewhere"
    linked = tmp_path / "session_0000"
    linked.symlink_to(make_session(elsewhere, 9))
    remove_ended_sessions(tmp_path, 1)
    assert sorted(tmp_path.iterdir()) == sorted([others, own[2], latest, elsewhere, linked])
    assert (linked / "logs/raylet.out").exists()


def test_lock_session_marks_and_releases(tmp_path):
    own = make_session(tmp_path, 0, of_digitsum=False)
    older = make_session(tmp_path, 1)
    with lock_session(own):
        remove_ended_sessions(tmp_path, 0)
        assert own.exists()
    assert not older.exists()
    assert own.exists()
    remove_ended_sessions(tmp_path, 0)
    assert not own.exists()


def test_lock_session_unwritable(tmp_path):
    session = tmp_path / "session_0"
    session.write_text("a file")
    with lock_session(session):
        remove_ended_sessions(tmp_path, 0)
    assert session.read_text() == "a file"
