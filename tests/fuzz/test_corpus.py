"""Every seed and every earlier finding of the fuzzer, replayed; `make fuzz` finds more.

Findings are in corpus/SEAM, named by what is wrong with them. pyarrow's native code may abort the
process on some of them, if digitsum passes them on.
"""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compact_thrift import read_struct, write_struct
from mutators import mutate_parquet, with_png_checksums, with_tar_checksums
from seeds import png, shards, tars
from targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES = 300_000
FOUND = sorted(path.relative_to(CORPUS).as_posix() for path in CORPUS.glob("*/*"))


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


@pytest.mark.parametrize("seam", TARGETS)
def test_seeds_are_read(seam, tmp_path):
    read = TARGETS[seam].load()
    for number, data in enumerate(TARGETS[seam].inputs()):
        place = tmp_path / str(number)
        place.mkdir()
        read(data, place)


@pytest.mark.parametrize("found", FOUND)
def test_findings_are_read_or_refused(found, tmp_path):
    seam = TARGETS[found.partition("/")[0]]
    seam.load()((CORPUS / found).read_bytes(), tmp_path)


def test_corpus_is_small():
    assert FOUND
    assert {found.partition("/")[0] for found in FOUND} <= set(TARGETS)
    assert sum((CORPUS / found).stat().st_size for found in FOUND) < MOST_BYTES


@pytest.mark.parametrize("number", range(10))
def test_footer_round_trip(number):
    shard = list(shards())[number]
    footer = shard[-8 - int.from_bytes(shard[-8:-4], "little") : -8]
    fields, size = read_struct(footer)
    assert size == len(footer)
    assert write_struct(fields) == footer


def test_mutated_footers_mostly_parse():
    rng = random.Random(5)

    def flip(data: bytes, max_size: int) -> bytes:
        changed = bytearray(data or b"x")
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed[:max_size])

    read, whole = 0, next(shards())
    for _ in range(200):
        try:
            pq.read_metadata(pa.BufferReader(mutate_parquet(whole, 8192, rng, flip)))
            read += 1
        except (pa.ArrowException, OSError):
            pass
    assert read > 100


def test_checksums_are_corrected():
    whole = png()
    broken = whole[:29] + b"\0\0\0\0" + whole[33:]
    assert with_png_checksums(broken) == whole
    tar = next(tars())
    assert with_tar_checksums(tar[:148] + b"0" * 8 + tar[156:]) == tar
