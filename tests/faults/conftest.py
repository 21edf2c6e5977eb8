"""What the fault tests share: processes to hurt, an archive that changed, and what must come out.

The archive is scored once as it was yesterday. Since then a shard was changed, one shrank, one is
gone, and one is new; one image cannot be read. A night's run over it so comes to every step that
commits something.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from digitsum.archive.synth import SynthConfig, synth
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.saved_model import save_model

# Processes that are forked import `without_ray`, as does the one that they are forked from, which
# looks at the environment only.
sys.path.insert(0, str(Path(__file__).parent))
os.environ["PYTHONPATH"] = str(Path(__file__).parent)

WAIT_S = 240
SHARDS, SHARD_IMAGES, CHUNK_IMAGES = 6, 240, 80
WIDTH, DIGITS = 96, 2


def pytest_collection_modifyitems(items):
    for item in items:
        if "faults" in item.path.parts:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """Give a small model of fresh weights: which sums it predicts does not matter here."""
    uri = str(tmp_path_factory.mktemp("model") / "model")
    torch.manual_seed(0)
    sizes = dict.fromkeys(("stem_channels", "body_channels", "row_channels"), 4)
    network = CounterNetwork(
        CounterConfig(40, WIDTH, DIGITS, max_digits=3, column_channels=8, num_mixers=1, **sizes)
    )
    with torch.no_grad():
        network.head.weight.mul_(50)  # else it would read the same on all images
    save_model(uri, "counter", network, metrics={}, card="", pixel_scale=1 / 255)
    return uri


@pytest.fixture(scope="session")
def nights(model, tmp_path_factory) -> Callable[[Path], str]:
    """Give what lays out, in a directory, the archive, and yesterday's scores of what it was.

    It returns the command that scores it tonight.
    """
    from without_ray import exit_code

    made = tmp_path_factory.mktemp("nights")
    archive = made / "archive"
    synth(
        SynthConfig(
            out=str(archive),
            images=SHARDS * SHARD_IMAGES,
            shards=SHARDS,
            digits=DIGITS,
            width=WIDTH,
            unlabelled=True,
        )
    )
    for shard in sorted(archive.glob("*.parquet")):
        table = pq.read_table(shard)
        pq.write_table(table, shard, row_group_size=CHUNK_IMAGES // 2)
    new = archive / "shard-00005.parquet"
    new.rename(made / "new")
    command = f"score --archive {archive} --scores {made}/scores --model {model}"
    options = f"--chunk-images {CHUNK_IMAGES} --max-rejected 5%"
    assert exit_code(f"{command} {options}", made / "log") == 0, (made / "log").read_text()
    (made / "new").rename(new)
    change_archive(archive)

    def lay_out(directory: Path) -> str:
        shutil.copytree(made / "scores", directory / "scores", dirs_exist_ok=True)
        command = f"score --archive {archive} --scores {directory}/scores --model {model}"
        return f"{command} {options}"

    return lay_out


def change_archive(archive: Path) -> None:
    first, shrunk, gone, odd = (archive / f"shard-0000{n}.parquet" for n in (0, 1, 2, 3))
    table = pq.read_table(first)
    pq.write_table(table.take(list(range(len(table)))[::-1]), first, row_group_size=40)
    pq.write_table(pq.read_table(shrunk).slice(0, 100), shrunk, row_group_size=40)
    gone.unlink()
    images = [image.as_py() for image in pq.read_table(odd)["image"]]
    images[7] = images[7][:-1]  # a byte is missing, and so the column is no more of a fixed size
    table = pa.table({"image_id": pq.read_table(odd)["image_id"], "image": images})
    lists = pa.array([list(image) for image in images], pa.list_(pa.uint8()))
    table = table.set_column(1, "image", lists)
    metadata = {"digitsum.height": "40", "digitsum.width": str(WIDTH)}
    pq.write_table(table.replace_schema_metadata(metadata), odd, row_group_size=40)


@pytest.fixture(scope="session")
def undisturbed(nights, tmp_path_factory) -> dict[str, bytes]:
    """Give what an undisturbed run leaves, by path: the parts and CURRENT."""
    from without_ray import exit_code

    out = tmp_path_factory.mktemp("undisturbed")
    assert exit_code(nights(out), out / "log") == 0, (out / "log").read_text()
    return left_behind(out / "scores")


@pytest.fixture(scope="session")
def left(undisturbed) -> Callable[[Path], dict[str, bytes]]:
    """Read all that lies in a scores directory, hidden files too, but for the runs' own."""
    return left_behind


def left_behind(scores: Path) -> dict[str, bytes]:
    return {
        path.relative_to(scores).as_posix(): path.read_bytes()
        for path in scores.rglob("*")
        if path.is_file() and ("_runs" not in path.parts or path.name.startswith(".tmp-"))
    }


@pytest.fixture(scope="session")
def start() -> Callable[[str, Path], psutil.Popen]:
    """Start a digitsum command as a process of its own, its output appended to a log."""

    def started(command: str, log: Path, **environment: str) -> psutil.Popen:
        line = [sys.executable, "-m", "digitsum", *command.split()]
        with log.open("a") as output:
            return psutil.Popen(
                line, stdout=output, stderr=output, env=psutil.Process().environ() | environment
            )

    return started


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], bool], psutil.Popen, Path], None]:
    """Wait until something has happened while a process runs."""

    def wait(happened: Callable[[], bool], process: psutil.Popen, log: Path) -> None:
        ended = time.monotonic() + WAIT_S
        while not happened():
            running = process.poll() is None
            assert running, f"the run ended before it could be hurt:\n{log.read_text()}"
            assert time.monotonic() < ended, f"nothing happened:\n{log.read_text()}"
            time.sleep(0.01)

    return wait


def title_of(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


@pytest.fixture(scope="session")
def workers_below() -> Callable[[psutil.Process, str], list[psutil.Process]]:
    """Find the Ray workers below a process whose title begins so."""

    def found(process: psutil.Process, title: str) -> list[psutil.Process]:
        return [p for p in process.children(recursive=True) if title_of(p).startswith(title)]

    return found


@pytest.fixture(scope="session")
def kill_everything() -> Callable[[psutil.Popen], None]:
    """Kill a driver and every process below it at once, as the loss of power would."""

    def kill(process: psutil.Popen) -> None:
        family = [process, *process.children(recursive=True)]
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    act(member)
        psutil.wait_procs(family, timeout=WAIT_S)

    return kill
