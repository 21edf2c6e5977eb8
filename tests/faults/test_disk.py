"""Disks that are full, read-only or blocked: a sentence, nothing half written, then a whole run."""

import shutil
import subprocess
from contextlib import contextmanager

import pytest
from without_ray import check_completes, exit_code, left_behind

SPARE_BYTES = 10 * 4096


class Disk:
    """A night that is laid out on a disk, and its scores before."""

    def __init__(self, nights, undisturbed, directory, log):
        self.command = nights(directory)
        self.scores, self._log, self._undisturbed = directory / "scores", log, undisturbed
        self.before = left_behind(self.scores)

    def check_refuses(self, *words):
        """Check that the run ends with one sentence that has these words."""
        assert exit_code(self.command, self._log) == 2, self._log.read_text()
        output = self._log.read_text()
        assert "Traceback" not in output
        [sentence] = [line for line in output.splitlines() if line.startswith("digitsum: ")]
        assert all(word in sentence for word in ("cannot be written", *words)), sentence
        self._log.write_text("")

    def check_completes(self):
        check_completes(self.command, self._log)
        assert left_behind(self.scores) == self._undisturbed


@pytest.fixture
def lay_out(nights, undisturbed, tmp_path):
    """Give a function that lays out a night in a directory."""
    return lambda directory: Disk(nights, undisturbed, directory, tmp_path / "log")


@contextmanager
def mounted(directory, options):
    directory.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_full_disk(lay_out, undisturbed, tmp_path):
    directory = tmp_path / "disk"
    with mounted(directory, "size=4m"):
        disk = lay_out(directory)
        filler = directory / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(directory).free - SPARE_BYTES))
        disk.check_refuses("No space left on device")
        for path, content in left_behind(disk.scores).items():
            assert content in (disk.before.get(path), undisturbed.get(path)), path
        filler.unlink()
        disk.check_completes()


def test_read_only_disk(lay_out, tmp_path):
    directory = tmp_path / "disk"
    with mounted(directory, "size=16m"):
        disk = lay_out(directory)
        subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
        disk.check_refuses("Read-only file system")
        assert left_behind(disk.scores) == disk.before
        subprocess.run(["mount", "-o", "remount,rw", str(directory)], check=True)
        disk.check_completes()


@pytest.mark.parametrize("in_the_way", ["model", "_runs"])
def test_file_in_the_way(lay_out, tmp_path, in_the_way):
    disk = lay_out(tmp_path)
    [model] = disk.scores.glob("model=*")
    directory = model / "shard-00005" if in_the_way == "model" else disk.scores / "_runs"
    kept = tmp_path / "kept"
    if directory.exists():
        directory.rename(kept)
    directory.write_text("in the way")
    disk.check_refuses()
    assert directory.read_text() == "in the way"
    directory.unlink()
    if kept.exists():
        kept.rename(directory)
    disk.check_completes()


def test_immutable_directory(lay_out, tmp_path):
    disk = lay_out(tmp_path)
    [model] = disk.scores.glob("model=*")
    # Not by its mode, which does not bind root.
    if subprocess.run(["chattr", "+i", str(model)], capture_output=True).returncode:
        pytest.skip("this file system, or this user, makes no directory immutable")
    try:
        disk.check_refuses("not permitted")
    finally:
        subprocess.run(["chattr", "-i", str(model)], check=True)
    disk.check_completes()
