import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.errors import InputError, TooManyRejectedError
from digitsum.evaluation.calibration import ConfidenceCounts
from digitsum.evaluation.examples import Example, Examples
from digitsum.evaluation.metrics import Evaluation, SumMetrics, count_pairs
from digitsum.evaluation.record import (
    EVALUATION_FILE,
    EXAMPLES_FILE,
    read_evaluation,
    read_examples,
    write_evaluation,
    write_examples,
)
from digitsum.manifest import Origin
from digitsum.model.outputs import Explanation
from digitsum.storage.location import locate


@st.composite
def metrics(draw) -> SumMetrics:
    """Draw the metrics of some images."""
    images = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1))))
    true, predicted = (np.array([row[i] for row in images], np.int64) for i in (0, 1))
    confidences = np.array([row[2] for row in images], np.float32)
    return SumMetrics(
        count_pairs(true, predicted, 10),
        draw(st.integers(0, 9)),
        ConfidenceCounts.of(confidences, true == predicted),
        len(images),
        len(images) // 2,
    )


def evaluation_of(metrics: SumMetrics, **changes) -> Evaluation:
    values = {
        "archive_uri": "a",
        "model_uri": "m",
        "model_digest": "d" * 64,
        "known_count": 4,
        "metrics": metrics,
        "examples": Examples(),
        "num_shards": 4,
        "unread_shards": {"a.parquet": "no Parquet"},
        "unread_chunks": {"b.parquet, rows from 0 on": "damaged"},
        "origin": Origin(command=["digitsum"], versions={"torch": "2"}),
    }
    return Evaluation(**values | changes)


@settings(max_examples=20)
@given(metrics=metrics())
def test_write_evaluation_round_trip(tmp_path_factory, metrics):
    directory = locate(str(tmp_path_factory.mktemp("evaluation")))
    written = evaluation_of(metrics)
    write_evaluation(written, directory)
    read = read_evaluation(directory)
    assert read.to_json() == written.to_json()
    assert read.metrics.counts == metrics.counts
    np.testing.assert_array_equal(read.metrics.confusion, metrics.confusion)
    np.testing.assert_array_equal(read.metrics.confidences.levels, metrics.confidences.levels)
    assert (read.num_shards, read.unread_shards) == (4, written.unread_shards)


def test_read_evaluation_of_other_version(tmp_path):
    write_evaluation(evaluation_of(SumMetrics.empty(2)), locate(str(tmp_path)))
    record = json.loads((tmp_path / EVALUATION_FILE).read_text())
    (tmp_path / EVALUATION_FILE).write_text(json.dumps(record | {"version": 99}))
    with pytest.raises(InputError, match="is of version 99, but this digitsum reads version 1"):
        read_evaluation(locate(str(tmp_path)))


@pytest.mark.parametrize(("allowed", "what"), [(0.24, "1 of 4 shards"), (0.1, "5 of 25 images")])
def test_check_rejected_names_what(allowed, what):
    evaluation = evaluation_of(SumMetrics(np.diag([0, 20]), num_rejected=5))
    evaluation.check_rejected(0.25)
    with pytest.raises(TooManyRejectedError, match=what) as caught:
        evaluation.check_rejected(allowed)
    assert "the first is a.parquet: no Parquet" in str(caught.value)


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
    ids = [[example.image_id for example in group] for group in (read.hits, read.misses)]
    assert ids == [[image_id], ["b", "c"]]
    pairs = zip(read.hits + read.misses, written.hits + written.misses, strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert (one.true_sum, one.predicted_sum) == (other.true_sum, other.predicted_sum)
        assert one.confidence == other.confidence
        assert (one.explanation is None) == (other.explanation is None)
        if one.explanation:
            np.testing.assert_array_equal(one.explanation.column_probs, probs)
            assert one.explanation.digits == other.explanation.digits
            assert one.explanation.digit_x == other.explanation.digit_x


def test_read_examples_changed(tmp_path):
    (tmp_path / EXAMPLES_FILE).write_bytes(b"no Parquet")
    with pytest.raises((ValueError, pa.ArrowException)):
        read_examples(locate(str(tmp_path)))
