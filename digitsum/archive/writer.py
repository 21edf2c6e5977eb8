"""Writer of archives: shards of fixed row groups, each published whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from digitsum.archive.images import Uint8Array
from digitsum.archive.preprocessing import CanvasOptions, count_bright
from digitsum.archive.schema import DIGITS, MAX_LABEL_DIGITS, shard_schema
from digitsum.errors import InputError, TooManyRejectedError
from digitsum.options import DIGIT_SUM, IMAGE, IMAGE_ID, ImageShape, check_at_least
from digitsum.storage.atomic_write import published
from digitsum.storage.listing import PARQUET_SUFFIX
from digitsum.storage.location import Location, locate, storage_error

ROW_GROUP_IMAGES = 8192
SHARD_IMAGES = 50_000
REJECTED_FILE = "_rejected.jsonl"
"""File beside the shards: images that an import rejected, as JSON lines of image_id and reason."""
_ROW_GROUP_BYTES = 2**28
# Readers walk the pages' headers first, and each costs a request to an object store.
_PAGE_BYTES = 2**23


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of every command that imports images."""

    out: str
    """Archive to write: a new or empty directory, or a URI such as s3://bucket/archive."""
    digits: int = 4
    """Digits in each image; sums are 0 to 9 times this number."""
    shard_images: int = SHARD_IMAGES
    """Images in each shard."""
    canvas: CanvasOptions = field(default_factory=CanvasOptions)
    """Changes to each image."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "shard_images")
        if not 1 <= self.digits <= MAX_LABEL_DIGITS:
            raise InputError(
                f"--digits {self.digits}: give at least 1 and at most {MAX_LABEL_DIGITS}."
            )


@dataclass(frozen=True)
class WrittenArchive:
    """An archive that a command has written."""

    uri: str
    num_images: int
    num_shards: int
    shape: ImageShape
    num_bright: int = 0
    """Images that are bright, as paper is; ink should be brighter than its background."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Ids of images that were left out, to the reasons."""

    @property
    def is_inverted(self) -> bool:
        """True if the ink seems to be dark on bright paper."""
        return 2 * self.num_bright > self.num_images

    def check_rejected(self, allowed: float) -> None:
        """Raise TooManyRejectedError if more than the fraction `allowed` was rejected."""
        if len(self.rejected) > allowed * (self.num_images + len(self.rejected)):
            raise TooManyRejectedError(
                f"{self.rejected_message()}; more than the {100 * allowed:.4g}% that "
                "--max-rejected allows. All others are imported."
            )

    def rejected_message(self) -> str:
        """Return how many images were rejected, at least one, and why the first was."""
        first, reason = next(iter(self.rejected.items()))
        return (
            f"{self.uri}: {len(self.rejected):,} of {self.num_images + len(self.rejected):,} "
            f"images were rejected, listed in {REJECTED_FILE} there; the first, {first}: {reason}"
        )


@dataclass(frozen=True)
class ImageBatch:
    """Images, labelled or not, to be written into an archive."""

    image_ids: pa.Array
    """string (n,)."""
    pixels: Uint8Array
    """uint8 (n, height, width)."""
    digit_sums: npt.NDArray[np.int16] | None
    """int16 (n,); None if unlabelled."""
    digits: Uint8Array | None = None
    """uint8 (n, num_digits), left to right; None if only their sum is known."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def slice(self, start: int, stop: int) -> ImageBatch:
        """Return rows start..stop-1 without copying them."""
        sums = None if self.digit_sums is None else self.digit_sums[start:stop]
        digits = None if self.digits is None else self.digits[start:stop]
        return ImageBatch(self.image_ids[start:stop], self.pixels[start:stop], sums, digits)

    def to_table(self, schema: pa.Schema) -> pa.Table:
        """Return the rows of a shard; contiguous pixels are not copied."""
        pixels = np.ascontiguousarray(self.pixels)
        size = schema.field(IMAGE).type
        images = pa.Array.from_buffers(size, len(self), [None, pa.py_buffer(pixels)])
        columns = {IMAGE_ID: self.image_ids, IMAGE: images}
        if self.digit_sums is not None:
            columns[DIGIT_SUM] = pa.array(self.digit_sums, pa.int16())
        if self.digits is not None:
            values = pa.array(self.digits.reshape(-1), pa.int8())
            fixed = pa.FixedSizeListArray.from_arrays(values, self.digits.shape[1])
            columns[DIGITS] = fixed.cast(pa.list_(pa.int8()))
        return pa.table(columns, schema=schema)


def write_archive(
    uri: str,
    batches: Iterable[ImageBatch],
    shape: ImageShape,
    shard_sizes: Iterable[int],
    *,
    labelled: bool,
    with_digits: bool = False,
) -> WrittenArchive:
    """Write batches, in order, as `shard-00000.parquet`, ... of `shard_sizes` images each.

    One row group of images is in memory at a time. Raises InputError if shards are there already.
    On any error the shards that this call wrote are removed.
    """
    archive = locate(uri)
    archive.check_directory()
    if archive.info().type == pafs.FileType.Directory:
        entries = archive.filesystem.get_file_info(pafs.FileSelector(archive.path, recursive=True))
        if any(entry.path.endswith(PARQUET_SUFFIX) for entry in entries):
            raise InputError(
                f"{archive.uri}: already holds shards; give another --out, or remove them first."
            )
    schema = shard_schema(shape, labelled=labelled, with_digits=with_digits)
    num_images = 0
    written: list[Location] = []
    source = _Rechunker(batches)
    group_images = max(1, min(ROW_GROUP_IMAGES, _ROW_GROUP_BYTES // shape.num_pixels))
    labels = [DIGIT_SUM] if labelled else []
    try:
        for shard_images in shard_sizes:
            if source.is_empty():
                break
            target = archive.join(f"shard-{len(written):05d}{PARQUET_SUFFIX}")
            left = shard_images
            with (
                published(target) as temporary,
                pq.ParquetWriter(
                    temporary,
                    schema,
                    compression="zstd",
                    use_dictionary=labels,
                    write_statistics=[IMAGE_ID, *labels],
                    data_page_size=_PAGE_BYTES,
                ) as writer,
            ):
                while left > 0 and not source.is_empty():
                    table = source.take(min(left, group_images), schema)
                    writer.write_table(table, row_group_size=ROW_GROUP_IMAGES)
                    left -= table.num_rows
            num_images += shard_images - left
            written.append(target)
    except BaseException as error:
        for target in written:
            target.filesystem.delete_file(target.path)
        if isinstance(error, OSError):
            raise storage_error(f"{archive.uri}: cannot be written", error) from error
        raise
    return WrittenArchive(uri, num_images, len(written), shape, source.num_bright)


class _Rechunker:
    """Batches of any size as tables of any other size; counts bright images on the way."""

    def __init__(self, batches: Iterable[ImageBatch]) -> None:
        self._batches = iter(batches)
        self._rest: ImageBatch | None = None
        self.num_bright = 0

    def is_empty(self) -> bool:
        while not self._rest:
            self._rest = next(self._batches, None)
            if self._rest is None:
                return True
            self.num_bright += count_bright(self._rest.pixels)
        return False

    def take(self, num_images: int, schema: pa.Schema) -> pa.Table:
        """Return the next `num_images` images, or fewer at the end."""
        parts = []
        while num_images > 0 and not self.is_empty():
            assert self._rest is not None
            part = self._rest.slice(0, num_images)
            self._rest = self._rest.slice(len(part), len(self._rest))
            parts.append(part.to_table(schema))
            num_images -= len(part)
        return pa.concat_tables(parts)
