"""Importing a folder or tar of PNG, JPEG, ... with an optional CSV of labels into an archive."""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import IO, Annotated, Self

import numpy as np
import pyarrow as pa
from tyro.conf import Positional

from digitsum.archive.images import MAX_SIDE, Uint8Array, decode_encoded
from digitsum.archive.preprocessing import CanvasOptions
from digitsum.archive.schema import MAX_LABEL_DIGITS, max_sum
from digitsum.archive.writer import (
    REJECTED_FILE,
    SHARD_IMAGES,
    LabelledImages,
    WrittenArchive,
    write_archive,
)
from digitsum.errors import InputError, one_line
from digitsum.options import DIGIT_SUM, IMAGE_ID, ImageShape, parse_fraction
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import locate

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
BATCH_IMAGES = 1024
_BATCH_BYTES = 2**25
"""Of pixels: two images of 4096x4096."""
MAX_FILE_BYTES = 4 * MAX_SIDE**2 + 2**20
"""A color image without compression, and what else is in its file."""


@dataclass(frozen=True, kw_only=True)
class ImportImagesConfig:
    """Import a folder or tar of image files into an archive."""

    source: Annotated[str, Positional]
    """Folder (searched with its subfolders) or tar, which may be compressed."""
    labels: str | None = None
    """CSV with the columns image_id (path of the file within the source) and digit_sum."""
    out: str
    """Archive to write: a new or empty directory, or a URI such as s3://bucket/archive."""
    digits: int = 4
    """Digits in each image; the sums are at most 9 times as many."""
    max_rejected: str = "1%"
    """Images that may be rejected before the command ends with exit code 3: a percentage such as
    0.1%, or a fraction such as 0.001. The others are imported all the same."""
    shard_images: int = SHARD_IMAGES
    """Images in each shard."""
    canvas: CanvasOptions = field(default_factory=CanvasOptions)
    """What is done to each image."""

    def __post_init__(self) -> None:
        parse_fraction("--max-rejected", self.max_rejected)
        if self.digits < 1 or self.shard_images < 1:
            raise InputError("--digits and --shard-images are at least 1.")
        if self.digits > MAX_LABEL_DIGITS:
            raise InputError(f"--digits {self.digits}: give at most {MAX_LABEL_DIGITS}.")


def import_images(config: ImportImagesConfig) -> WrittenArchive:
    """Write the archive, in the order of paths (of a tar: of its members).

    The image id is the file's path within the source; color is turned to gray. A file that cannot
    be decoded, or is of another shape than the first, is left out and listed. Raises InputError,
    naming the file, where one has no label; the labels' own form is checked before anything is
    written.
    """
    labels = _read_labels(config.labels, config.digits) if config.labels is not None else None
    files = _open_source(Path(config.source).expanduser(), config.source)
    rejected: dict[str, str] = {}
    decoded = _decode(files, config.canvas, rejected)
    first = next(decoded, None)
    if first is None:
        why = "".join(f"; {name}: {reason}" for name, reason in list(rejected.items())[:1])
        raise InputError(
            f"{config.source}: holds no image files ({', '.join(IMAGE_SUFFIXES)}) that can be "
            f"imported; give another{why}."
        )
    height, width = first[1].shape
    written = write_archive(
        config.out,
        _batches(chain([first], decoded), labels, rejected, config),
        ImageShape(height, width),
        repeat(config.shard_images),
        labelled=labels is not None,
    )
    if rejected:
        listed = ({"image_id": name, "reason": reason} for name, reason in rejected.items())
        lines = "".join(json.dumps(one) + "\n" for one in listed)
        publish_bytes(lines.encode(), locate(config.out).join(REJECTED_FILE))
    return replace(written, rejected=rejected)


_File = tuple[str, bytes | ValueError]
"""Path within the source, and the content, or why it is not read."""


def _open_source(path: Path, given: str) -> Iterator[_File]:
    if path.is_dir():
        return _folder_files(path)
    if not path.exists():
        raise InputError(f"{given}: no such folder or tar; give an existing one.")
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"{given}: is no folder or file; give a folder or tar.")
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
    """A member of a tar of which every byte is there.

    tarfile takes a header that it cannot read, but for the first, for the tar's end.
    """

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
                    content = tar.extractfile(member)
                    assert content is not None  # it is a file
                    image_id = member.name.removeprefix("./")
                    leads_out = any(part in ("", "..") for part in image_id.split("/"))
                    yield (
                        image_id,
                        ValueError("its name leads out of the tar; rename it")
                        if leads_out
                        else _read_whole(content, member.size),
                    )
    except Exception as error:
        # tarfile raises whatever a header leads it into (TarError, TypeError, ValueError, zlib's
        # and lzma's errors, ...); all of them mean that this is no whole tar.
        said = one_line(error)
        raise InputError(f"{path}: not a whole tar ({said}); give a folder or tar.") from error


def _decode(
    files: Iterator[_File], canvas: CanvasOptions, rejected: dict[str, str]
) -> Iterator[tuple[str, Uint8Array]]:
    """Yield images as they are to be written, all of one shape; list the others in `rejected`."""
    shape: ImageShape | None = None
    for image_id, data in files:
        try:
            if isinstance(data, ValueError):
                raise data
            if not _is_utf8(image_id):
                raise ValueError("its name is not UTF-8; rename it")
            pixels = decode_encoded(data, shape if canvas.keeps_shape else None)
            fitted = canvas.fit(pixels, shape)
        except ValueError as error:
            rejected[image_id] = str(error)
            continue
        shape = shape or ImageShape(*fitted.shape)
        yield image_id, fitted


def _is_utf8(name: str) -> bool:
    # What Python cannot decode of a file's name it keeps as lone surrogates.
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _batches(
    images: Iterator[tuple[str, Uint8Array]],
    labels: dict[str, int] | None,
    rejected: dict[str, str],
    config: ImportImagesConfig,
) -> Iterator[LabelledImages]:
    seen: set[str] = set()
    ids: list[str] = []
    pixels: list[Uint8Array] = []
    for image_id, image in images:
        if image_id in seen:
            raise InputError(f"{config.source}: holds {image_id} twice; remove one.")
        seen.add(image_id)
        if labels is not None and image_id not in labels:
            raise InputError(f"{config.labels}: has no row for {image_id}; add its sum.")
        ids.append(image_id)
        pixels.append(image)
        if len(ids) == BATCH_IMAGES or len(ids) * image.size >= _BATCH_BYTES:
            yield _batch(ids, pixels, labels)
            ids, pixels = [], []
    if ids:
        yield _batch(ids, pixels, labels)
    extra = sorted(set(labels or ()) - seen - set(rejected))
    if extra:
        raise InputError(
            f"{config.labels}: has a row for {extra[0]} (and {len(extra) - 1} more), which "
            f"{config.source} does not hold; remove it."
        )


def _batch(
    ids: list[str], pixels: list[Uint8Array], labels: dict[str, int] | None
) -> LabelledImages:
    sums = None if labels is None else np.array([labels[image_id] for image_id in ids], np.int16)
    return LabelledImages(pa.array(ids, pa.string()), np.stack(pixels), sums)


def _read_labels(path: str, num_digits: int) -> dict[str, int]:
    labels: dict[str, int] = {}
    try:
        with Path(path).expanduser().open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {IMAGE_ID, DIGIT_SUM} - set(reader.fieldnames or ())
            if missing:
                raise InputError(
                    f"{path}: has no column {', '.join(sorted(missing))}; its first line must name "
                    f"{IMAGE_ID} and {DIGIT_SUM}."
                )
            for row in reader:
                where, image_id = f"{path}: line {reader.line_num}", row[IMAGE_ID]
                if not image_id:
                    raise InputError(f"{where}: has no {IMAGE_ID}; name the image's file.")
                if image_id in labels:
                    raise InputError(f"{where}: labels {image_id} a second time; remove one row.")
                labels[image_id] = _label(row, where, num_digits)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}.") from error
    return labels


def _label(row: dict[str, str], where: str, num_digits: int) -> int:
    largest = max_sum(num_digits)
    text = row[DIGIT_SUM] or ""
    number = text.strip(" \t")  # what else is a blank to `re` is none to `int`
    if re.fullmatch(r"[0-9]{1,6}", number) and int(number) <= largest:
        return int(number)
    raise InputError(
        f"{where}: {DIGIT_SUM} is {text!r}, not a sum of {num_digits} digits, 0..{largest}; "
        "correct it or --digits."
    )
