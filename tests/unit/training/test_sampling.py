import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import Chunk, ChunkId
from digitsum.archive.shards import Fingerprint
from digitsum.training.sampling import batched, shuffled, split_evenly


def chunk_of(number: int, num_rows: int) -> Chunk:
    fingerprint = Fingerprint(0, 0, num_rows, "image", None, 1, 1)
    return Chunk(ChunkId(f"{number}.parquet", fingerprint, 0, num_rows), (0,))


def images(numbers) -> tuple[np.ndarray, np.ndarray]:
    """Make images that hold their own number, as their sums do."""
    sums = np.array(list(numbers), np.int64)
    return np.repeat(sums.astype(np.uint8), 2).reshape(len(sums), 1, 2), sums


def numbers_of(blocks) -> list[list[int]]:
    numbers = []
    for pixels, sums in blocks:
        np.testing.assert_array_equal(pixels[:, 0, 0], sums.astype(np.uint8))
        numbers.append(sums.tolist())
    return numbers


blocks_of_numbers = st.lists(st.integers(0, 12), max_size=8).map(
    lambda sizes: [
        range(start, start + size)
        for start, size in zip(np.cumsum([0, *sizes]).tolist(), sizes, strict=False)
    ]
)


@given(st.lists(st.integers(0, 30), max_size=10), st.integers(1, 5), st.booleans())
def test_split_evenly_once(sizes, workers, equal):
    chunks = [(chunk_of(i, size), size) for i, size in enumerate(sizes)]
    shares = [split_evenly(chunks, rank, workers, equal=equal) for rank in range(workers)]
    shared = [
        (piece.chunk.shard, piece.first + i)
        for share in shares
        for piece in share
        for i in range(piece.num_images)
    ]
    every = [(chunk.shard, i) for chunk, size in chunks for i in range(size)]
    num_left_out = len(every) % workers if equal else 0
    assert shared == every[: len(every) - num_left_out]
    lengths = [sum(piece.num_images for piece in share) for share in shares]
    assert max(lengths) - min(lengths) <= (0 if equal else 1)


@given(blocks_of_numbers, st.integers(1, 30), st.integers(0, 3))
def test_shuffled_keeps_images(blocks, buffer_images, seed):
    made = shuffled(map(images, blocks), buffer_images, np.random.default_rng(seed))
    numbers = [number for block in numbers_of(made) for number in block]
    assert sorted(numbers) == [number for block in blocks for number in block]


def test_shuffled_mixes_by_seed():
    blocks = [range(start, start + 50) for start in range(0, 200, 50)]

    def mixed(seed):
        made = shuffled(map(images, blocks), 100, np.random.default_rng(seed))
        return [number for block in numbers_of(made) for number in block]

    assert mixed(0) == mixed(0) != mixed(1)
    first = mixed(0)[:50]
    assert {number // 50 for number in first} == {0, 1}
    assert first != sorted(first)


@given(blocks_of_numbers, st.integers(1, 9))
def test_batched_sizes(blocks, size):
    batches = numbers_of(batched(map(images, blocks), size))
    every = [number for block in blocks for number in block]
    assert [number for batch in batches for number in batch] == every
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(1 <= len(batch) <= size for batch in batches)
