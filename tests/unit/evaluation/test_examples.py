import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.reader import Rows
from digitsum.evaluation.examples import NUM_EXAMPLES, Example, hits, merge_examples, worst_misses
from digitsum.model.outputs import Predictions


def rows_of(true: list[int]) -> Rows:
    ids = pa.array([f"image-{row:03d}" for row in range(len(true))], pa.string())
    pixels = np.arange(len(true), dtype=np.uint8)[:, None, None].repeat(6, axis=1)
    return Rows(0, ids, pixels, {}, np.array(true, np.int64))


def predictions_of(sums: list[int], confidences: list[float] | None = None) -> Predictions:
    given_or_half = confidences or [0.5] * len(sums)
    return Predictions(np.array(sums, np.int16), np.array(given_or_half, np.float32))


def example(image_id: str, confidence: float = 0.5) -> Example:
    return Example(image_id, np.zeros((1, 1), np.uint8), 3, 4, confidence)


def ids(examples: list[Example]) -> list[str]:
    return [found.image_id for found in examples]


def test_hits_are_the_first_of_the_right_ones():
    right = np.ones(20, bool)
    right[[0, 3, 5]] = False
    found = hits(rows_of([7] * 20), predictions_of([7] * 20), right)
    assert ids(found) == [f"image-{row:03d}" for row in (1, 2, 4, 6, 7, 8, 9, 10)]


def test_worst_misses_are_those_of_the_greatest_confidence_worst_first():
    wrong = np.ones(20, bool)
    wrong[19] = False  # the most confident of all, and right
    confidences = [row / 20 for row in range(20)]
    found = worst_misses(rows_of([7] * 20), predictions_of([8] * 20, confidences), wrong)
    assert ids(found) == [f"image-{row:03d}" for row in range(18, 10, -1)]


def test_of_misses_of_equal_confidence_the_first_are_taken():
    found = worst_misses(rows_of([7] * 30), predictions_of([8] * 30), np.ones(30, bool))
    assert ids(found) == [f"image-{row:03d}" for row in range(NUM_EXAMPLES)]


def test_an_example_says_what_was_true_and_what_was_predicted_in_plain_numbers():
    (found,) = worst_misses(
        rows_of([3, 4]), predictions_of([3, 36], [0.5, 0.75]), np.array([False, True])
    )
    assert (found.image_id, found.true_sum, found.predicted_sum) == ("image-001", 4, 36)
    assert found.confidence == 0.75
    np.testing.assert_array_equal(found.pixels, np.ones((6, 1), np.uint8))
    types = [type(value) for value in (found.true_sum, found.predicted_sum, found.confidence)]
    assert types == [int, int, float]


def test_where_none_is_right_or_wrong_there_is_no_example():
    rows, predictions, none = rows_of([1, 2]), predictions_of([1, 2]), np.zeros(2, bool)
    assert hits(rows, predictions, none) == []
    assert worst_misses(rows, predictions, none) == []
    assert hits(rows_of([]), predictions_of([]), none[:0]) == []


def test_pixels_are_copied_so_that_the_rows_can_go():
    rows = rows_of([1, 2])
    kept = [
        *hits(rows, predictions_of([1, 2]), np.ones(2, bool)),
        *worst_misses(rows, predictions_of([1, 2]), np.ones(2, bool)),
    ]
    before = [found.pixels.copy() for found in kept]
    rows.pixels[:] = 99
    for found, pixels in zip(kept, before, strict=True):
        np.testing.assert_array_equal(found.pixels, pixels)
        assert not np.shares_memory(found.pixels, rows.pixels)
        assert found.pixels.base is None


# Few confidences, so that many are equal.
examples = st.lists(
    st.tuples(st.integers(0, 999), st.sampled_from([0.25, 0.5, 1.0])),
    unique_by=lambda pair: pair[0],
    max_size=40,
).map(lambda pairs: [example(f"image-{number:03d}", conf) for number, conf in pairs])


@given(examples, st.data())
def test_it_does_not_matter_in_which_order_examples_come(found, data):
    def merged(parts: list[list[Example]]) -> list[Example]:
        kept: list[Example] = []
        for part in parts:
            kept = merge_examples(kept, part, key=lambda one: -one.confidence)
        return kept

    cuts = sorted(data.draw(st.lists(st.integers(0, len(found)), max_size=4)))
    edges = [0, *cuts, len(found)]
    parts = [found[edges[i] : edges[i + 1]] for i in range(len(edges) - 1)]
    once = merged([found])
    assert ids(merged(parts)) == ids(once)
    assert ids(merged(data.draw(st.permutations(parts)))) == ids(once)
    assert ids(merged([[one] for one in data.draw(st.permutations(found))])) == ids(once)


@given(examples, examples)
def test_merged_are_the_examples_of_the_lowest_keys_then_of_the_lowest_ids(some, others):
    kept = merge_examples(some, others, key=lambda one: -one.confidence)
    every = sorted((-one.confidence, one.image_id) for one in some + others)
    assert [(-one.confidence, one.image_id) for one in kept] == every[:NUM_EXAMPLES]


def test_merging_nothing_gives_nothing_and_changes_no_list():
    some, others = [example("b"), example("a")], [example("c")]
    assert merge_examples([], [], key=lambda one: one.image_id) == []
    assert ids(merge_examples(some, others, key=lambda one: one.image_id)) == ["a", "b", "c"]
    assert ids(some) == ["b", "a"]
    assert ids(others) == ["c"]
