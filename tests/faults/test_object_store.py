"""The same guarantees on a real S3 server: a put is the commit, and no lock keeps runs apart."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs
from without_ray import exit_code, started

SIGKILLED = -9
POINTS = ("written:4", "renamed:5", "rejects_written:3", "committed:2", "scored:1", "removed:2")


@pytest.fixture
def nightly(nights, s3_files, tmp_path):
    """Put yesterday's scores, the archive and the model on S3; give where, and the command."""
    words = nights(tmp_path).split()
    local = {name: words[words.index(name) + 1] for name in ("--archive", "--scores", "--model")}

    def lay_out(prefix):
        command = list(words)
        for name, directory in local.items():
            target = f"images/{prefix}/{name.strip('-')}"
            pafs.copy_files(directory, target, destination_filesystem=s3_files, use_threads=False)
            command[words.index(name) + 1] = f"s3://{target}"
        # The archive was moved, and so its scores are told.
        with s3_files.open_output_stream(f"images/{prefix}/scores/_runs/ARCHIVE") as place:
            place.write(f"s3://images/{prefix}/archive\n".encode())
        return f"images/{prefix}/scores", " ".join(command)

    return lay_out


def left_on(files, scores):
    found = files.get_file_info(pafs.FileSelector(scores, recursive=True))
    paths = [info.path for info in found if info.type == pafs.FileType.File]
    kept = [path for path in paths if "/_runs/" not in path]
    return {path.removeprefix(f"{scores}/"): files.open_input_file(path).read() for path in kept}


def same_rows(found, undisturbed):
    """Compare parts by their names and data pages; fingerprints hold each store's own times."""

    def rows(content):
        return pq.read_table(pa.BufferReader(content)).replace_schema_metadata(None)

    assert found.keys() == undisturbed.keys()
    for path, content in undisturbed.items():
        if path.endswith(".parquet"):
            assert rows(found[path]).equals(rows(content)), path
        else:
            assert found[path] == content, path


def test_killed_runs_are_finished_by_the_next(nightly, s3, s3_files, undisturbed, tmp_path):
    rng = random.Random(5)
    for point in POINTS:
        scores, command = nightly(f"killed-at-{point.replace(':', '-')}")
        log = tmp_path / "log"
        assert exit_code(command, log, point, s3) == SIGKILLED, log.read_text()
        process = started(command, log, None, s3)
        process.join(rng.uniform(0, 2))
        process.kill()
        process.join()
        assert exit_code(command, log, None, s3) == 0, log.read_text()
        same_rows(left_on(s3_files, scores), undisturbed)


def test_two_runs_at_once_are_harmless(nightly, s3, s3_files, undisturbed, tmp_path):
    scores, command = nightly("twice")
    processes = [started(command, tmp_path / f"log{number}", None, s3) for number in range(2)]
    for process in processes:
        process.join()
    said = [(tmp_path / f"log{number}").read_text() for number in range(2)]
    assert [process.exitcode for process in processes] == [0, 0], said
    same_rows(left_on(s3_files, scores), undisturbed)
