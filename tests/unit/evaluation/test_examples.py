import numpy as np
import pyarrow as pa
import pytest
from factories import make_predictions, make_rows
from hypothesis import given
from hypothesis import strategies as st

from digitsum.evaluation.examples import (
    EXAMPLES_FILE,
    NUM_EXAMPLES,
    Example,
    Examples,
    read_examples,
    write_examples,
)
from digitsum.model.outputs import Explanation
from digitsum.storage.location import locate


def miss(image_id: str, confidence: float = 0.5) -> Example:
    return Example(image_id, np.zeros((1, 1), np.uint8), 3, 4, confidence)


def ids(examples: tuple[Example, ...]) -> list[str]:
    return [example.image_id for example in examples]


@pytest.mark.parametrize(
    ("wrong", "confidences", "hits", "misses"),
    [
        ((0, 3, 5), None, (1, 2, 4, 6, 7, 8, 9, 10), (0, 3, 5)),
        (range(19), [row / 20 for row in range(20)], (19,), range(18, 10, -1)),
        (range(20), None, (), range(NUM_EXAMPLES)),
    ],
    ids=["first hits", "most confident misses", "equal confidence"],
)
def test_examples_chosen(wrong, confidences, hits, misses):
    sums = [8 if row in wrong else 7 for row in range(20)]
    examples = Examples.of(make_rows([7] * 20), make_predictions(sums, confidences))
    assert ids(examples.hits) == [f"image-{row:03d}" for row in hits]
    assert ids(examples.misses) == [f"image-{row:03d}" for row in misses]


def test_examples_plain_values():
    (example,) = Examples.of(make_rows([3, 4]), make_predictions([3, 36], [0.5, 0.75])).misses
    values = (example.image_id, example.true_sum, example.predicted_sum, example.confidence)
    assert values == ("image-001", 4, 36, 0.75)
    assert list(map(type, values)) == [str, int, int, float]
    np.testing.assert_array_equal(example.pixels, np.ones((6, 1), np.uint8))
    assert not example.is_hit


@pytest.mark.parametrize("rows", [make_rows([]), make_rows([1, 2], errors=(0, 1))])
def test_examples_none(rows):
    assert Examples.of(rows, make_predictions(rows.digit_sums)) == Examples()


def test_examples_copy_pixels():
    rows = make_rows([1, 2])
    examples = Examples.of(rows, make_predictions([1, 3]))
    rows.pixels[:] = 99
    for number, example in enumerate((*examples.hits, *examples.misses)):
        np.testing.assert_array_equal(example.pixels, np.full((6, 1), number))
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


@pytest.mark.parametrize("image_id", ["a", "", "ä/日本", r"a$\foo$", "%s {0}\n"])
def test_write_examples_round_trip(tmp_path, image_id):
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(5, 7), dtype=np.uint8)
    probs = rng.random((2, 11), np.float32)
    written = Examples(
        (Example(image_id, pixels, 3, 3, 1 / 3, Explanation(probs, (1, 2), (0, 4))),),
        (
            Example("b", pixels[::-1], 300, 4, 0.1, None),
            Example("c", pixels[:1], 3, 4, 0.1, Explanation(probs, (), ())),
        ),
    )
    write_examples(written, locate(str(tmp_path)))
    read = read_examples(locate(str(tmp_path)))
    np.testing.assert_equal(as_values(read.hits), as_values(written.hits))
    np.testing.assert_equal(as_values(read.misses), as_values(written.misses))


def as_values(examples: tuple[Example, ...]) -> list[dict]:
    return [
        vars(example) | {"explanation": example.explanation and vars(example.explanation)}
        for example in examples
    ]


def test_read_examples_changed(tmp_path):
    (tmp_path / EXAMPLES_FILE).write_bytes(b"no Parquet")
    with pytest.raises((ValueError, pa.ArrowException)):
        read_examples(locate(str(tmp_path)))
