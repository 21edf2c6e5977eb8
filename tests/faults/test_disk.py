"""Disks that are full, read-only, or in the way: a sentence, nothing half written, a next run."""

import subprocess
from contextlib import contextmanager

import pytest
from without_ray import exit_code


@contextmanager
def mounted(where, *options):
    where.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(where)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True)


def remount(where, *options):
    command = ["mount", "-o", ",".join(["remount", *options]), str(where)]
    subprocess.run(command, check=True)


def check_said(log, *words):
    said = log.read_text()
    assert "Traceback" not in said
    [sentence] = [line for line in said.splitlines() if line.startswith("digitsum: ")]
    assert all(word in sentence for word in words), sentence
    log.write_text("")


def test_a_full_disk_ends_the_run_with_a_sentence_and_the_next_one_completes(
    nights, undisturbed, left, tmp_path
):
    disk, log = tmp_path / "disk", tmp_path / "log"
    with mounted(disk, "size=4m"):
        command = nights(disk)
        filler = disk / "filler"
        with filler.open("wb") as file:
            room = 10 * 4096
            free = int(
                subprocess.run(
                    ["stat", "-f", "-c", "%a", str(disk)], capture_output=True, check=True
                ).stdout
            )
            file.write(bytes(free * 4096 - room))
        before = left(disk / "scores")
        assert exit_code(command, log) == 2, log.read_text()
        check_said(log, "cannot be written", "No space left on device")
        for path, content in left(disk / "scores").items():
            assert content in (before.get(path), undisturbed.get(path)), path
        filler.unlink()
        assert exit_code(command, log) == 0, log.read_text()
        assert left(disk / "scores") == undisturbed


def test_a_read_only_disk_is_said_before_anything_is_scored(nights, undisturbed, left, tmp_path):
    disk, log = tmp_path / "disk", tmp_path / "log"
    with mounted(disk, "size=16m"):
        command = nights(disk)
        before = left(disk / "scores")
        remount(disk, "ro")
        assert exit_code(command, log) == 2, log.read_text()
        check_said(log, "cannot be written", "Read-only file system")
        assert left(disk / "scores") == before
        remount(disk, "rw")
        assert exit_code(command, log) == 0, log.read_text()
        assert left(disk / "scores") == undisturbed


@pytest.mark.parametrize("in_the_way", ["model", "_runs"])
def test_a_file_in_the_way_is_said(nights, undisturbed, left, tmp_path, in_the_way):
    scores, log = tmp_path / "scores", tmp_path / "log"
    command = nights(tmp_path)
    [model] = scores.glob("model=*")
    directory = model / "shard-00005" if in_the_way == "model" else scores / "_runs"
    kept = tmp_path / "kept"
    if directory.exists():
        directory.rename(kept)
    directory.write_text("in the way")
    assert exit_code(command, log) == 2, log.read_text()
    check_said(log, "cannot be written")
    assert directory.read_text() == "in the way"
    directory.unlink()
    if kept.exists():
        kept.rename(directory)
    assert exit_code(command, log) == 0, log.read_text()
    assert left(scores) == undisturbed


def test_a_directory_that_may_not_be_written_is_said(nights, undisturbed, left, tmp_path):
    scores, log = tmp_path / "scores", tmp_path / "log"
    command = nights(tmp_path)
    [model] = scores.glob("model=*")
    # Not by its mode, which does not bind root.
    if subprocess.run(["chattr", "+i", str(model)], capture_output=True).returncode:
        pytest.skip("this file system, or this user, makes no directory immutable")
    try:
        assert exit_code(command, log) == 2, log.read_text()
        check_said(log, "cannot be written", "not permitted")
    finally:
        subprocess.run(["chattr", "-i", str(model)], check=True)
    assert exit_code(command, log) == 0, log.read_text()
    assert left(scores) == undisturbed
