from dataclasses import replace

import pytest
from factories import make_part, make_plan, make_result, make_shard
from hypothesis import assume, given
from hypothesis import strategies as st

from digitsum.archive.chunks import Chunk
from digitsum.manifest import from_python, parse_json, to_json, to_python
from digitsum.model.outputs import PredictionStats
from digitsum.scoring.drift import Shift
from digitsum.scoring.plan import ScorePlan
from digitsum.scoring.results import ScoreCounts, ScoreOutcome

row_groups = st.lists(st.integers(0, 5), min_size=1, max_size=5)
archives = st.lists(row_groups, max_size=4)


def plan_of(
    shards: list[list[int]], parts: dict[Chunk, int] | None = None, num_bad: int = 0, **options
) -> ScorePlan:
    """Plan shards of these row groups, whose chunks have parts with this many rejected rows."""
    found = [make_shard(f"{number}.parquet", *rows) for number, rows in enumerate(shards)]
    committed = [make_part(chunk, number) for chunk, number in (parts or {}).items()]
    bad = {f"bad-{number}.parquet": "bad" for number in range(num_bad)}
    return make_plan(found, committed, bad, **options)


@st.composite
def runs(draw) -> tuple[ScoreCounts, ScorePlan]:
    """Draw a run: some chunks were done, the others are scored, in part or not; what is left."""

    def num_rejected(chunk: Chunk) -> int:
        return draw(st.integers(0, chunk.num_rows))

    shards, num_bad = draw(archives), draw(st.integers(0, 3))
    chunks = plan_of(shards).to_score
    parts = {chunk: num_rejected(chunk) for chunk in chunks if draw(st.booleans())}
    plan = plan_of(shards, parts, num_bad, retry_rejected=draw(st.booleans()))
    results = []
    for chunk in draw(st.permutations(plan.to_score)):
        if draw(st.booleans()):
            results.append(make_result(chunk, reason="cannot be read"))
        else:
            parts[chunk] = num_rejected(chunk)
            results.append(make_result(chunk, parts[chunk]))
    return ScoreCounts(plan, tuple(results), 2.0), plan_of(shards, parts, num_bad)


@given(runs())
def test_totals_equal_a_fresh_plan(run):
    counts, after = run
    counts.check_conserved()
    assert counts.num_images == counts.plan.num_to_score
    assert counts.predicted.num_images == counts.num_images - counts.num_rejected
    assert counts.images_per_s == counts.num_images / 2
    done = [decision for decision in after.decisions if decision.decided == "done"]
    num_scored = sum(d.chunk.num_rows - d.num_rejected for d in done)
    totals = counts.totals
    assert (totals.images, totals.scored) == (after.num_images, num_scored)
    # What has no part was rejected as a whole.
    assert totals.rejected == after.num_to_score + sum(d.num_rejected for d in done)
    assert totals.scored + totals.rejected == totals.images
    assert (totals.shards, totals.rejected_shards) == (after.num_shards, len(after.rejected))


@given(runs(), st.data(), st.sampled_from([-1, 1]))
def test_check_conserved_lost_or_doubled(run, data, change):
    counts = run[0]
    assume(counts.results)
    which = data.draw(st.sampled_from(counts.results))
    others = tuple(result for result in counts.results if result is not which)
    chunk = replace(which.chunk, num_rows=which.chunk.num_rows + change)
    for results in (
        others,
        (*counts.results, which),
        (*others, replace(which, chunk=chunk)),
        (*others, replace(which, num_rejected=which.num_rejected + change)),
        (*others, replace(which, predicted=which.predicted + PredictionStats((change,)))),
    ):
        with pytest.raises(ValueError, match=r"chunks were given out|images were planned"):
            replace(counts, results=results).check_conserved()


@pytest.mark.parametrize("reason", ["", "cannot be read"])
def test_check_conserved_one_for_another(reason):
    plan = plan_of([[4], [4]])
    result = make_result(plan.to_score[0], reason=reason)
    with pytest.raises(ValueError, match="2 chunks were given out, and not the same 2"):
        ScoreCounts(plan, (result, result), 1.0).check_conserved()


def test_totals_keep_part_if_retry_fails():
    first, second = plan_of([[4], [4]]).to_score
    plan = plan_of([[4], [4]], {first: 1, second: 0}, retry_rejected=True)
    assert plan.to_score == (first,)
    counts = ScoreCounts(plan, (make_result(first, reason="cannot be read"),), 1.0)
    counts.check_conserved()
    assert (counts.totals.scored, counts.totals.rejected) == (7, 1)


def test_totals_of_a_failed_chunk():
    plan = plan_of([[4], [6], [0], []], num_bad=1)
    first, second = plan.to_score
    results = (make_result(first, 1), make_result(second, reason="cannot be read"))
    counts = ScoreCounts(plan, results, 1.0)
    assert (counts.num_images, counts.num_rejected) == (10, 7)
    assert (counts.totals.scored, counts.totals.rejected, counts.totals.shards) == (3, 7, 5)
    assert replace(counts, plan=replace(plan, rejected={})).why_incomplete(0.7) is None
    message = counts.why_incomplete(0.69)
    assert message.startswith("7 of 10 images ")
    assert " (bad); see report.html" in message


def counts_of(num_images: int, num_rejected: int, num_shards: int, num_bad: int) -> ScoreCounts:
    """Count a run with nothing to do, on an archive of n images, m of them rejected."""
    share, rest = divmod(num_images, num_shards)
    shards = [[share + rest], *[[share]] * (num_shards - 1)]
    first, *others = plan_of(shards).to_score
    plan = plan_of(shards, {first: num_rejected} | dict.fromkeys(others, 0), num_bad)
    assert plan.num_images == num_images
    return ScoreCounts(plan, (), 0.0)


@pytest.mark.parametrize(
    ("num_images", "allowed", "most"),
    [
        (1000, 0.01, 10),
        (1099, 0.01, 10),
        (99, 0.01, 0),
        (1000, 0.001, 1),
        (1000, 0.0, 0),
        (1000, 1.0, 1000),
        (100, 0.29, 29),
        (1900, 0.07, 133),
    ],
)
def test_why_incomplete_images(num_images, allowed, most):
    for num_rejected in {0, max(0, most - 1), most}:
        assert counts_of(num_images, num_rejected, 1, 0).why_incomplete(allowed) is None
    if most < num_images:
        message = counts_of(num_images, most + 1, 1, 0).why_incomplete(allowed)
        start = f"{most + 1} of {num_images:,} images were rejected, more than the "
        assert message.startswith(f"{start}{100 * allowed:.4g}% ")


@pytest.mark.parametrize(
    ("num_shards", "allowed", "most"), [(100, 0.01, 1), (50, 0.01, 0), (4, 0.25, 1), (3, 0.0, 0)]
)
def test_why_incomplete_shards(num_shards, allowed, most):
    assert counts_of(1000, 0, num_shards - most, most).why_incomplete(allowed) is None
    message = counts_of(1000, 0, num_shards - most - 1, most + 1).why_incomplete(allowed)
    start = f"{most + 1} of {num_shards} shards were rejected, more than the "
    assert message.startswith(f"{start}{100 * allowed:.4g}% ")


def test_why_incomplete_all_or_nothing():
    assert counts_of(10, 10, 1, 5).why_incomplete(1.0) is None
    empty = ScoreCounts(plan_of([]), (), 0.0)
    assert (empty.why_incomplete(0.0), empty.images_per_s) == (None, 0.0)
    assert empty.predicted.num_images == 0


@pytest.mark.parametrize(
    ("read_s", "forward_s", "write_s", "sentence"),
    [
        (
            *(1, 8, 1),
            "more cores or GPUs would make it faster: of the workers' 20.0 s, 80% the network, "
            "10% writing scores, 10% waiting for images",
        ),
        (3, 1, 0, "a nearer or faster store of the archive, or plain bytes"),
        (0, 1, 9, "a nearer or faster store of the scores would make it faster: "),
        (0, 0, 0, "nothing was scored"),
    ],
)
def test_bottleneck(read_s, forward_s, write_s, sentence):
    plan = plan_of([[1]])
    times = {"read_s": read_s, "forward_s": forward_s, "write_s": write_s}
    result = make_result(plan.to_score[0], **times)
    assert result.elapsed_s == read_s + forward_s + write_s
    assert ScoreCounts(plan, (result, result), 1.0).bottleneck.startswith(sentence)


def make_outcome(counts: ScoreCounts, why_incomplete: str | None = None) -> ScoreOutcome:
    shift = Shift("sums", 0.25, 1e-9)
    place = {"scores": "s", "archive": "a", "why_incomplete": why_incomplete}
    return ScoreOutcome.of(counts, **place, reference=PredictionStats((1,)), shifts=[shift])


def test_outcome_figures():
    plan = plan_of([[4, 4], [3]])
    results = tuple(make_result(chunk) for chunk in reversed(plan.to_score))
    counts = ScoreCounts(plan, results, 4.0)
    outcome = make_outcome(counts)
    assert [r.chunk for r in outcome.chunks] == [r.chunk for r in reversed(results)]  # in order
    assert (outcome.complete, make_outcome(counts, "too many").complete) == (True, False)
    figures = outcome.to_json()
    assert figures["predicted"]["sums"] == (5, 0, 6)
    assert (figures["images"], figures["rejected"], figures["images_per_s"]) == (11, 0, 11 / 4)
    assert figures["totals"]["scored"] == 11
    assert figures["plan"]["new"]["images"] == 11
    assert "chunks" not in figures


@given(runs(), st.none() | st.text(max_size=5))
def test_outcome_read_back(run, why_incomplete):
    outcome = make_outcome(run[0], why_incomplete)
    assert parse_json(ScoreOutcome, to_json(outcome), "outcome") == outcome
    assert from_python(ScoreOutcome, to_python(outcome), "outcome") == outcome
    # The predictions are recorded once, added up, and not once more for each chunk.
    assert outcome.predicted == run[0].predicted
    assert {chunk.predicted for chunk in outcome.chunks} <= {PredictionStats()}
