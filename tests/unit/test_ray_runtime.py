from pathlib import Path

from filelock import FileLock

from digitsum.ray_runtime import LOCK_FILE, held_session, remove_ended_sessions


def session(directory: Path, number: int, *, of_digitsum: bool = True) -> Path:
    made = directory / f"session_2026-11-26_06-00-{number:02}_000000_{number}"
    (made / "logs").mkdir(parents=True)
    (made / "logs/raylet.out").write_text("said")
    if of_digitsum:
        (made / LOCK_FILE).touch()
    return made


def test_the_last_sessions_are_kept_and_older_ones_removed(tmp_path):
    sessions = [session(tmp_path, number) for number in range(5)]
    remove_ended_sessions(tmp_path, kept=2)
    assert sorted(tmp_path.iterdir()) == sessions[3:]
    assert (sessions[3] / "logs/raylet.out").read_text() == "said"
    remove_ended_sessions(tmp_path, kept=2)
    assert sorted(tmp_path.iterdir()) == sessions[3:]


def test_fewer_than_are_kept_all_stay(tmp_path):
    sessions = [session(tmp_path, number) for number in range(3)]
    remove_ended_sessions(tmp_path, kept=3)
    assert sorted(tmp_path.iterdir()) == sessions


def test_the_session_of_a_driver_that_lives_stays(tmp_path):
    sessions = [session(tmp_path, number) for number in range(4)]
    with FileLock(sessions[0] / LOCK_FILE):
        remove_ended_sessions(tmp_path, kept=1)
        assert sorted(tmp_path.iterdir()) == [sessions[0], sessions[3]]
    remove_ended_sessions(tmp_path, kept=1)
    assert sorted(tmp_path.iterdir()) == [sessions[3]]


def test_what_others_keep_there_stays(tmp_path):
    others = session(tmp_path, 0, of_digitsum=False)
    own = [session(tmp_path, number) for number in range(1, 4)]
    file = tmp_path / "session_latest"
    file.symlink_to(own[2])
    elsewhere = tmp_path / "elsewhere"
    linked = tmp_path / "session_0000"
    linked.symlink_to(session(elsewhere, 9))
    remove_ended_sessions(tmp_path, kept=1)
    assert sorted(tmp_path.iterdir()) == sorted([others, own[2], file, elsewhere, linked])
    assert (linked / "logs/raylet.out").exists()


def test_a_session_is_held_for_the_block_and_known_afterwards(tmp_path):
    own = session(tmp_path, 0, of_digitsum=False)
    older = session(tmp_path, 1)
    with held_session(own):
        remove_ended_sessions(tmp_path, kept=0)
        assert own.exists()
    assert not older.exists()
    assert own.exists()
    remove_ended_sessions(tmp_path, kept=0)
    assert not own.exists()


def test_a_session_that_cannot_be_written_to_does_no_harm(tmp_path):
    session = tmp_path / "session_0"
    session.write_text("a file")
    with held_session(session):
        remove_ended_sessions(tmp_path, kept=0)
    assert session.read_text() == "a file"
