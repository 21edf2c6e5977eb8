"""Writing an archive: shards of fixed row groups, each published whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from digitsum.archive.images import Uint8Array
from digitsum.archive.preprocessing import count_bright
from digitsum.archive.schema import DIGITS, shard_schema
from digitsum.archive.shards import SHARD_SUFFIX
from digitsum.errors import InputError, TooManyRejectedError
from digitsum.options import DIGIT_SUM, IMAGE, IMAGE_ID, ImageShape
from digitsum.storage.atomic_write import published
from digitsum.storage.location import Location, locate, storage_error

ROW_GROUP_IMAGES = 8192
SHARD_IMAGES = 50_000
REJECTED_FILE = "_rejected.jsonl"
"""What an import rejected, beside the shards: a JSON object a line, `image_id` and `reason`."""
_ROW_GROUP_BYTES = 2**28
# Readers look at each page's header before they read, which takes an object store a request.
_PAGE_BYTES = 2**23


@dataclass(frozen=True)
class WrittenArchive:
    """What a command that wrote an archive did."""

    uri: str
    num_images: int
    num_shards: int
    shape: ImageShape
    num_bright: int = 0
    """Images that are bright, as paper is, where ink should be brighter than what is around it."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Images that are not in it, by id, to the reason."""

    @property
    def is_inverted(self) -> bool:
        """Whether the ink seems to be dark on bright paper."""
        return 2 * self.num_bright > self.num_images

    def check_rejected(self, allowed: float) -> None:
        """Raise TooManyRejectedError where more than a fraction of the images was rejected."""
        num_given = self.num_images + len(self.rejected)
        if len(self.rejected) > allowed * num_given:
            raise TooManyRejectedError(
                f"{self.said_of_rejected()}; more than the {100 * allowed:.4g}% that "
                "--max-rejected allows. All else is imported."
            )

    def said_of_rejected(self) -> str:
        """Return how many were rejected, and why the first was; one at least."""
        first, reason = next(iter(self.rejected.items()))
        return (
            f"{self.uri}: {len(self.rejected):,} of {self.num_images + len(self.rejected):,} "
            f"images were rejected, listed in {REJECTED_FILE} there; the first, {first}: {reason}"
        )


@dataclass(frozen=True)
class LabelledImages:
    """A batch on its way into an archive."""

    image_ids: pa.Array
    """string (n,)."""
    pixels: Uint8Array
    """uint8 (n, height, width)."""
    digit_sums: npt.NDArray[np.int16] | None
    """int16 (n,), or None where unlabelled."""
    digits: Uint8Array | None = None
    """uint8 (n, num_digits), left to right, or None where only their sum is known."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def slice(self, start: int, stop: int) -> LabelledImages:
        """Return rows start..stop-1, without a copy."""
        sums = None if self.digit_sums is None else self.digit_sums[start:stop]
        digits = None if self.digits is None else self.digits[start:stop]
        return LabelledImages(self.image_ids[start:stop], self.pixels[start:stop], sums, digits)

    def to_table(self, schema: pa.Schema) -> pa.Table:
        """Return the batch as rows of a shard; the pixels are not copied where contiguous."""
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
    batches: Iterable[LabelledImages],
    shape: ImageShape,
    shard_sizes: Iterable[int],
    *,
    labelled: bool,
    with_digits: bool = False,
) -> WrittenArchive:
    """Write batches, in order, as `shard-00000.parquet`, ... of `shard_sizes` images each.

    Holds one row group of images at a time. Raises InputError where shards are there already;
    where anything goes wrong on the way, the shards this call wrote are removed again.
    """
    archive = locate(uri)
    _check_empty(archive)
    schema = shard_schema(shape, labelled=labelled, with_digits=with_digits)
    num_images = 0
    written: list[Location] = []
    source = _Rechunker(batches)
    try:
        for size in shard_sizes:
            if source.is_empty():
                break
            target = archive.join(f"shard-{len(written):05d}{SHARD_SUFFIX}")
            with _shard_writer(target, schema) as writer:
                for table in source.take(size, schema):
                    writer.write_table(table, row_group_size=ROW_GROUP_IMAGES)
                    num_images += table.num_rows
            written.append(target)
    except BaseException as error:
        for target in written:
            target.filesystem.delete_file(target.path)
        if isinstance(error, OSError):
            raise storage_error(f"{archive.uri}: cannot be written", error) from error
        raise
    return WrittenArchive(uri, num_images, len(written), shape, source.num_bright)


@contextmanager
def _shard_writer(target: Location, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    labels = [DIGIT_SUM] if DIGIT_SUM in schema.names else []
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
        yield writer


def _check_empty(archive: Location) -> None:
    archive.check_directory()
    if archive.info().type == pafs.FileType.Directory:
        entries = archive.filesystem.get_file_info(pafs.FileSelector(archive.path, recursive=True))
        if any(entry.path.endswith(SHARD_SUFFIX) for entry in entries):
            raise InputError(
                f"{archive.uri}: already holds shards; give another --out, or remove them first."
            )


class _Rechunker:
    """Turns batches of any size into tables of whole row groups, and counts bright images."""

    def __init__(self, batches: Iterable[LabelledImages]) -> None:
        self._batches = iter(batches)
        self._rest: LabelledImages | None = None
        self.num_bright = 0
        """Images, of those read so far, that are bright."""

    def is_empty(self) -> bool:
        """Whether no image is left."""
        while self._rest is None or len(self._rest) == 0:
            self._rest = next(self._batches, None)
            if self._rest is None:
                return True
            self.num_bright += count_bright(self._rest.pixels)
        return False

    def take(self, num_images: int, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the next `num_images` images, or what is left, a row group at a time."""
        while num_images > 0 and not self.is_empty():
            fit = _ROW_GROUP_BYTES // schema.field(IMAGE).type.byte_width
            wanted = min(num_images, ROW_GROUP_IMAGES, max(fit, 1))
            parts: list[pa.Table] = []
            while wanted > 0 and not self.is_empty():
                assert self._rest is not None
                part = self._rest.slice(0, wanted)
                self._rest = self._rest.slice(len(part), len(self._rest))
                parts.append(part.to_table(schema))
                wanted -= len(part)
                num_images -= len(part)
            yield pa.concat_tables(parts)
