import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.reader import read_chunk
from digitsum.errors import InputError, StorageError
from digitsum.options import ReadOptions
from digitsum.training import dataset
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import (
    Block,
    LabelledChunks,
    Piece,
    filled_up,
    held_out,
    open_labelled,
    read_pieces,
)
from digitsum.training.sampling import sample_pieces, train_share, validation_share

NUM_SHARDS, SHARD_IMAGES, GROUP = 3, 90, 20
NUM_IMAGES = NUM_SHARDS * SHARD_IMAGES


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Write an archive of images that hold their own number; chunks are row groups."""
    monkeypatch.setattr(dataset, "READ_CHUNK_IMAGES", GROUP)
    for shard in range(NUM_SHARDS):
        own = range(shard * SHARD_IMAGES, (shard + 1) * SHARD_IMAGES)
        pixels = [number.to_bytes(2, "little") * (40 * 24) for number in own]
        table = pa.table({"image": pixels, "digit_sum": [number % 10 for number in own]})
        pq.write_table(table, tmp_path / f"{shard}.parquet", row_group_size=GROUP)
    return tmp_path


def open_chunks(archive, **options) -> LabelledChunks:
    read = ReadOptions(height=40, width=48)
    config = TrainConfig(archive=str(archive), out="unused", digits=1, read=read, **options)
    return open_labelled(str(archive), config)[0]


def read(chunks: LabelledChunks, pieces, num_threads=2) -> list[int]:
    numbers = []
    for pixels, sums, num_undecodable in read_pieces(chunks, pieces, num_threads):
        assert num_undecodable == 0
        own = pixels[:, 0, :2].copy().view("<u2")[:, 0].tolist()
        assert [number % 10 for number in own] == sums.tolist()
        numbers += own
    return numbers


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_shares_are_read_once(archive, workers):
    chunks = open_chunks(archive, workers=workers, batch_size=workers)
    train, validation = (replace(chunks, subset=subset) for subset in ("train", "validation"))
    trained = [read(train, train_share(train, 1, rank)) for rank in range(workers)]
    shares = [validation_share(validation, rank, workers) for rank in range(workers)]
    validated = [number for share in shares for number in read(validation, share)]
    assert len({len(share) for share in trained}) == 1
    everything = [number for share in trained for number in share] + validated
    assert len(set(everything)) == len(everything) > NUM_IMAGES - workers
    assert validated == sorted(validated)
    assert 0.1 < len(validated) / len(everything) < 0.3


def test_train_share_order(archive):
    def order(epoch, seed=0):
        pieces = train_share(open_chunks(archive, seed=seed), epoch, 0)
        return [(piece.chunk.shard, piece.chunk.first_row) for piece in pieces]

    assert order(1) == order(1)
    assert order(1) not in (order(2), order(1, seed=1))
    assert sorted(order(1)) == sorted(order(2))


def test_sample_pieces_from_all_shards(archive):
    chunks = open_chunks(archive)
    pieces = validation_share(chunks, 0, 1)
    numbers = read(chunks, sample_pieces(pieces, 30))
    assert 30 <= len(numbers) <= 30 + len(pieces)
    assert {number // SHARD_IMAGES for number in numbers} == set(range(NUM_SHARDS))
    assert sample_pieces(pieces, 10**6) == pieces


def test_read_pieces_undecodable(tmp_path, caplog):
    raw = [bytes([row]) * (40 * 48) for row in range(5)]
    table = pa.table({"image": [*raw[:2], b"no image", None, raw[4]], "digit_sum": range(5)})
    pq.write_table(table, tmp_path / "a.parquet")
    chunks = open_chunks(tmp_path)
    with caplog.at_level(logging.WARNING):
        [(pixels, sums, num)] = read_pieces(chunks, train_share(chunks, 1, 0))
    assert (sums.tolist(), pixels[:, 0, 0].tolist(), num) == ([0, 1, 4], [0, 1, 4], 2)
    assert "2 images are left out; row 2: " in caplog.text


def test_read_pieces_replaced_shard(archive):
    chunks = open_chunks(archive)
    pieces = train_share(chunks, 1, 0)
    shard = archive / "1.parquet"
    pq.write_table(pq.read_table(shard).slice(1), shard)
    with pytest.raises(InputError, match=r"1\.parquet: was replaced"):
        read(chunks, pieces)


def test_read_pieces_large_row_group(archive, monkeypatch):
    """Of a large row group, no worker reads more than its share or has it in memory at once."""
    monkeypatch.setattr(dataset, "_MOST_ROWS_READ_AHEAD", GROUP - 1)
    for shard in archive.glob("*.parquet"):
        pq.write_table(pq.read_table(shard), shard)
    decoded = []

    def read_counted(*arguments, **options):
        for rows in read_chunk(*arguments, **options, batch_rows=5):
            decoded.append(len(rows.pixels))
            yield rows

    monkeypatch.setattr(dataset, "read_chunk", read_counted)
    chunks = open_chunks(archive, workers=3, batch_size=3)
    assert {chunk.num_rows for chunk in chunks.chunks} == {SHARD_IMAGES}
    shares = [read(chunks, train_share(chunks, 1, rank)) for rank in range(3)]
    assert sorted(number for share in shares for number in share) == list(range(NUM_IMAGES))
    assert max(decoded) <= 5
    decoded.clear()
    assert len(read(chunks, [Piece(chunks.chunks[0], 0, 7)])) == 7
    assert sum(decoded) == 10


def test_read_pieces_retries(archive, monkeypatch):
    refusals = iter([StorageError("slow down"), None, StorageError("slow down"), None])

    def read_once(*arguments, **options):
        if refusal := next(refusals, None):
            raise refusal
        yield from read_chunk(*arguments, **options)

    monkeypatch.setattr(dataset, "read_chunk", read_once)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    chunks = open_chunks(archive)
    numbers = read(chunks, train_share(chunks, 1, 0), num_threads=1)
    assert sorted(numbers) == list(range(NUM_IMAGES))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8))
def test_filled_up_repeats_images(sizes):
    blocks = []
    for i, (num_read, num_undecodable) in enumerate(sizes):
        sums = 10 * i + np.arange(num_read)
        blocks.append(Block(sums.astype(np.uint8)[:, None, None], sums, num_undecodable))
    every = {number for block in blocks for number in block.sums.tolist()}
    total = sum(map(sum, sizes))
    if total and not every:
        with pytest.raises(InputError, match="none of"):
            list(filled_up(blocks))
        return
    filled = [
        (p, s) for pixels, sums in filled_up(blocks) for p, s in zip(pixels, sums, strict=True)
    ]
    assert len(filled) == total
    assert {int(s) for _, s in filled} == every
    assert all(pixels[0, 0] == digit_sum for pixels, digit_sum in filled)


ROWS = np.arange(50_000)
# Of the first 60 rows of shard-00000.parquet, seed 0: resumed runs depend on them.
FIRST_HELD_OUT = [0, 1, 7, 11, 17, 24, 27, 32, 33, 36, 39, 43, 47, 50, 53, 54, 56, 59]
seeds = st.integers(0, 2**64)
shards = st.text(max_size=20)


def is_near(share: float, expected: float, num: int) -> bool:
    """Return whether a share is within five standard deviations of a fair draw's."""
    return abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / num)


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**70])
def test_held_out_fraction(fraction, seed):
    for shard in ("shard-00000.parquet", "day=1/ä.parquet"):
        assert is_near(held_out(shard, ROWS, fraction, seed).mean(), fraction, len(ROWS))


def test_held_out_is_spread_and_fixed():
    chosen = held_out("shard-00000.parquet", ROWS, 0.2, 0)
    assert all(is_near(part.mean(), 0.2, 1000) for part in np.split(chosen, 50))
    assert is_near((chosen[1:] & chosen[:-1]).mean(), 0.04, len(ROWS))
    assert np.flatnonzero(chosen[:60]).tolist() == FIRST_HELD_OUT
    assert held_out("a.parquet", ROWS[:0], 0.2, 0).shape == (0,)


@given(shards, seeds, st.integers(0, 2**40), st.integers(1, 500), st.data())
def test_held_out_ignores_batches(shard, seed, first, num_rows, data):
    rows = first + np.arange(num_rows)
    whole = held_out(shard, rows, 0.3, seed)
    cut = data.draw(st.integers(0, num_rows))
    parts = [held_out(shard, part, 0.3, seed) for part in (rows[:cut], rows[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(held_out(shard, rows[::-1], 0.3, seed)[::-1], whole)
    assert (whole.dtype, whole.shape) == (np.bool_, rows.shape)


@given(shards, seeds)
def test_held_out_larger_fraction_includes(shard, seed):
    fewer, more = (held_out(shard, np.arange(1000), f, seed) for f in (0.2, 0.4))
    assert more[fewer].all()
    assert more.sum() > fewer.sum()


def test_held_out_seeds_and_shards_differ():
    base = held_out("a.parquet", ROWS, 0.5, 0)
    for shard, seed in (("a.parquet", 1), ("a.parquet", 12345), ("b.parquet", 0)):
        assert is_near((held_out(shard, ROWS, 0.5, seed) == base).mean(), 0.5, len(ROWS))
    for seed in (1, 2, 3):  # nor is one seed's choice another's, a few rows on
        other = held_out("a.parquet", ROWS, 0.5, seed)
        for distance in (1, 2, 3):
            assert (other[:-distance] == base[distance:]).mean() < 0.6
