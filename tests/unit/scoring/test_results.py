from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from digitsum.archive.chunks import Chunk
from digitsum.archive.score_parts import Part, part_path, part_source
from digitsum.archive.shards import Archive, Shard
from digitsum.errors import TooManyRejectedError
from digitsum.model.prediction_stats import PredictionStats
from digitsum.options import ImageShape
from digitsum.scoring.plan import RejectedShard, ScorePlan, Survey, plan_scores
from digitsum.scoring.results import Outcome, ScoredChunk, rejected_of
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate

MODEL = "a" * 64
SIZE = 4

row_groups = st.lists(st.integers(0, 5), min_size=1, max_size=5)
archives = st.lists(row_groups, max_size=4)
bad_shards = st.integers(0, 3)


def survey_of(shards: list[list[int]], num_bad: int = 0) -> Survey:
    found = tuple(
        Shard(ListedFile(f"{number}.parquet", 9, 1), tuple(rows), ImageShape(2, 3), None)
        for number, rows in enumerate(shards)
    )
    rejected = tuple(RejectedShard(f"bad-{number}.parquet", "bad") for number in range(num_bad))
    return Survey(Archive(locate("/archive"), found), rejected)


def plan_of(survey: Survey, rejected: dict[Chunk, int], *, retry: bool = False) -> ScorePlan:
    """Plan where these chunks have parts, with so many rejected rows each."""
    parts = {chunk: Part(part_source(chunk, MODEL), number) for chunk, number in rejected.items()}
    committed = {part_path(part.source): part for part in parts.values()}
    return plan_scores(survey, MODEL, SIZE, committed, retry_rejected=retry)


def said(chunk: Chunk, num_rejected: int, reason: str = "") -> ScoredChunk:
    scored = chunk.num_rows - num_rejected
    counts = (scored // 2, 0, scored - scored // 2) if not reason else ()
    return ScoredChunk(
        chunk.shard,
        chunk.fingerprint,
        chunk.first_row,
        chunk.num_rows,
        num_rejected,
        reason,
        1,
        2,
        3,
        1,
        "n",
        PredictionStats(counts, counts, ()),
    )


@st.composite
def outcomes(draw) -> Outcome:
    """Draw what a run comes to in which chunks were done, or are scored, in part, or rejected."""
    survey = survey_of(draw(archives), draw(bad_shards))
    all_chunks = plan_of(survey, {}).to_score
    before = {
        chunk: draw(st.integers(0, chunk.num_rows)) for chunk in all_chunks if draw(st.booleans())
    }
    plan = plan_of(survey, before)
    after, chunks = dict(before), []
    for chunk in draw(st.permutations(plan.to_score)):
        if draw(st.booleans()):
            chunks.append(said(chunk, chunk.num_rows, "cannot be read"))
        else:
            after[chunk] = draw(st.integers(0, chunk.num_rows))
            chunks.append(said(chunk, after[chunk]))
    return Outcome(plan, plan_of(survey, after), tuple(chunks), 2.0)


@given(outcomes())
def test_where_no_row_is_lost_or_doubled_the_counts_agree(outcome):
    outcome.check_conserved()
    totals = outcome.totals
    assert totals["images"] == outcome.plan.num_images
    assert totals["scored"] + totals["rejected"] == totals["images"]
    assert outcome.num_images == sum(chunk.num_rows for chunk in outcome.plan.to_score)
    assert outcome.predicted.num_images == outcome.num_images - outcome.num_rejected
    assert outcome.images_per_s == outcome.num_images / 2
    before = outcome.plan.num_images - outcome.num_images
    done_before = sum(decision.num_rejected for decision in outcome.plan.decisions)
    assert totals["rejected"] == done_before + outcome.num_rejected
    assert totals["scored"] == before - done_before + outcome.predicted.num_images


@given(outcomes(), st.data())
def test_a_chunk_that_is_lost_or_doubled_is_found(outcome, data):
    assume(outcome.chunks)
    which = data.draw(st.sampled_from(outcome.chunks))
    lost = tuple(chunk for chunk in outcome.chunks if chunk is not which)
    for chunks in (lost, (*outcome.chunks, which)):
        with pytest.raises(ValueError, match=r"images were (planned|given out)"):
            replace(outcome, chunks=chunks).check_conserved()


@given(outcomes(), st.data(), st.sampled_from([-1, 1]))
def test_a_row_that_is_lost_or_doubled_within_a_chunk_is_found(outcome, data, change):
    assume(outcome.chunks)
    which = data.draw(st.sampled_from(outcome.chunks))
    wrong = [
        replace(which, num_rows=which.num_rows + change),
        replace(which, num_rejected=which.num_rejected + change),
        replace(which, predicted=which.predicted + PredictionStats((change,))),
    ]
    for chunk in wrong:
        chunks = tuple(chunk if one is which else one for one in outcome.chunks)
        with pytest.raises(ValueError, match=r"images were (planned|given out)"):
            replace(outcome, chunks=chunks).check_conserved()


@given(outcomes(), st.data())
def test_a_part_that_is_not_there_afterwards_is_found(outcome, data):
    done = outcome.after.chunks("done")
    assume(done)
    which = data.draw(st.sampled_from(done))
    decisions = tuple(
        replace(one, decided="new") if one.chunk == which else one
        for one in outcome.after.decisions
    )
    after = replace(outcome.after, decisions=decisions)
    with pytest.raises(ValueError, match="images were lost or made"):
        replace(outcome, after=after).check_conserved()


def test_a_chunk_said_twice_does_not_stand_for_another_that_was_lost():
    survey = survey_of([[4], [4]])
    plan = plan_of(survey, {})
    first = plan.to_score[0]
    for reason in ("", "cannot be read"):
        twice = said(first, 4 if reason else 0, reason)
        after = plan_of(survey, {} if reason else {first: 0})
        with pytest.raises(ValueError, match="images"):
            Outcome(plan, after, (twice, twice), 1.0).check_conserved()


def test_a_chunk_that_keeps_its_part_of_before_where_it_cannot_be_read_again_is_counted_once():
    survey = survey_of([[4], [4]])
    first, second = plan_of(survey, {}).to_score
    before = {first: 1, second: 0}
    plan = plan_of(survey, before, retry=True)
    assert plan.to_score == (first,)
    outcome = Outcome(plan, plan_of(survey, before), (said(first, 4, "cannot be read"),), 1.0)
    assert outcome.totals["scored"] + outcome.totals["rejected"] == 8
    outcome.check_conserved()


def outcome_of(num_images: int, num_rejected: int, num_shards: int, num_bad: int) -> Outcome:
    share, rest = divmod(num_images, num_shards)
    survey = survey_of([[share + rest], *[[share]] * (num_shards - 1)], num_bad)
    chunks = plan_of(survey, {}).to_score
    plan = plan_of(survey, {chunk: num_rejected if chunk is chunks[0] else 0 for chunk in chunks})
    assert plan.num_images == num_images
    return Outcome(plan, plan, (), 0.0)


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
def test_as_many_images_may_be_rejected_as_are_allowed_and_no_more(num_images, allowed, most):
    for num_rejected in {0, max(0, most - 1), most}:
        outcome_of(num_images, num_rejected, 1, 0).check_rejected(allowed)
    percent = f"{100 * allowed:.4g}%"
    if most < num_images:
        said = rf"^{most + 1} of {num_images:,} images were rejected, more than the {percent} "
        with pytest.raises(TooManyRejectedError, match=said):
            outcome_of(num_images, most + 1, 1, 0).check_rejected(allowed)


@pytest.mark.parametrize(
    ("num_shards", "allowed", "most"), [(100, 0.01, 1), (50, 0.01, 0), (4, 0.25, 1), (3, 0.0, 0)]
)
def test_as_many_shards_may_be_rejected_as_are_allowed_and_no_more(num_shards, allowed, most):
    def outcome(num_bad: int) -> Outcome:
        return outcome_of(1000, 0, num_shards - num_bad, num_bad)

    outcome(most).check_rejected(allowed)
    said = rf"^{most + 1} of {num_shards} shards were rejected, more than the {100 * allowed:.4g}% "
    with pytest.raises(TooManyRejectedError, match=said):
        outcome(most + 1).check_rejected(allowed)


def test_where_all_may_be_rejected_all_may_and_of_nothing_nothing_is():
    outcome_of(10, 10, 1, 5).check_rejected(1.0)
    plan = plan_of(survey_of([]), {})
    Outcome(plan, plan, (), 0.0).check_rejected(0.0)


def test_shards_without_images_are_shards_too():
    plan = plan_of(survey_of([[4], [0], []], 1), {})
    assert Outcome(plan, plan, (), 0.0).totals["shards"] == 4


def test_chunks_that_cannot_be_read_count_with_all_their_rows():
    survey = survey_of([[4], [6]])
    plan = plan_of(survey, {})
    first, second = plan.to_score
    chunks = (said(first, 1), said(second, 6, "cannot be read"))
    outcome = Outcome(plan, plan_of(survey, {first: 1}), chunks, 1.0)
    assert (outcome.num_images, outcome.num_rejected) == (10, 7)
    assert (outcome.totals["scored"], outcome.totals["rejected"]) == (3, 7)
    assert rejected_of(chunks) == {("1.parquet", 0)}
    outcome.check_rejected(0.7)
    with pytest.raises(TooManyRejectedError, match="7 of 10 images"):
        outcome.check_rejected(0.69)


def test_the_figures_hold_the_sums_that_occur_and_the_chunks_in_the_archives_order():
    survey = survey_of([[4, 4], [3]])
    plan = plan_of(survey, {})
    chunks = tuple(said(chunk, 0) for chunk in reversed(plan.to_score))
    rejected = dict.fromkeys(plan.to_score, 0)
    outcome = Outcome(plan, plan_of(survey, rejected), chunks, 4.0)
    figures = outcome.to_json()
    assert figures["predicted"]["sums"] == [5, 0, 6]
    assert (figures["images"], figures["rejected"], figures["images_per_s"]) == (11, 0, 11 / 4)
    assert figures["totals"] == outcome.totals
    assert figures["plan"] == plan.summary()
    told = outcome.chunks_to_json()
    assert [(chunk["shard"], chunk["first_row"]) for chunk in told] == [
        ("0.parquet", 0),
        ("0.parquet", 4),
        ("1.parquet", 0),
    ]
    assert "predicted" not in told[0]
    assert (told[0]["read_s"], told[0]["forward_s"], told[0]["write_s"]) == (1, 2, 3)


def test_a_run_that_scored_nothing_has_no_rate_and_no_sums():
    plan = plan_of(survey_of([[4]]), {})
    outcome = Outcome(plan, plan, (), 0.0)
    assert (outcome.images_per_s, outcome.predicted.num_images) == (0.0, 0)


def test_what_an_actor_says_is_the_same_after_a_round_trip_as_a_row():
    chunk = said(plan_of(survey_of([[4]]), {}).to_score[0], 1)
    assert ScoredChunk.from_row(chunk.to_row()) == chunk


def spent(read_s: float, forward_s: float, write_s: float) -> Outcome:
    [chunk] = plan_of(survey_of([[1]], 0), {}).to_score
    scored = replace(said(chunk, 0), read_s=read_s, forward_s=forward_s, write_s=write_s)
    plan = plan_of(survey_of([[1]], 0), {})
    return Outcome(plan, plan, (scored, scored), 1.0)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (
            (1, 8, 1),
            "more cores or GPUs would make it faster: of the workers' 20.0 s, 80% the network, "
            "10% writing scores, 10% waiting for images",
        ),
        ((3, 1, 0), "a nearer or faster store of the archive, or plain bytes"),
        ((0, 1, 9), "a nearer or faster store of the scores would make it faster: "),
        ((0, 0, 0), "nothing was scored"),
    ],
)
def test_the_bottleneck_is_what_took_most_of_the_time(times, said):
    assert spent(*times).bottleneck.startswith(said)
