"""Import of a folder or tar of PNG, JPEG, ... files, with an optional CSV of labels."""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import IO, Annotated, Self

import numpy as np
import pyarrow as pa
from tyro.conf import Positional

from digitsum.archive.images import MAX_SIDE, Uint8Array, decode_encoded
from digitsum.archive.preprocessing import CanvasOptions
from digitsum.archive.schema import max_sum
from digitsum.archive.writer import (
    REJECTED_FILE,
    ImageBatch,
    ImportOptions,
    WrittenArchive,
    write_archive,
)
from digitsum.errors import InputError, one_line
from digitsum.options import DIGIT_SUM, IMAGE_ID, ImageShape, parse_fraction
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import locate

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
BATCH_IMAGES = 1024
_BATCH_BYTES = 2 * MAX_SIDE**2
MAX_FILE_BYTES = 4 * MAX_SIDE**2 + 2**20
"""Bytes of an uncompressed color image, with its headers."""


@dataclass(frozen=True, kw_only=True)
class ImportImagesConfig(ImportOptions):
    """Import a folder or tar of image files into an archive."""

    source: Annotated[str, Positional]
    """Folder, searched with its subfolders, or tar, which may be compressed."""
    labels: str | None = None
    """CSV with the columns image_id (path of the file within the source) and digit_sum."""
    max_rejected: str = "1%"
    """Fraction of images that may be rejected, as 0.1% or 0.001; above it the exit code is 3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_fraction("--max-rejected", self.max_rejected)


def import_images(config: ImportImagesConfig) -> WrittenArchive:
    """Write the archive, in the order of paths, or of a tar's members.

    An image's id is its file's path within the source; color becomes gray. A file that cannot be
    decoded, or has another shape than the first, is rejected and listed in REJECTED_FILE. Raises
    InputError if the source has no images, or if the labels are malformed or not those of the
    images.
    """
    labels = _read_labels(config.labels, config.digits) if config.labels is not None else None
    files = _open_source(Path(config.source).expanduser(), config.source)
    rejected: dict[str, str] = {}
    decoded = _decode(files, config.canvas, rejected)
    first = next(decoded, None)
    if first is None:
        example = "".join(f"; {name}: {reason}" for name, reason in islice(rejected.items(), 1))
        raise InputError(
            f"{config.source}: holds no image files ({', '.join(IMAGE_SUFFIXES)}) that can be "
            f"imported; give another{example}."
        )
    shape = ImageShape(*first[1].shape)
    written = write_archive(
        config.out,
        _batches(chain([first], decoded), shape, labels, rejected, config),
        shape,
        repeat(config.shard_images),
        labelled=labels is not None,
    )
    if rejected:
        lines = [json.dumps({"image_id": name, "reason": why}) for name, why in rejected.items()]
        content = "".join(f"{line}\n" for line in lines).encode()
        publish_bytes(content, locate(config.out).join(REJECTED_FILE))
    return replace(written, rejected=rejected)


_File = tuple[str, bytes | ValueError]
"""Path within the source, and its content, or the reason why it was not read."""


def _open_source(path: Path, given: str) -> Iterator[_File]:
    if path.is_dir():
        return _folder_files(path)
    if not path.is_file():  # opening a pipe would block
        raise InputError(f"{given}: no such folder or tar; give an existing one.")
    return _tar_files(path)


def _folder_files(folder: Path) -> Iterator[_File]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path.relative_to(folder).as_posix(), _read_file(path, folder)


def _read_file(path: Path, folder: Path) -> bytes | ValueError:
    if not path.resolve().is_relative_to(folder.resolve()):
        return ValueError("is a link that leads out of the folder; copy its target")
    try:
        with path.open("rb") as file:
            return _read_whole(file, path.stat().st_size)
    except OSError as error:
        return ValueError(f"cannot be read: {error.strerror}")


def _read_whole(file: IO[bytes], size: int) -> bytes | ValueError:
    if size > MAX_FILE_BYTES:
        return ValueError(
            f"has {size:,} bytes, more than the {MAX_FILE_BYTES:,} that an image of "
            f"{MAX_SIDE}x{MAX_SIDE} pixels takes"
        )
    return file.read(size)


class _Member(tarfile.TarInfo):
    """A member of a tar that raises if its header is damaged; tarfile takes that for the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _tar_files(path: Path) -> Iterator[_File]:
    try:
        with tarfile.open(path, "r|*", tarinfo=_Member) as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(IMAGE_SUFFIXES):
                    image_id = member.name.removeprefix("./")
                    if {"", ".."} & set(image_id.split("/")):
                        yield image_id, ValueError("its name leads out of the tar; rename it")
                    elif content := tar.extractfile(member):
                        yield image_id, _read_whole(content, member.size)
    except Exception as error:
        # TarError, TypeError, ValueError, zlib's and lzma's errors, ...
        raise InputError(
            f"{path}: not a whole tar ({one_line(error)}); give a folder or tar."
        ) from error


def _decode(
    files: Iterator[_File], canvas: CanvasOptions, rejected: dict[str, str]
) -> Iterator[tuple[str, Uint8Array]]:
    """Yield images, all of one shape, changed as `canvas` says; add the others to `rejected`."""
    shape: ImageShape | None = None
    for image_id, data in files:
        try:
            if isinstance(data, ValueError):
                raise data
            # Python keeps bytes of a name that it cannot decode as lone surrogates.
            if any("\ud800" <= character <= "\udfff" for character in image_id):
                raise ValueError("its name is not UTF-8; rename it")
            pixels = decode_encoded(data, shape if canvas.keeps_shape else None)
            fitted = canvas.fit(pixels, shape)
        except ValueError as error:
            rejected[image_id] = str(error)
            continue
        shape = shape or ImageShape(*fitted.shape)
        yield image_id, fitted


def _batches(
    images: Iterator[tuple[str, Uint8Array]],
    shape: ImageShape,
    labels: dict[str, int] | None,
    rejected: dict[str, str],
    config: ImportImagesConfig,
) -> Iterator[ImageBatch]:
    seen: set[str] = set()
    batch_images = max(1, min(BATCH_IMAGES, _BATCH_BYTES // shape.num_pixels))
    while batch := list(islice(images, batch_images)):
        ids, pixels = zip(*batch, strict=True)
        for image_id in ids:
            if image_id in seen:
                raise InputError(f"{config.source}: holds {image_id} twice; remove one of them.")
            seen.add(image_id)
            if labels is not None and image_id not in labels:
                raise InputError(f"{config.labels}: has no row for {image_id}; add its sum.")
        sums = None if labels is None else np.array([labels[one] for one in ids], np.int16)
        yield ImageBatch(pa.array(ids, pa.string()), np.stack(pixels), sums)
    extra = sorted(set(labels or ()) - seen - set(rejected))
    if extra:
        raise InputError(
            f"{config.labels}: has a row for {extra[0]} (and {len(extra) - 1} more), which "
            f"{config.source} does not hold; remove it."
        )


def _read_labels(path: str, num_digits: int) -> dict[str, int]:
    labels: dict[str, int] = {}
    try:
        with Path(path).expanduser().open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := sorted({IMAGE_ID, DIGIT_SUM} - set(reader.fieldnames or ())):
                raise InputError(
                    f"{path}: has no column {', '.join(missing)}; its first line must name "
                    f"{IMAGE_ID} and {DIGIT_SUM}."
                )
            for row in reader:
                where, image_id = f"{path}: line {reader.line_num}", row[IMAGE_ID]
                if not image_id:
                    raise InputError(f"{where}: has no {IMAGE_ID}; name the image's file.")
                if image_id in labels:
                    raise InputError(f"{where}: labels {image_id} a second time; remove one row.")
                text, largest = row[DIGIT_SUM] or "", max_sum(num_digits)
                number = text.strip(" \t")  # `int` accepts fewer kinds of white space than `strip`
                if not re.fullmatch(r"[0-9]{1,6}", number) or int(number) > largest:
                    raise InputError(
                        f"{where}: {DIGIT_SUM} is {text!r}, not a sum of {num_digits} digits, "
                        f"0..{largest}; correct it or --digits."
                    )
                labels[image_id] = int(number)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read as CSV ({one_line(error)}); correct --labels."
        ) from error
    return labels
