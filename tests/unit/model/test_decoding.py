import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from digitsum.model.decoding import NOTHING, most_probable_digits
from digitsum.model.sum_distribution import NUM_SYMBOLS, log_probs_by_count

BLANK = None


def batches(num_columns: int, max_images: int = 3) -> st.SearchStrategy[np.ndarray]:
    """Logits, float64 (images, columns, 11)."""
    shapes = st.integers(1, max_images).map(lambda images: (images, num_columns, NUM_SYMBOLS))
    return shapes.flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=st.floats(-8, 8)))


def random_logits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=2.0, size=(*shape, NUM_SYMBOLS))


def columns_of(*images: list[int | None], sure: float = 6.0) -> np.ndarray:
    """Logits of columns that emit quite surely what is given: a digit, or BLANK."""
    logits = np.zeros((len(images), len(images[0]), NUM_SYMBOLS))
    for image, emitted in enumerate(images):
        for column, symbol in enumerate(emitted):
            logits[image, column, 0 if symbol is BLANK else 1 + symbol] = sure
    return logits


def read(
    logits: np.ndarray, sums: list[int], num_digits: int | None = None
) -> tuple[list[list[int]], list[list[int]]]:
    """Return digits and columns as lists, after checking how they are laid out."""
    symbols = torch.as_tensor(logits).log_softmax(dim=2)
    expected = torch.tensor(sums, dtype=torch.int64)
    digits, columns = most_probable_digits(symbols, expected, num_digits)
    assert digits.shape == columns.shape == logits.shape[:2]
    assert digits.dtype == columns.dtype == torch.int64
    assert torch.equal(digits == NOTHING, columns == NOTHING)
    assert NOTHING == -1
    lists = []
    for rows in (digits.tolist(), columns.tolist()):
        for row in rows:
            count = sum(number != NOTHING for number in row)
            assert all(number >= 0 for number in row[:count])
            assert all(number == NOTHING for number in row[count:])
        lists.append([[number for number in row if number != NOTHING] for row in rows])
    return lists[0], lists[1]


@functools.cache
def emissions(num_columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All that columns can emit, symbols (11**columns, columns), with its counts and sums."""
    symbol = np.indices((NUM_SYMBOLS,) * num_columns).reshape(num_columns, -1).T
    return symbol, (symbol > 0).sum(axis=1), (symbol - 1).clip(min=0).sum(axis=1)


def log_probs_of_emissions(logits: np.ndarray) -> np.ndarray:
    symbol = emissions(len(logits))[0]
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return log_probs[np.arange(len(logits)), symbol].sum(axis=1)


def log_prob_of(logits: np.ndarray, digits: list[int], columns: list[int]) -> float:
    """Log probability that an image's columns emit these digits, and nothing else."""
    symbol = np.zeros(len(logits), int)
    symbol[columns] = np.array(digits, int) + 1
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return float(log_probs[np.arange(len(logits)), symbol].sum())


def assert_best(
    logits: np.ndarray, digits: list[int], columns: list[int], digit_sum: int, counts: range
) -> None:
    """Check that of all emissions of these counts, and of this sum, none is more probable."""
    assert sum(digits) == digit_sum
    assert columns == sorted(set(columns))
    log_probs = log_probs_of_emissions(logits)
    _, count_of, sum_of = emissions(len(logits))
    possible = (sum_of == digit_sum) & np.isin(count_of, counts)
    assert log_prob_of(logits, digits, columns) >= log_probs[possible].max() - 1e-9


@settings(max_examples=40)
@given(batches(3), st.data())
def test_digits_of_any_sum_are_the_most_probable_ones_of_it(logits, data):
    sums = [data.draw(st.integers(0, 27)) for _ in logits]
    read_digits, read_columns = read(logits, sums)
    for image, digits, columns, total in zip(logits, read_digits, read_columns, sums, strict=True):
        assert_best(image, digits, columns, total, range(4))


@settings(max_examples=40)
@given(batches(4), st.integers(1, 4), st.data())
def test_so_are_those_of_a_known_number(logits, num_digits, data):
    sums = [data.draw(st.integers(0, 9 * num_digits)) for _ in logits]
    read_digits, read_columns = read(logits, sums, num_digits)
    for image, digits, columns, total in zip(logits, read_digits, read_columns, sums, strict=True):
        assert len(digits) == num_digits
        assert_best(image, digits, columns, total, range(num_digits, num_digits + 1))


def test_so_they_are_in_a_large_batch_of_every_kind():
    logits = random_logits(60, 4)
    logits[::2, :, 0] += 3
    sums = (np.arange(60) * 7 % 37).tolist()
    read_digits, read_columns = read(logits, sums)
    assert {len(digits) for digits in read_digits} >= {1, 2, 3, 4}
    for image, digits, columns, total in zip(logits, read_digits, read_columns, sums, strict=True):
        assert_best(image, digits, columns, total, range(5))


def test_what_is_clear_is_read_where_it_stands():
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


def test_where_the_digits_do_not_add_up_the_least_sure_one_gives_way():
    logits = columns_of([BLANK, 3, BLANK, 5, BLANK], [4, BLANK, 4, BLANK, BLANK])
    logits[0, 3, 1 + 6] = 5  # the second digit may be a 6 as well
    logits[1, 0, 1 + 1] = 5
    assert read(logits, [9, 5], num_digits=2) == ([[3, 6], [1, 4]], [[1, 3], [0, 2]])


def test_where_it_has_to_be_another_digit_also_its_column_may_be_another():
    logits = columns_of([BLANK, 3, BLANK, 5, BLANK])
    logits[0, 4, 1 + 6] = 5
    logits[0, 3, 0] = 5.5
    assert read(logits, [9], num_digits=2) == ([[3, 6]], [[1, 4]])


def test_one_images_correction_does_not_touch_the_others():
    logits = random_logits(20, 4)
    symbols = torch.tensor(logits).log_softmax(dim=2)
    likely = log_probs_by_count(symbols, 3)[3].argmax(dim=1)
    plain = read(logits, likely.tolist(), 3)
    unlikely = likely.clone()
    unlikely[5] = 27
    corrected = read(logits, unlikely.tolist(), 3)
    assert corrected[0][5] == [9, 9, 9]
    for before, after in zip(plain, corrected, strict=True):
        assert before[:5] + before[6:] == after[:5] + after[6:]


def test_fewer_digits_in_the_images_that_are_corrected_than_in_others_leave_no_trace():
    # The first image holds three digits that add up; the second's one digit has to be another.
    logits = columns_of([1, 2, 3, BLANK], [BLANK, BLANK, 8, BLANK])
    logits[1, 2, 1 + 7] = 5
    assert read(logits, [6, 7]) == ([[1, 2, 3], [7]], [[0, 1, 2], [2]])


@pytest.mark.parametrize("num_digits", [None, 3])
def test_an_image_is_read_alike_alone_and_in_a_batch(num_digits):
    logits = random_logits(12, 5, seed=1)
    sums = [n * 2 for n in range(12)]
    together = read(logits, sums, num_digits)
    alone = [read(logits[n : n + 1], sums[n : n + 1], num_digits) for n in range(12)]
    assert together == ([digits for (digits,), _ in alone], [columns for _, (columns,) in alone])


def test_no_images_give_no_digits():
    assert read(random_logits(0, 5), []) == ([], [])


def test_fewer_columns_than_digits_could_be_are_read_too():
    logits = columns_of([4, 5], [BLANK, 2])
    assert read(logits, [9, 2]) == ([[4, 5], [2]], [[0, 1], [1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_12_digits_of_an_unlikely_sum_are_found_among_many_columns(dtype):
    logits = random_logits(2, 42, seed=3).astype(dtype)
    digits, _ = read(logits, [100, 5], num_digits=12)
    assert [len(image) for image in digits] == [12, 12]
    assert [sum(image) for image in digits] == [100, 5]
