from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.score_parts import Part, part_path, part_source
from digitsum.archive.shards import Archive, Shard
from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.options import ImageShape
from digitsum.scoring.plan import (
    BROKEN,
    BYTES_CHANGED,
    CURRENT,
    NOT_SCORED,
    ONLY_BY_OTHERS,
    OTHER_ROWS,
    REJECTED_BEFORE,
    SHARD_GONE,
    Decision,
    RejectedShard,
    ScorePlan,
    Survey,
    check_apart,
    check_shape,
    num_actors,
    plan_scores,
)
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate

MODEL = "a" * 64
SAME_NAME_MODEL = "a" * 16 + "b" * 48
SHAPE = ImageShape(16, 24)
PATHS = ["a.parquet", "a/b.parquet", "b.parquet", "day=1/a.parquet", "day=2/a.parquet"]

shards = st.builds(
    lambda path, size, mtime, rows: Shard(
        ListedFile(path, size, mtime), tuple(rows), SHAPE, "image_id"
    ),
    st.sampled_from(PATHS),
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.integers(0, 4), max_size=6),
)
archives = st.lists(shards, max_size=4, unique_by=lambda shard: shard.file.path).map(
    lambda found: archive(*sorted(found, key=lambda shard: shard.file.path))
)
chunk_sizes = st.integers(1, 9)
# What may lie where a chunk's part belongs; "absent" is nothing, "broken" cannot be read.
STATES = ["absent", "current", "broken", "other bytes", "other model", "other rows", "other shard"]
REASONS = {"absent": NOT_SCORED, "current": CURRENT, "broken": BROKEN}


ROOT = locate("/archive")


def archive(*found: Shard) -> Archive:
    return Archive(ROOT, found)


def shard(path: str, *rows: int, mtime: int = 1) -> Shard:
    return Shard(ListedFile(path, 100, mtime), rows, SHAPE, "image_id")


def chunks_of(archive: Archive, chunk_images: int) -> list[Chunk]:
    return [chunk for shard in archive.shards for chunk in plan_chunks(shard, chunk_images)]


def plan_of(archive: Archive, size: int, committed: dict[str, Part | None], **more) -> ScorePlan:
    return plan_scores(Survey(archive), MODEL, size, committed, **more)


def found_part(chunk: Chunk, state: str, num_rejected: int = 0) -> Part | None:
    source = part_source(chunk, MODEL)
    changes: dict[str, Any] = {
        "current": {},
        "other bytes": {"fingerprint": source.fingerprint + "0"},
        "other model": {"model_digest": SAME_NAME_MODEL},
        "other rows": {"first_row": source.first_row + 1},
        "other shard": {"shard": "c.parquet"},
    }
    return None if state == "broken" else Part(replace(source, **changes[state]), num_rejected)


def part_of(chunk: Chunk) -> str:
    return part_path(part_source(chunk, MODEL))


def carry_out(
    committed: dict[str, Part | None], chunks: tuple[Chunk, ...]
) -> dict[str, Part | None]:
    return committed | {part_of(chunk): Part(part_source(chunk, MODEL), 0) for chunk in chunks}


@given(archives, chunk_sizes, st.data())
def test_every_chunk_is_new_changed_or_done_by_what_lies_in_its_place(archive, size, data):
    chunks = chunks_of(archive, size)
    states = [data.draw(st.sampled_from(STATES)) for _ in chunks]
    rejected = [data.draw(st.integers(0, chunk.num_rows)) for chunk in chunks]
    committed = {
        part_of(chunk): found_part(chunk, state, num_rejected)
        for chunk, state, num_rejected in zip(chunks, states, rejected, strict=True)
        if state != "absent"
    }
    foreign = {f"model={MODEL[:16]}/gone/rows-{n}.parquet": None for n in range(data.draw(sizes))}
    plan = plan_of(archive, size, committed | foreign)

    def in_state(*wanted: str) -> tuple[Chunk, ...]:
        return tuple(c for c, state in zip(chunks, states, strict=True) if state in wanted)

    assert plan.chunks("new") == in_state("absent")
    assert plan.chunks("done") == in_state("current")
    assert plan.chunks("changed") == in_state(*STATES[2:])
    assert plan.chunks("new", "changed", "done") == tuple(chunks)
    assert plan.to_score == plan.chunks("new") + plan.chunks("changed")
    assert [decision.reason for decision in plan.decisions] == [
        REASONS.get(state, BYTES_CHANGED) for state in states
    ]
    assert [decision.num_rejected for decision in plan.decisions] == [
        num_rejected if state == "current" else 0
        for state, num_rejected in zip(states, rejected, strict=True)
    ]
    assert plan.num_images == archive.num_images
    assert plan.gone == dict.fromkeys(foreign, SHARD_GONE)
    assert plan.model_digest == MODEL


sizes = st.integers(0, 3)


@given(archives, chunk_sizes)
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(archive, size):
    first = plan_of(archive, size, {})
    assert first.chunks("new") == tuple(chunks_of(archive, size)) == first.to_score
    again = plan_of(archive, size, carry_out({}, first.to_score))
    done = tuple(Decision(chunk, "done", CURRENT) for chunk in first.to_score)
    assert again == ScorePlan(MODEL, done, {}, len(archive.shards))
    assert again.to_score == ()


@given(archives, chunk_sizes, st.data())
def test_after_a_run_that_was_killed_only_the_rest_is_planned(archive, size, data):
    new = plan_of(archive, size, {}).chunks("new")
    finished = data.draw(st.sets(st.sampled_from(new))) if new else set()
    again = plan_of(archive, size, carry_out({}, tuple(finished)))
    assert set(again.chunks("done")) == finished
    assert again.chunks("new") == tuple(chunk for chunk in new if chunk not in finished)
    assert again.chunks("changed") == ()
    assert again.gone == {}


@given(archives, archives, chunk_sizes, chunk_sizes)
def test_an_archive_that_changed_comes_to_the_parts_of_a_first_run(before, after, size, new_size):
    committed = carry_out({}, plan_of(before, size, {}).to_score)
    plan = plan_of(after, new_size, committed)
    left = {path: part for path, part in committed.items() if path not in plan.gone}
    assert carry_out(left, plan.to_score) == carry_out({}, tuple(chunks_of(after, new_size)))


def test_of_a_shard_that_changed_all_chunks_are_changed_and_no_others():
    before = archive(shard("a.parquet", 4, 4), shard("b.parquet", 4))
    committed = carry_out({}, plan_of(before, 4, {}).to_score)
    after = archive(shard("a.parquet", 4, 4, mtime=2), shard("b.parquet", 4))
    plan = plan_of(after, 4, committed)
    assert [(chunk.shard, chunk.first_row) for chunk in plan.chunks("changed")] == [
        ("a.parquet", 0),
        ("a.parquet", 4),
    ]
    assert [chunk.shard for chunk in plan.chunks("done")] == ["b.parquet"]
    assert plan.chunks("new") == ()
    assert plan.gone == {}


def test_parts_of_rows_and_shards_that_vanished_are_gone_each_for_its_reason():
    before = archive(shard("a.parquet", 4, 4), shard("b.parquet", 4))
    committed = carry_out({}, plan_of(before, 4, {}).to_score)
    plan = plan_of(archive(shard("a.parquet", 4)), 4, committed)
    assert plan.gone == {
        f"model={MODEL[:16]}/a/rows-000000000004-000000000008.parquet": OTHER_ROWS,
        f"model={MODEL[:16]}/b/rows-000000000000-000000000004.parquet": SHARD_GONE,
    }
    assert [chunk.first_row for chunk in plan.chunks("changed")] == [0]  # it has other bytes


def test_parts_of_a_shard_that_cannot_be_read_stay_where_they_are():
    before = archive(shard("a.parquet", 4, 4), shard("a/b.parquet", 4), shard("c.parquet", 4))
    committed = carry_out({}, plan_of(before, 4, {}).to_score)
    rejected = (RejectedShard("a.parquet", "not a whole Parquet file"),)
    survey = Survey(archive(before.shards[2]), rejected)
    plan = plan_scores(survey, MODEL, 4, committed)
    assert [chunk.shard for chunk in plan.chunks("done")] == ["c.parquet"]
    assert plan.to_score == ()
    # Of a.parquet nothing is gone; a/b.parquet, whose parts lie deeper, is.
    assert plan.gone == {part_of(chunks_of(archive(before.shards[1]), 4)[0]): SHARD_GONE}
    assert plan.rejected == rejected


@given(archives, chunk_sizes, st.data())
def test_rejected_rows_are_scored_again_only_where_that_is_asked(archive, size, data):
    chunks = chunks_of(archive, size)
    rejected = [data.draw(st.integers(0, chunk.num_rows)) for chunk in chunks]
    committed = {
        part_of(chunk): found_part(chunk, "current", number)
        for chunk, number in zip(chunks, rejected, strict=True)
    }
    assert plan_of(archive, size, committed).chunks("done") == tuple(chunks)
    plan = plan_of(archive, size, committed, retry_rejected=True)
    assert plan.to_score == tuple(c for c, number in zip(chunks, rejected, strict=True) if number)
    assert {d.reason for d in plan.decisions if d.decided != "done"} <= {REJECTED_BEFORE}


def test_what_other_models_scored_bears_on_reasons_only():
    found = archive(shard("a.parquet", 4, 4), shard("b.parquet", 4))
    chunks = chunks_of(found, 4)
    committed = carry_out({}, (chunks[2],))
    others = {part_of(chunk).partition("/")[2] for chunk in (chunks[0], chunks[2])}
    plan = plan_of(found, 4, committed, by_other_models=others)
    assert [decision.reason for decision in plan.decisions] == [ONLY_BY_OTHERS, NOT_SCORED, CURRENT]
    assert replace(plan, decisions=()) == replace(plan_of(found, 4, committed), decisions=())
    assert plan.to_score == plan_of(found, 4, committed).to_score


def test_the_summary_counts_chunks_and_images_by_decision_and_reason():
    before = archive(shard("a.parquet", 4, 3))
    committed = carry_out({}, plan_of(before, 4, {}).to_score)
    committed[f"model={MODEL[:16]}/gone.parquet"] = None
    committed[part_of(chunks_of(before, 4)[1])] = None
    after = archive(*before.shards, shard("b.parquet", 5, 5, 1))
    rejected = (RejectedShard("c.parquet", "broken"), RejectedShard("d.parquet", "broken"))
    plan = plan_scores(Survey(after, rejected), MODEL, 4, committed)

    def counted(reason: str, chunks: int, images: int) -> dict:
        counts = {"chunks": chunks, "images": images}
        return counts | {"reasons": {reason: counts}}

    assert plan.summary() == {
        "new": counted(NOT_SCORED, 3, 11),
        "changed": counted(BROKEN, 1, 3),
        "done": counted(CURRENT, 1, 4),
        "gone": {"chunks": 1, "reasons": {SHARD_GONE: {"chunks": 1}}},
        "rejected": {"shards": 2, "reasons": {"broken": {"shards": 2}}},
    }


def shaped(path: str, height: int, width: int) -> Shard:
    return replace(shard(path, 4), shape=ImageShape(height, width))


def test_shards_of_another_shape_than_the_baselines_are_refused_by_their_path():
    network = BaselineNetwork(BaselineConfig(SHAPE.height, SHAPE.width, 2))
    check_shape(ROOT, shard("a.parquet", 4), network, None)
    with pytest.raises(InputError, match=r"/archive/b\.parquet: images are 16x32.*16x24"):
        check_shape(ROOT, shaped("b.parquet", 16, 32), network, None)


def test_shards_that_a_counter_does_not_read_are_refused_by_their_path():
    network = CounterNetwork(CounterConfig(SHAPE.height, SHAPE.width))
    for width in (16, 4096):
        check_shape(ROOT, shaped("a.parquet", 16, width), network, None)
    for height, width in ((16, 15), (16, 4097), (15, 24), (17, 24)):
        said = rf"/archive/b\.parquet: images are {height}x{width}.* 16 pixels high and 16 to 4096"
        with pytest.raises(InputError, match=said):
            check_shape(ROOT, shaped("b.parquet", height, width), network, None)


def test_shards_too_narrow_for_the_digits_that_they_are_said_to_hold_are_refused():
    network = CounterNetwork(CounterConfig(SHAPE.height, SHAPE.width))
    check_shape(ROOT, shaped("a.parquet", 16, 400), network, 6)
    check_shape(ROOT, shaped("b.parquet", 16, 18), network, 5)
    with pytest.raises(InputError, match="--known-count 6: images of 16x18 hold 1 to 5 digits"):
        check_shape(ROOT, shaped("b.parquet", 16, 18), network, 6)


@given(
    st.none() | st.integers(1, 50),
    st.integers(1, 20),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_a_pool_of_actors_stays_within_its_bounds(wanted, least, room, growth, num_chunks):
    if wanted is not None:
        wanted = max(wanted, least)  # the options see to it
    initial, greatest = num_actors(wanted, least, room, room + growth, num_chunks)
    assert least <= initial <= greatest
    assert initial <= max(room, least)
    assert greatest <= max(num_chunks, least)
    if wanted is not None:
        assert greatest == max(min(wanted, num_chunks), least)
    elif num_chunks >= room + growth >= least:
        assert greatest == room + growth  # all that the cluster can become is used


@pytest.mark.parametrize("scores", ["/a/archive", "/a/archive/scores", "/a/archive/b/c"])
def test_scores_among_the_shards_are_refused(scores):
    with pytest.raises(InputError, match="lies within the archive"):
        check_apart(locate("/a/archive"), locate(scores))


@pytest.mark.parametrize(
    "scores", ["/a/archive2", "/a", "/a/scores", "/a/archive/_scores", "/a/archive/.s/x"]
)
def test_scores_beside_the_shards_are_accepted(scores):
    check_apart(locate("/a/archive"), locate(scores))
