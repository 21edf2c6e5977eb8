import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from digitsum.model.decoding import NO_DIGIT, most_probable_digits
from digitsum.model.sum_distribution import NUM_SYMBOLS

BLANK = None


def batches(num_columns: int, max_images: int = 3) -> st.SearchStrategy[np.ndarray]:
    """Logits, float64 (images, columns, 11)."""
    shapes = st.integers(1, max_images).map(lambda images: (images, num_columns, NUM_SYMBOLS))
    return shapes.flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=st.floats(-8, 8)))


def random_logits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=2.0, size=(*shape, NUM_SYMBOLS))


def columns_of(*images: list[int | None], sure: float = 6.0) -> np.ndarray:
    """Logits of columns that clearly emit the given digits, or BLANK."""
    logits = np.zeros((len(images), len(images[0]), NUM_SYMBOLS))
    for image, emitted in enumerate(images):
        for column, symbol in enumerate(emitted):
            logits[image, column, 0 if symbol is BLANK else 1 + symbol] = sure
    return logits


def read(
    logits: np.ndarray, sums: list[int], known_count: int | None = None
) -> tuple[list[list[int]], list[list[int]]]:
    """Return digits and columns as lists, after a check of their layout."""
    symbols = torch.as_tensor(logits).log_softmax(dim=2)
    expected = torch.tensor(sums, dtype=torch.int64)
    digits, columns = most_probable_digits(symbols, expected, known_count)
    assert digits.shape == columns.shape == logits.shape[:2]
    assert digits.dtype == columns.dtype == torch.int64
    assert torch.equal(digits == NO_DIGIT, columns == NO_DIGIT)
    assert NO_DIGIT == -1
    counts = (digits != NO_DIGIT).sum(dim=1).tolist()
    read_digits, read_columns = (
        [row[:count] for row, count in zip(rows.tolist(), counts, strict=True)]
        for rows in (digits, columns)
    )
    assert all(number >= 0 for row in read_digits + read_columns for number in row)
    return read_digits, read_columns


@functools.cache
def emissions(num_columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every emission of the columns, symbols (11**columns, columns), with its count and sum."""
    symbol = np.indices((NUM_SYMBOLS,) * num_columns).reshape(num_columns, -1).T
    return symbol, (symbol > 0).sum(axis=1), (symbol - 1).clip(min=0).sum(axis=1)


def log_probs_of(logits: np.ndarray, symbol: np.ndarray) -> np.ndarray:
    """Log probabilities that an image's columns emit the symbols, (..., columns)."""
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return log_probs[np.arange(len(logits)), symbol].sum(axis=-1)


def assert_best(
    logits: np.ndarray,
    read_lists: tuple[list[list[int]], list[list[int]]],
    sums: list[int],
    counts: range,
) -> None:
    """Check that of all emissions of these counts and sums, none is more probable."""
    all_emissions, count_of, sum_of = emissions(logits.shape[1])
    for image, digits, columns, digit_sum in zip(logits, *read_lists, sums, strict=True):
        assert sum(digits) == digit_sum
        assert len(digits) in counts
        assert columns == sorted(set(columns))
        possible = (sum_of == digit_sum) & np.isin(count_of, counts)
        emitted = np.zeros(len(image), int)
        emitted[columns] = np.array(digits, int) + 1
        best = log_probs_of(image, all_emissions)[possible].max()
        assert log_probs_of(image, emitted) >= best - 1e-9


@settings(max_examples=40)
@given(batches(3), st.data())
def test_digits_of_a_sum(logits, data):
    sums = [data.draw(st.integers(0, 27)) for _ in logits]
    assert_best(logits, read(logits, sums), sums, range(4))


@settings(max_examples=40)
@given(batches(4), st.integers(1, 4), st.data())
def test_digits_of_a_sum_and_known_count(logits, known_count, data):
    sums = [data.draw(st.integers(0, 9 * known_count)) for _ in logits]
    counts = range(known_count, known_count + 1)
    assert_best(logits, read(logits, sums, known_count), sums, counts)


def test_digits_in_a_large_batch():
    logits = random_logits(60, 4)
    logits[::2, :, 0] += 3
    sums = (np.arange(60) * 7 % 37).tolist()
    lists = read(logits, sums)
    assert {len(digits) for digits in lists[0]} >= {1, 2, 3, 4}
    assert_best(logits, lists, sums, range(5))


def test_clear_digits_and_their_columns():
    logits = columns_of(
        [BLANK, 3, BLANK, BLANK, 0, 9, BLANK],
        [7, BLANK, BLANK, BLANK, BLANK, BLANK, BLANK],
        [BLANK] * 7,
        [BLANK, BLANK, BLANK, BLANK, BLANK, 1, 1],
        [BLANK, BLANK, 0, BLANK, BLANK, BLANK, BLANK],
    )
    assert read(logits, [12, 7, 0, 2, 0]) == (
        [[3, 0, 9], [7], [], [1, 1], [0]],
        [[1, 4, 5], [0], [], [5, 6], [2]],
    )
    assert read(logits[:0], []) == ([], [])
    assert read(columns_of([4, 5], [BLANK, 2]), [9, 2]) == ([[4, 5], [2]], [[0, 1], [1]])


def test_least_sure_digit_gives_way():
    logits = columns_of(
        [BLANK, 3, BLANK, 5, BLANK], [4, BLANK, 4, BLANK, BLANK], [BLANK, 3, BLANK, 5, BLANK]
    )
    logits[0, 3, 1 + 6] = 5  # the second digit may also be a 6
    logits[1, 0, 1 + 1] = 5
    logits[2, 4, 1 + 6] = 5  # a 6 may follow it
    logits[2, 3, 0] = 5.5
    expected = [[3, 6], [1, 4], [3, 6]], [[1, 3], [0, 2], [1, 4]]
    assert read(logits, [9, 5, 9], known_count=2) == expected
    # Without a known count: the first's three digits add up, the second's one must change.
    logits = columns_of([1, 2, 3, BLANK], [BLANK, BLANK, 8, BLANK])
    logits[1, 2, 1 + 7] = 5
    assert read(logits, [6, 7]) == ([[1, 2, 3], [7]], [[0, 1, 2], [2]])


@pytest.mark.parametrize("known_count", [None, 3])
def test_image_alone_and_in_a_batch(known_count):
    logits = random_logits(12, 5, seed=1)
    sums = [n * 2 for n in range(12)]
    together = read(logits, sums, known_count)
    alone = [read(logits[n : n + 1], sums[n : n + 1], known_count) for n in range(12)]
    assert together == ([digits for (digits,), _ in alone], [columns for _, (columns,) in alone])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_12_digits_of_an_unlikely_sum(dtype):
    logits = random_logits(2, 42, seed=3).astype(dtype)
    digits, _ = read(logits, [100, 5], known_count=12)
    assert [len(image) for image in digits] == [12, 12]
    assert [sum(image) for image in digits] == [100, 5]
