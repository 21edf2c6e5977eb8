"""An archive that changed since it was scored, and what an undisturbed run makes of it.

The archive was scored yesterday. Since then a shard was changed, one shrank, one is gone, and one
is new; one image cannot be read. So tonight's run passes every step that commits something.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import factories
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from without_ray import check_completes, left_behind

from digitsum.archive.synth import SynthConfig, synth

# Forked processes import `without_ray`; the process that they are forked from sees only this.
HERE = Path(__file__).parent
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
)

SHARDS, SHARD_IMAGES, CHUNK_IMAGES = 6, 240, 80
WIDTH, DIGITS = 96, 2


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """Give a small model of fresh weights: which sums it predicts does not matter here."""
    path = tmp_path_factory.mktemp("model") / "model"
    sizes = dict.fromkeys(("stem_channels", "body_channels", "row_channels"), 4)
    network = factories.make_counter(
        40, WIDTH, DIGITS, max_digits=3, column_channels=8, num_mixers=1, **sizes
    )
    with torch.no_grad():
        network.head.weight.mul_(50)  # else it would read the same on all images
    factories.write_model(path, network)
    return str(path)


@pytest.fixture(scope="session")
def make_archive(tmp_path_factory) -> Callable[..., Path]:
    """Give a function that writes a small unlabelled archive and returns its directory."""

    def make(directory: Path, num_images: int, num_shards: int, group_rows: int | None = None):
        kind = {"digits": DIGITS, "width": WIDTH, "unlabelled": True}
        synth(SynthConfig(out=str(directory), images=num_images, shards=num_shards, **kind))
        for shard in sorted(directory.glob("*.parquet")) if group_rows else ():
            pq.write_table(pq.read_table(shard), shard, row_group_size=group_rows)
        return directory

    return make


@pytest.fixture(scope="session")
def nights(model, make_archive, tmp_path_factory) -> Callable[[Path], str]:
    """Give a function that lays out yesterday's scores in a directory.

    It returns the command that scores the archive tonight.
    """
    made = tmp_path_factory.mktemp("nights")
    archive = make_archive(made / "archive", SHARDS * SHARD_IMAGES, SHARDS, CHUNK_IMAGES // 2)

    def command(scores: Path) -> str:
        return (
            f"score --archive {archive} --scores {scores} --model {model} "
            f"--chunk-images {CHUNK_IMAGES} --max-rejected 5%"
        )

    new = archive / "shard-00005.parquet"
    new.rename(made / "new")
    check_completes(command(made / "scores"), made / "log")
    (made / "new").rename(new)
    change_archive(archive)

    def lay_out(directory: Path) -> str:
        shutil.copytree(made / "scores", directory / "scores", dirs_exist_ok=True)
        return command(directory / "scores")

    return lay_out


def change_archive(archive: Path) -> None:
    first, shrunk, gone, odd = (archive / f"shard-0000{n}.parquet" for n in (0, 1, 2, 3))
    table = pq.read_table(first)
    pq.write_table(table.take(list(range(len(table)))[::-1]), first, row_group_size=40)
    pq.write_table(pq.read_table(shrunk).slice(0, 100), shrunk, row_group_size=40)
    gone.unlink()
    table = pq.read_table(odd)
    images = [list(image) for image in table["image"].to_pylist()]
    images[7].pop()  # a byte is missing, so the column is of lists, not of a fixed size
    columns = {"image_id": table["image_id"], "image": pa.array(images, pa.list_(pa.uint8()))}
    metadata = {"digitsum.height": "40", "digitsum.width": str(WIDTH)}
    factories.write_parquet(odd, columns, metadata=metadata, row_group_size=40)


@pytest.fixture(scope="session")
def undisturbed(nights, tmp_path_factory) -> dict[str, bytes]:
    """Give what an undisturbed run leaves, by path: the parts and CURRENT."""
    out = tmp_path_factory.mktemp("undisturbed")
    check_completes(nights(out), out / "log")
    return left_behind(out / "scores")
