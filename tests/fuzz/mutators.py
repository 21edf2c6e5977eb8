"""Mutators that change bytes so that more than their outermost check is reached.

A fuzzer that only flips bytes seldom passes a checksum or a length. Here the values of a Parquet
footer are changed, and lengths and checksums are corrected. `Mutate` is the fuzzer's own: it takes
bytes and a maximum length, and returns other bytes.
"""

import random
import zlib
from collections.abc import Callable
from typing import Any

import compact_thrift as thrift

Mutate = Callable[[bytes, int], bytes]
Mutator = Callable[[bytes, int, random.Random, Mutate], bytes]

MAGIC = b"PAR1"
PNG = b"\x89PNG\r\n\x1a\n"
_TAR_BLOCK, _TAR_CHECKSUM = 512, slice(148, 156)
_EDGE_CASES = (0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, 65536, 2**31 - 1, 2**31, -(2**31), 2**62)


def mutate_plain(data: bytes, max_size: int, rng: random.Random, mutate: Mutate) -> bytes:
    """Return the bytes changed by the fuzzer itself."""
    return mutate(data, max_size)


def mutate_parquet(data: bytes, max_size: int, rng: random.Random, mutate: Mutate) -> bytes:
    """Return a Parquet file with another footer, or with other pages at the same places."""
    size = int.from_bytes(data[-8:-4], "little") if data.endswith(MAGIC) else 0
    if not 0 < size <= len(data) - 12 or rng.random() < 0.1:
        return mutate(data, max_size)
    body, footer = data[: -8 - size], data[-8 - size : -8]
    if rng.random() < 0.4:
        body = _overwritten(body, rng, mutate)
    else:
        try:
            fields, _ = thrift.read_struct(footer)
        except ValueError:
            footer = mutate(footer, len(footer) + 64)
        else:
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                _change_struct(fields, rng, mutate)
            footer = thrift.write_struct(fields)
    return (body + footer + len(footer).to_bytes(4, "little") + MAGIC)[:max_size]


def _overwritten(body: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Return bytes of the same length, so that the footer's offsets stay true."""
    first = rng.randrange(4, len(body)) if len(body) > 4 else 0
    old = body[first : first + rng.choice((1, 4, 16, 64))]
    new = mutate(old, len(old))[: len(old)]
    return body[:first] + new + body[first + len(new) :]


def _change_struct(fields: list[thrift.Field], rng: random.Random, mutate: Mutate) -> None:
    places: list[tuple[Any, int]] = []
    _collect(fields, places)
    if not places:
        return
    holder, at = rng.choice(places)
    if rng.random() < 0.08:
        if rng.random() < 0.5:
            del holder[at]
        else:
            holder.insert(at, holder[at])
        return
    kind, value = _kind_and_value(holder, at)
    if kind in thrift.INTEGERS:
        new: Any = rng.choice((rng.choice(_EDGE_CASES), value + rng.choice((-1, 1)), value * 2))
        new = max(-(2**63), min(new, 2**63 - 1))
    elif kind == thrift.BINARY:
        new = mutate(value, len(value) + 32)
    elif kind == thrift.BYTE:
        new = rng.randrange(256)
    elif isinstance(value, bool):
        new = not value
    else:
        return
    if isinstance(holder[at], thrift.Field):
        holder[at].value = new
    else:
        holder[at] = new


def _kind_and_value(holder: Any, at: int) -> tuple[int, Any]:
    item = holder[at]
    if isinstance(item, thrift.Field):
        return item.kind, item.value
    if isinstance(item, bytes):
        return thrift.BINARY, item
    return (thrift.INTEGERS[0] if isinstance(item, int) else thrift.STRUCT), item


def _collect(items: list[Any], places: list[tuple[Any, int]]) -> None:
    for at, item in enumerate(items):
        places.append((items, at))
        value = item.value if isinstance(item, thrift.Field) else item
        if isinstance(value, thrift.Sequence):
            _collect(value.values, places)
        elif isinstance(value, list):
            _collect(value, places)


def mutate_image(data: bytes, max_size: int, rng: random.Random, mutate: Mutate) -> bytes:
    """Return other bytes; a PNG's checksums are mostly correct."""
    data = mutate(data, max_size)
    return with_png_checksums(data) if data.startswith(PNG) and rng.random() < 0.8 else data


def with_png_checksums(data: bytes) -> bytes:
    """Return a PNG with the checksum of each whole chunk corrected."""
    out = bytearray(data)
    at = len(PNG)
    while at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out)


def mutate_tar(data: bytes, max_size: int, rng: random.Random, mutate: Mutate) -> bytes:
    """Return other bytes; the checksums of a tar's headers are mostly correct."""
    if rng.random() < 0.5 and len(data) >= _TAR_BLOCK:
        # A header is 500 bytes among thousands: change one, and move nothing.
        first = rng.randrange(len(data) // _TAR_BLOCK) * _TAR_BLOCK
        data = data[:first] + _overwritten(data[first:], rng, mutate)
    else:
        data = mutate(data, max_size)
    return with_tar_checksums(data) if rng.random() < 0.9 else data


def with_tar_checksums(data: bytes) -> bytes:
    """Return a tar with the checksum of each block that looks like a header corrected."""
    out = bytearray(data)
    for first in range(0, len(out) - _TAR_BLOCK + 1, _TAR_BLOCK):
        block = out[first : first + _TAR_BLOCK]
        if block[257:262] != b"ustar":
            continue
        block[_TAR_CHECKSUM] = b" " * 8
        block[_TAR_CHECKSUM] = b"%06o\0 " % sum(block)
        out[first : first + _TAR_BLOCK] = block
    return bytes(out)
