import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import Chunk
from digitsum.archive.reader import read_chunk
from digitsum.archive.shards import open_archive
from digitsum.errors import InputError, StorageError
from digitsum.options import ImageShape
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import (
    Block,
    LabelledChunks,
    Piece,
    batches_of,
    filled_up,
    read_pieces,
    share_out,
    shuffled,
    spread,
    train_share,
    validation_share,
)

NUM_SHARDS, SHARD_IMAGES, GROUP = 3, 90, 20


def chunk_of(number: int, num_rows: int) -> Chunk:
    return Chunk(f"{number}.parquet", "", 1, 1, None, (0,), 0, num_rows)


def images(numbers) -> tuple[np.ndarray, np.ndarray]:
    """Make images that hold their own number, as their sums do."""
    sums = np.array(list(numbers), np.int64)
    return np.repeat(sums.astype(np.uint8), 2).reshape(len(sums), 1, 2), sums


def numbers_of(blocks) -> list[list[int]]:
    found = []
    for pixels, sums in blocks:
        np.testing.assert_array_equal(pixels[:, 0, 0], sums.astype(np.uint8))
        found.append(sums.tolist())
    return found


blocks_of_numbers = st.lists(st.integers(0, 12), max_size=8).map(
    lambda sizes: [
        range(start, start + size)
        for start, size in zip(np.cumsum([0, *sizes]).tolist(), sizes, strict=False)
    ]
)


@given(st.lists(st.integers(0, 30), max_size=10), st.integers(1, 5), st.booleans())
def test_shares_hold_every_image_once(sizes, workers, equal):
    chunks = [(chunk_of(i, size), size) for i, size in enumerate(sizes)]
    shares = [share_out(chunks, rank, workers, equal=equal) for rank in range(workers)]
    found = [
        (piece.chunk.shard, piece.first + i)
        for share in shares
        for piece in share
        for i in range(piece.num_images)
    ]
    every = [(chunk.shard, i) for chunk, size in chunks for i in range(size)]
    left_out = len(every) % workers if equal else 0
    assert found == every[: len(every) - left_out]
    lengths = [sum(piece.num_images for piece in share) for share in shares]
    assert max(lengths) - min(lengths) <= (0 if equal else 1)


@given(blocks_of_numbers, st.integers(1, 30), st.integers(0, 3))
def test_shuffling_keeps_every_image(blocks, buffer_images, seed):
    made = shuffled(map(images, blocks), buffer_images, np.random.default_rng(seed))
    found = [number for block in numbers_of(made) for number in block]
    assert sorted(found) == [number for block in blocks for number in block]


def test_shuffling_mixes_blocks_and_follows_its_seed():
    blocks = [range(start, start + 50) for start in range(0, 200, 50)]

    def mixed(seed):
        made = shuffled(map(images, blocks), 100, np.random.default_rng(seed))
        return [number for block in numbers_of(made) for number in block]

    assert mixed(0) == mixed(0) != mixed(1)
    first = mixed(0)[:50]
    assert {number // 50 for number in first} == {0, 1}
    assert first != sorted(first)


@given(blocks_of_numbers, st.integers(1, 9))
def test_batches_are_whole_but_for_the_last(blocks, size):
    found = numbers_of(batches_of(map(images, blocks), size))
    every = [number for block in blocks for number in block]
    assert [number for batch in found for number in batch] == every
    assert all(len(batch) == size for batch in found[:-1])
    assert all(1 <= len(batch) <= size for batch in found)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8))
def test_blocks_are_filled_up_by_images_that_were_read(numbers):
    blocks = [
        Block(*images(range(10 * i, 10 * i + read)), lost) for i, (read, lost) in enumerate(numbers)
    ]
    every = {number for block in blocks for number in block.sums.tolist()}
    total = sum(read + lost for read, lost in numbers)
    if total and not every:
        with pytest.raises(InputError, match="none of"):
            list(filled_up(blocks))
        return
    found = [n for block in numbers_of(filled_up(blocks)) for n in block]
    assert len(found) == total
    assert set(found) == every


@pytest.fixture
def archive(tmp_path):
    """Write an archive of images that hold their own number."""
    numbers = iter(range(NUM_SHARDS * SHARD_IMAGES))
    for shard in range(NUM_SHARDS):
        own = [next(numbers) for _ in range(SHARD_IMAGES)]
        pixels = [number.to_bytes(2, "little") * (40 * 24) for number in own]
        table = pa.table({"image": pixels, "digit_sum": [number % 10 for number in own]})
        pq.write_table(table, tmp_path / f"{shard}.parquet", row_group_size=GROUP)
    return tmp_path


def config(archive, **options) -> TrainConfig:
    return TrainConfig(archive=str(archive), out="unused", digits=1, **options)


def opened(archive, part, **options):
    found = open_archive(str(archive), config(archive).read, ImageShape(40, 48))
    return LabelledChunks.of(found, part)


def read(chunks: LabelledChunks, pieces, of: TrainConfig, num_threads=2) -> list[int]:
    found = []
    for pixels, sums, lost in read_pieces(chunks, pieces, of, num_threads):
        assert lost == 0
        numbers = pixels[:, 0, :2].copy().view("<u2")[:, 0].tolist()
        assert [number % 10 for number in numbers] == sums.tolist()
        found += numbers
    return found


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_workers_read_every_image_of_both_parts_once(archive, workers, monkeypatch):
    monkeypatch.setattr("digitsum.training.dataset.READ_IMAGES", GROUP)
    of = config(archive, workers=workers, batch_size=workers)
    train, validation = opened(archive, "train"), opened(archive, "validation")
    ranks = range(workers)
    trained = [read(train, train_share(train, of, 1, rank), of) for rank in ranks]
    shares = [validation_share(validation, of, rank, workers) for rank in ranks]
    validated = [read(validation, share, of) for share in shares]
    assert len({len(share) for share in trained}) == 1
    together = [number for share in trained + validated for number in share]
    assert len(set(together)) == len(together) > NUM_SHARDS * SHARD_IMAGES - workers
    validated_together = [number for share in validated for number in share]
    assert validated_together == sorted(validated_together)
    assert 0.1 < len(validated_together) / len(together) < 0.3


def test_the_order_of_chunks_follows_seed_and_epoch(archive, monkeypatch):
    monkeypatch.setattr("digitsum.training.dataset.READ_IMAGES", GROUP)
    chunks = opened(archive, "all")

    def order(epoch, seed=0):
        pieces = train_share(chunks, config(archive, seed=seed), epoch, 0)
        return [piece.chunk.key for piece in pieces]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != order(1, seed=1)
    assert sorted(order(1)) == sorted(order(2))


def test_images_that_cannot_be_decoded_are_left_out_with_a_warning(tmp_path, caplog):
    raw = [bytes([row]) * (40 * 48) for row in range(5)]
    table = pa.table({"image": [*raw[:2], b"no image", None, raw[4]], "digit_sum": range(5)})
    pq.write_table(table, tmp_path / "a.parquet")
    of = config(tmp_path)
    chunks = LabelledChunks.of(open_archive(str(tmp_path), of.read, ImageShape(40, 48)), "all")
    [(pixels, sums, lost)] = read_pieces(chunks, train_share(chunks, of, 1, 0), of, 1)
    assert (sums.tolist(), pixels[:, 0, 0].tolist(), lost) == ([0, 1, 4], [0, 1, 4], 2)
    assert "2 images are left out; row 2: " in caplog.text


def test_a_shard_that_was_replaced_meanwhile_is_refused(archive):
    of, chunks = config(archive), opened(archive, "all")
    pieces = train_share(chunks, of, 1, 0)
    shard = archive / "1.parquet"
    pq.write_table(pq.read_table(shard).slice(1), shard)
    with pytest.raises(InputError, match=r"1\.parquet: was replaced"):
        read(chunks, pieces, of)


def test_of_a_great_row_group_each_worker_reads_no_more_than_it_must(archive, monkeypatch):
    """Nor does it hold more than a few thousand rows of it at once."""
    monkeypatch.setattr("digitsum.training.dataset._MOST_ROWS_AT_ONCE", GROUP - 1)
    for shard in archive.glob("*.parquet"):
        pq.write_table(pq.read_table(shard), shard)
    decoded = []
    monkeypatch.setattr(
        "digitsum.training.dataset.read_chunk",
        lambda *a, **k: counting(decoded, *a, **k, batch_rows=5),
    )
    of, chunks = config(archive, workers=3, batch_size=3), opened(archive, "all")
    assert {chunk.num_rows for chunk in chunks.chunks} == {SHARD_IMAGES}
    shares = [read(chunks, train_share(chunks, of, 1, rank), of) for rank in range(3)]
    together = [number for share in shares for number in share]
    assert sorted(together) == list(range(NUM_SHARDS * SHARD_IMAGES))
    assert max(decoded) <= 5
    first = Piece(chunks.chunks[0], 0, 7)
    decoded.clear()
    assert len(read(chunks, [first], of)) == 7
    assert sum(decoded) == 10


def counting(decoded: list[int], *arguments, **options):
    for rows in read_chunk(*arguments, **options):
        decoded.append(len(rows.pixels))
        yield rows


def test_a_sample_is_spread_over_all_pieces(archive, monkeypatch):
    monkeypatch.setattr("digitsum.training.dataset.READ_IMAGES", GROUP)
    chunks, of = opened(archive, "all"), config(archive)
    pieces = validation_share(chunks, of, 0, 1)
    found = read(chunks, spread(pieces, 30), of)
    assert 30 <= len(found) <= 30 + len(pieces)
    assert {number // SHARD_IMAGES for number in found} == set(range(NUM_SHARDS))
    assert spread(pieces, 10**6) == pieces


def test_a_refusal_of_the_file_system_is_asked_again(archive, monkeypatch):
    refusals = iter([StorageError("slow down"), None, StorageError("slow down"), None])

    def read_once(*arguments, **options):
        refusal = next(refusals, None)
        if refusal:
            raise refusal
        yield from read_chunk(*arguments, **options)

    monkeypatch.setattr("digitsum.training.dataset.read_chunk", read_once)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    of, chunks = config(archive), opened(archive, "all")
    found = read(chunks, train_share(chunks, of, 1, 0), of, num_threads=1)
    assert sorted(found) == list(range(NUM_SHARDS * SHARD_IMAGES))
