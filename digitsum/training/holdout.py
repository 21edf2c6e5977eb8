"""Which images of an archive are held out for validation: a property of each image alone."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt


def held_out(
    shard: str, rows: npt.NDArray[np.int64], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Return, bool (n,), which rows of a shard are held out: about `fraction` of them.

    Depends on the shard's path, the row and the seed only, so that every worker, every epoch and
    every resumed run agree. The hash is the finalizer of splitmix64 (Steele, Lea and Flood, "Fast
    splittable pseudorandom number generators", OOPSLA 2014).
    """
    # The seed is hashed too: close seeds would else hold out the same rows, moved by a few.
    seeded = _mix(np.array([seed % 2**64], np.uint64))[0]
    origin = (zlib.crc32(shard.encode()) << 32) + int(seeded)
    numbers = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(origin % 2**64)
    uniform = (_mix(numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    selected: npt.NDArray[np.bool_] = uniform < fraction
    return selected


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the finalizer of splitmix64 of each number; arithmetic modulo 2**64 is its nature."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
