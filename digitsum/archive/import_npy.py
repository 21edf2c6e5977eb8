"""Import of NumPy files of images and sums, such as `data0.npy` and `lab0.npy`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tyro.conf import Positional

from digitsum.archive.preprocessing import CanvasOptions
from digitsum.archive.schema import max_sum
from digitsum.archive.writer import (
    ROW_GROUP_IMAGES,
    ImageBatch,
    ImportOptions,
    WrittenArchive,
    write_archive,
)
from digitsum.errors import InputError, one_line
from digitsum.options import ImageShape

NpyArray = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class ImportNpyConfig(ImportOptions):
    """Import NumPy files of images, uint8 (n, height, width), into an archive."""

    data: Annotated[tuple[str, ...], Positional]
    """Files of images: data0.npy, ..."""
    labels: tuple[str, ...] = ()
    """Files of sums, integers (n,), one for each file of images in the same order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise InputError("no files of images are given; name at least one .npy file.")
        if self.labels and len(self.labels) != len(self.data):
            raise InputError(
                f"{len(self.data)} files of images but {len(self.labels)} of --labels; "
                "give one for each, in the same order."
            )


def import_npy(config: ImportNpyConfig) -> WrittenArchive:
    """Write the archive; the files are memory-mapped, and checked before anything is written.

    Image ids are the file's name and the row, `data0-00000042`, after the file's number if two
    files have the same name.
    """
    images = [_open_images(path) for path in config.data]
    shapes = {array.shape[1:] for array in images}
    if len(shapes) > 1:
        raise InputError(
            f"the images have several shapes, {sorted(shapes)}; import each to its own --out."
        )
    lengths = map(len, images)
    labels = [_open_labels(path, next(lengths), config.digits) for path in config.labels]
    try:
        shape = ImageShape(*config.canvas.fit(images[0][0]).shape)
    except ValueError as error:
        raise InputError(f"{config.data[0]}: {error}; correct --height and --width.") from error
    return write_archive(
        config.out,
        _batches(config, images, labels),
        shape,
        repeat(config.shard_images),
        labelled=bool(config.labels),
    )


def _open(path: str) -> NpyArray:
    try:
        array = np.load(Path(path).expanduser(), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; name an existing .npy file.") from error
    except Exception as error:
        # ValueError, TokenError, NotImplementedError, ...: numpy parses Python and zip.
        raise InputError(
            f"{path}: not a NumPy file of plain numbers ({one_line(error)}); give another."
        ) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: holds several arrays; give .npy files, which hold one each.")
    return array


def _open_images(path: str) -> NpyArray:
    images = _open(path)
    if images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape:
        raise InputError(
            f"{path}: holds {images.dtype} {images.shape}, not images, uint8 (n, height, width) "
            "with n at least 1; convert it."
        )
    return images


def _open_labels(path: str, num_images: int, num_digits: int) -> NpyArray:
    labels = _open(path)
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (num_images,):
        raise InputError(
            f"{path}: holds {labels.dtype} {labels.shape}, not one integer for each of the "
            f"{num_images} images; give --labels in the order of the files of images."
        )
    wrong = np.flatnonzero((labels < 0) | (labels > max_sum(num_digits)))
    if len(wrong):
        raise InputError(
            f"{path}: row {wrong[0]}: the sum {labels[wrong[0]]} is outside "
            f"0..{max_sum(num_digits)}, the sums of {num_digits} digits; correct it or --digits."
        )
    return labels


def _batches(
    config: ImportNpyConfig, images: list[NpyArray], labels: list[NpyArray]
) -> Iterator[ImageBatch]:
    prefixes = [Path(path).stem for path in config.data]
    if len(set(prefixes)) < len(prefixes):
        prefixes = [f"{number}-{stem}" for number, stem in enumerate(prefixes)]
    for number, (prefix, array) in enumerate(zip(prefixes, images, strict=True)):
        for start in range(0, len(array), ROW_GROUP_IMAGES):
            pixels = np.asarray(array[start : start + ROW_GROUP_IMAGES])
            if config.canvas != CanvasOptions():
                pixels = np.stack([config.canvas.fit(image) for image in pixels])
            ids = (f"{prefix}-{start + row:08d}" for row in range(len(pixels)))
            sums = labels[number][start : start + len(pixels)].astype(np.int16) if labels else None
            yield ImageBatch(pa.array(ids, pa.string()), pixels, sums)
