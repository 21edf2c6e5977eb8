"""What the integration tests share: one Ray, small archives of real digits, trained bundles."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main
from digitsum.cluster import connected

NUM_LABELLED = 600
NUM_UNLABELLED = 500


def pytest_collection_modifyitems(items):
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """Keep one Ray for all tests that run in this process."""
    with connected():
        yield


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> str:
    """Give an archive of 600 labelled images of one digit each, in 2 shards: quickly learned."""
    out = str(tmp_path_factory.mktemp("labelled") / "archive")
    synth(SynthConfig(out=out, images=NUM_LABELLED, shards=2, digits=1, width=48))
    return out


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory) -> str:
    """Give an archive of 500 images of the same kind without labels, in 3 shards."""
    out = str(tmp_path_factory.mktemp("unlabelled") / "archive")
    config = SynthConfig(
        out=out, images=NUM_UNLABELLED, shards=3, digits=1, width=48, split="test", unlabelled=True
    )
    synth(config)
    return out


@pytest.fixture(scope="session")
def trained(one_ray, labelled, tmp_path_factory) -> Path:
    """Train a counter in a run of two epochs and two workers, and give the directory of both."""
    out = tmp_path_factory.mktemp("trained")
    code = main(
        f"train --archive {labelled} --digits 1 --bundle {out}/bundle --name pair --epochs 2 "
        "--workers 2 --batch-size 32".split()
    )
    assert code == 0
    return out


@pytest.fixture(scope="session")
def trained_baseline(one_ray, labelled, tmp_path_factory) -> Path:
    """Train a baseline in a run of two epochs and two workers, and give the directory of both."""
    out = tmp_path_factory.mktemp("trained_baseline")
    code = main(
        f"train --archive {labelled} --digits 1 --bundle {out}/bundle --name pair --epochs 2 "
        "--model baseline --workers 2 --batch-size 32".split()
    )
    assert code == 0
    return out


@pytest.fixture(scope="session")
def read_scores() -> Callable[[Path], list[dict]]:
    """Read all scores below a directory in the order of the archive, as anybody would."""

    def read(scores: Path) -> list[dict]:
        parts = sorted(path for path in scores.glob("model=*/**/*.parquet"))
        return pa.concat_tables(
            [pq.read_table(part, partitioning=None) for part in parts]
        ).to_pylist()

    return read


@pytest.fixture(scope="session")
def read_archive() -> Callable[[str], dict[str, np.ndarray]]:
    """Read an archive's images by id, with pyarrow alone."""

    def read(archive: str) -> dict[str, np.ndarray]:
        table = ds.dataset(archive).to_table(columns=["image_id", "image"])
        height, width = (
            int(table.schema.metadata[b"digitsum." + k]) for k in (b"height", b"width")
        )
        return {
            row["image_id"]: np.frombuffer(row["image"], np.uint8).reshape(height, width)
            for row in table.to_pylist()
        }

    return read


@pytest.fixture
def copy_damaged(tmp_path) -> Callable[[str], Path]:
    """Copy an archive, with the pages in the middle of its second shard overwritten."""

    def copy(archive: str) -> Path:
        damaged = tmp_path / "damaged"
        shutil.copytree(archive, damaged)
        shard = damaged / "shard-00001.parquet"
        content = bytearray(shard.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 2000] = bytes(2000)
        shard.write_bytes(content)
        return damaged

    return copy
