"""The same guarantees on a real S3 server: a put is the commit, and no lock separates runs."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs
from without_ray import SIGKILLED, check_completes, exit_code, left_behind, start_forked

POINTS = ("written:4", "renamed:5", "rejects_written:3", "committed:2", "scored:1", "removed:2")


@pytest.fixture
def lay_out(nights, s3_files, tmp_path):
    """Give a function that puts yesterday's scores, the archive and the model on S3.

    It returns the path of the scores, and the command.
    """
    words = nights(tmp_path).split()
    local = {name: words[words.index(name) + 1] for name in ("--archive", "--scores", "--model")}

    def lay_out(prefix):
        command = list(words)
        for name, directory in local.items():
            target = f"images/{prefix}/{name.strip('-')}"
            pafs.copy_files(directory, target, destination_filesystem=s3_files, use_threads=False)
            command[words.index(name) + 1] = f"s3://{target}"
        # The archive has moved, so its scores must name the new place.
        with s3_files.open_output_stream(f"images/{prefix}/scores/_runs/ARCHIVE") as place:
            place.write(f"s3://images/{prefix}/archive\n".encode())
        return f"images/{prefix}/scores", " ".join(command)

    return lay_out


def check_same_rows(files, scores, undisturbed, copy):
    """Compare parts by their names and rows; fingerprints differ by each store's own times."""

    def rows(content):
        return pq.read_table(pa.BufferReader(content)).replace_schema_metadata(None)

    pafs.copy_files(scores, str(copy), source_filesystem=files, use_threads=False)
    present = left_behind(copy)
    assert present.keys() == undisturbed.keys()
    for path, content in undisturbed.items():
        if path.endswith(".parquet"):
            assert rows(present[path]).equals(rows(content)), path
        else:
            assert present[path] == content, path


@pytest.mark.parametrize("point", POINTS)
def test_killed_run_on_s3(lay_out, s3, s3_files, undisturbed, tmp_path, point):
    scores, command = lay_out(f"killed-at-{point.replace(':', '-')}")
    log = tmp_path / "log"
    assert exit_code(command, log, point, s3) == SIGKILLED, log.read_text()
    process = start_forked(command, log, None, s3)
    process.join(random.Random(point).uniform(0, 2))
    process.kill()
    process.join()
    check_completes(command, log, s3)
    check_same_rows(s3_files, scores, undisturbed, tmp_path / "copy")


def test_two_runs_at_once_on_s3(lay_out, s3, s3_files, undisturbed, tmp_path):
    scores, command = lay_out("twice")
    logs = [tmp_path / f"log{number}" for number in range(2)]
    processes = [start_forked(command, log, None, s3) for log in logs]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0], [log.read_text() for log in logs]
    check_same_rows(s3_files, scores, undisturbed, tmp_path / "copy")
