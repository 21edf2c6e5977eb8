"""How many rows begin in a page of a list column, from its repetition levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from digitsum.archive.parquet.pages import PageHeader

_LENGTH_BYTES = 4


def rows_begun(file: Any, page: PageHeader, codec: str) -> int:
    """Return how many rows begin in a data page, of version 1 or 2, of lists of plain values.

    A row begins where the repetition level is 0. Raises ValueError, or as pyarrow does, where the
    page cannot be read.
    """
    if page.num_rows is not None:
        return page.num_rows
    data = file.read_at(page.compressed_bytes, page.offset)
    if codec != "UNCOMPRESSED":
        # What is written by that name is raw blocks; pyarrow's own "lz4" is a format of files.
        name = "lz4_raw" if codec == "LZ4" else codec.lower()
        data = pa.decompress(data, page.uncompressed_bytes, name, asbytes=True)
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    return _zeros(memoryview(data)[_LENGTH_BYTES:end], page.num_values)


def _zeros(levels: memoryview, num_values: int) -> int:
    """Return the zeros among levels of one bit, in Parquet's hybrid of runs and packed bits."""
    found = position = 0
    left = num_values
    try:
        while left > 0:
            head = shift = 0
            while (byte := levels[position]) & 0x80:
                head |= (byte & 0x7F) << shift
                shift += 7
                position += 1
            head |= byte << shift
            position += 1
            count = head >> 1
            if head & 1:  # groups of eight, a bit each
                packed = np.frombuffer(levels[position : position + count], np.uint8)
                bits = np.unpackbits(packed, bitorder="little")[:left]
                found += len(bits) - int(np.count_nonzero(bits))
                position += count
                left -= len(bits) if len(bits) else left
            else:
                found += 0 if levels[position] else min(count, left)
                position += 1
                left -= count
    except IndexError:
        raise ValueError("a page's repetition levels end early") from None
    return found
