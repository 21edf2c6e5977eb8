"""Fixtures of the integration tests: one Ray, small archives of real digits, trained models."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import factories
import numpy as np
import pyarrow.dataset as ds
import pytest
import torch

from digitsum.archive.glyphs import EMBEDDED, load_glyphs
from digitsum.archive.synth import SynthConfig, compose, synth
from digitsum.cli import main
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.registry import to_input
from digitsum.options import ImageShape
from digitsum.ray_runtime import connect_ray

NUM_LABELLED = 600
NUM_UNLABELLED = 500


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """Start one Ray for all tests of this process that use it."""
    with connect_ray(state_api=True):
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


def train_pair(labelled: str, out: Path, network: str) -> Path:
    command = (
        f"train --archive {labelled} --digits 1 --out {out}/model --name pair --epochs 2 "
        f"--network {network} --workers 2 --batch-size 32"
    )
    assert main(command.split()) == 0
    return out


@pytest.fixture(scope="session")
def trained(one_ray, labelled, tmp_path_factory) -> Path:
    """Train a counter in a run of two epochs and two workers; give the directory of both."""
    return train_pair(labelled, tmp_path_factory.mktemp("trained"), "counter")


@pytest.fixture(scope="session")
def trained_baseline(one_ray, labelled, tmp_path_factory) -> Path:
    """Train a baseline in a run of two epochs and two workers; give the directory of both."""
    return train_pair(labelled, tmp_path_factory.mktemp("trained_baseline"), "baseline")


@pytest.fixture(scope="session")
def reader(tmp_path_factory) -> Path:
    """Give the directory of the `model` of a counter that reads most digits, and some wrong.

    It is trained here, not by a run: after the few steps of a test's run, the averaged weights
    read nothing on any image, so that scores in the wrong order would look right.
    """
    out = tmp_path_factory.mktemp("reader")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    glyphs, shape = load_glyphs(EMBEDDED, "train"), ImageShape(40, 48)
    network = CounterNetwork(CounterConfig(shape.height, shape.width, num_digits=1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for _ in range(150):
        images = compose(glyphs, rng, 32, 1, shape)
        sums = torch.from_numpy(images.digit_sums).long()
        logits = network(to_input(torch.from_numpy(images.pixels), 1 / 255))
        log_probs = network.sum_log_probs(logits, 1, 1)
        loss = network.pull(logits, sums, 1) - log_probs.gather(1, sums.unsqueeze(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    factories.write_model(out / "model", network, temperature=1.25)
    return out


@pytest.fixture(scope="session")
def read_archive() -> Callable[[str], dict[str, np.ndarray]]:
    """Read an archive's images by id, with pyarrow alone."""

    def read(archive: str) -> dict[str, np.ndarray]:
        table = ds.dataset(archive).to_table(columns=["image_id", "image"])
        height, width = (
            int(table.schema.metadata[f"digitsum.{side}".encode()]) for side in ("height", "width")
        )
        return {
            row["image_id"]: np.frombuffer(row["image"], np.uint8).reshape(height, width)
            for row in table.to_pylist()
        }

    return read


@pytest.fixture
def copy_damaged(tmp_path) -> Callable[[str], Path]:
    """Copy an archive, and overwrite the pages in the middle of its second shard."""

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
