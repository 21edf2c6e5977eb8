import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.reader import Rows
from digitsum.evaluation.examples import NUM_EXAMPLES, Example, Examples
from digitsum.model.outputs import Predictions


def rows_of(true: list[int], errors: tuple[int, ...] = ()) -> Rows:
    ids = pa.array([f"image-{row:03d}" for row in range(len(true))], pa.string())
    pixels = np.arange(len(true), dtype=np.uint8)[:, None, None].repeat(6, axis=1)
    return Rows(0, ids, pixels, dict.fromkeys(errors, "null"), np.array(true, np.int64))


def predictions_of(sums: list[int], confidences: list[float] | None = None) -> Predictions:
    confidences = confidences or [0.5] * len(sums)
    return Predictions(np.array(sums, np.int16), np.array(confidences, np.float32))


def miss(image_id: str, confidence: float = 0.5) -> Example:
    return Example(image_id, np.zeros((1, 1), np.uint8), 3, 4, confidence)


def ids(examples: tuple[Example, ...]) -> list[str]:
    return [example.image_id for example in examples]


def names(rows) -> list[str]:
    return [f"image-{row:03d}" for row in rows]


def test_examples_first_hits():
    sums = [8 if row in (0, 3, 5) else 7 for row in range(20)]
    examples = Examples.of(rows_of([7] * 20), predictions_of(sums))
    assert ids(examples.hits) == names((1, 2, 4, 6, 7, 8, 9, 10))
    assert ids(examples.misses) == names((0, 3, 5))


def test_examples_most_confident_misses():
    sums = [7 if row == 19 else 8 for row in range(20)]  # the most confident is right
    confidences = [row / 20 for row in range(20)]
    examples = Examples.of(rows_of([7] * 20), predictions_of(sums, confidences))
    assert ids(examples.misses) == names(range(18, 10, -1))


def test_examples_equal_confidence():
    examples = Examples.of(rows_of([7] * 30), predictions_of([8] * 30))
    assert ids(examples.misses) == names(range(NUM_EXAMPLES))


def test_examples_plain_values():
    (example,) = Examples.of(rows_of([3, 4]), predictions_of([3, 36], [0.5, 0.75])).misses
    values = (example.image_id, example.true_sum, example.predicted_sum, example.confidence)
    assert values == ("image-001", 4, 36, 0.75)
    assert list(map(type, values)) == [str, int, int, float]
    np.testing.assert_array_equal(example.pixels, np.ones((6, 1), np.uint8))
    assert not example.is_hit


@pytest.mark.parametrize("rows", [rows_of([]), rows_of([1, 2], errors=(0, 1))])
def test_examples_none(rows):
    assert Examples.of(rows, predictions_of(rows.digit_sums.tolist())) == Examples()


def test_examples_copy_pixels():
    rows = rows_of([1, 2])
    examples = Examples.of(rows, predictions_of([1, 3]))
    for example in (*examples.hits, *examples.misses):
        before = example.pixels.copy()
        rows.pixels[:] = 99
        np.testing.assert_array_equal(example.pixels, before)
        assert example.pixels.base is None


# Few confidences, so that many are equal.
misses = st.lists(
    st.tuples(st.integers(0, 999), st.sampled_from([0.25, 0.5, 1.0])),
    unique_by=lambda pair: pair[0],
    max_size=40,
).map(lambda pairs: [miss(f"image-{number:03d}", confidence) for number, confidence in pairs])


@given(misses, st.data())
def test_examples_add_in_any_order(found, data):
    def total(parts: list[list[Example]]) -> list[str]:
        return ids(sum((Examples((), tuple(part)) for part in parts), Examples()).misses)

    cuts = sorted(data.draw(st.lists(st.integers(0, len(found)), max_size=4)))
    edges = [0, *cuts, len(found)]
    parts = [found[edges[i] : edges[i + 1]] for i in range(len(edges) - 1)]
    lowest = sorted((-example.confidence, example.image_id) for example in found)
    expected = [image_id for _, image_id in lowest[:NUM_EXAMPLES]]
    for order in (parts, data.draw(st.permutations(parts)), [[one] for one in found]):
        assert total(order) == expected


def test_examples_add_hits_by_id():
    one, other = Examples((miss("b"), miss("d"))), Examples((miss("a"), miss("c")))
    assert ids((one + other).hits) == ["a", "b", "c", "d"]
    assert ids(one.hits) == ["b", "d"]


def test_examples_explained_once_each():
    seen = []
    examples = Examples((miss("a"),), (miss("b"),)).explained(lambda pixels: seen.append(pixels))
    assert len(seen) == 2
    assert examples.hits[0].explanation is None
