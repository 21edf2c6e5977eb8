from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.location import locate
from digitsum.archive.schema import ImageShape
from digitsum.archive.scores import PartSource, part_path, part_source
from digitsum.archive.shards import Archive, Chunk, Shard, ShardFile, plan_chunks
from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterNetwork
from digitsum.model.counter_config import CounterConfig
from digitsum.scoring.plan import (
    ScorePlan,
    check_apart,
    check_shapes,
    num_actors,
    plan_scores,
)

MODEL = "a" * 64
SAME_NAME_MODEL = "a" * 16 + "b" * 48
SHAPE = ImageShape(16, 24)
PATHS = ["a.parquet", "a/b.parquet", "b.parquet", "day=1/a.parquet", "day=2/a.parquet"]

shards = st.builds(
    lambda path, size, mtime, rows: Shard(
        ShardFile(path, size, mtime), tuple(rows), SHAPE, "image_id"
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


def archive(*found: Shard) -> Archive:
    return Archive(locate("/archive"), found)


def shard(path: str, *rows: int, mtime: int = 1) -> Shard:
    return Shard(ShardFile(path, 100, mtime), rows, SHAPE, "image_id")


def chunks_of(archive: Archive, chunk_images: int) -> list[Chunk]:
    return [chunk for shard in archive.shards for chunk in plan_chunks(shard, chunk_images)]


def found_part(chunk: Chunk, state: str) -> PartSource | None:
    source = part_source(chunk, MODEL)
    changes: dict[str, Any] = {
        "current": {},
        "other bytes": {"fingerprint": source.fingerprint + "0"},
        "other model": {"model_digest": SAME_NAME_MODEL},
        "other rows": {"first_row": source.first_row + 1},
        "other shard": {"shard": "c.parquet"},
    }
    return None if state == "broken" else replace(source, **changes[state])


def part_of(chunk: Chunk) -> str:
    return part_path(part_source(chunk, MODEL))


def carry_out(
    committed: dict[str, PartSource | None], chunks: tuple[Chunk, ...]
) -> dict[str, PartSource | None]:
    return committed | {part_of(chunk): part_source(chunk, MODEL) for chunk in chunks}


@given(archives, chunk_sizes, st.data())
def test_every_chunk_is_new_changed_or_done_by_what_lies_in_its_place(archive, size, data):
    chunks = chunks_of(archive, size)
    states = [data.draw(st.sampled_from(STATES)) for _ in chunks]
    committed = {
        part_of(chunk): found_part(chunk, state)
        for chunk, state in zip(chunks, states, strict=True)
        if state != "absent"
    }
    foreign = {f"model={MODEL[:16]}/gone/rows-{n}.parquet": None for n in range(data.draw(sizes))}
    plan = plan_scores(archive, MODEL, size, committed | foreign)

    def in_state(*wanted: str) -> tuple[Chunk, ...]:
        return tuple(c for c, state in zip(chunks, states, strict=True) if state in wanted)

    assert plan.new == in_state("absent")
    assert plan.done == in_state("current")
    assert plan.changed == in_state(*STATES[2:])
    assert set(plan.to_score) | set(plan.done) == set(chunks)
    assert len(plan.to_score) + len(plan.done) == len(chunks)
    assert plan.gone == tuple(sorted(foreign))
    assert plan.model_digest == MODEL


sizes = st.integers(0, 3)


@given(archives, chunk_sizes)
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(archive, size):
    first = plan_scores(archive, MODEL, size, {})
    assert first.new == tuple(chunks_of(archive, size))
    again = plan_scores(archive, MODEL, size, carry_out({}, first.to_score))
    assert again == ScorePlan(MODEL, (), (), first.new, ())


@given(archives, chunk_sizes, st.data())
def test_after_a_run_that_was_killed_only_the_rest_is_planned(archive, size, data):
    first = plan_scores(archive, MODEL, size, {})
    finished = data.draw(st.sets(st.sampled_from(first.new))) if first.new else set()
    again = plan_scores(archive, MODEL, size, carry_out({}, tuple(finished)))
    assert set(again.done) == finished
    assert again.new == tuple(chunk for chunk in first.new if chunk not in finished)
    assert again.changed == again.gone == ()


@given(archives, archives, chunk_sizes, chunk_sizes)
def test_an_archive_that_changed_comes_to_the_parts_of_a_first_run(before, after, size, new_size):
    committed = carry_out({}, plan_scores(before, MODEL, size, {}).to_score)
    plan = plan_scores(after, MODEL, new_size, committed)
    left = {path: source for path, source in committed.items() if path not in plan.gone}
    assert carry_out(left, plan.to_score) == carry_out({}, tuple(chunks_of(after, new_size)))


def test_of_a_shard_that_changed_all_chunks_are_changed_and_no_others():
    before = archive(shard("a.parquet", 4, 4), shard("b.parquet", 4))
    committed = carry_out({}, plan_scores(before, MODEL, 4, {}).to_score)
    after = archive(shard("a.parquet", 4, 4, mtime=2), shard("b.parquet", 4))
    plan = plan_scores(after, MODEL, 4, committed)
    assert [(chunk.shard, chunk.first_row) for chunk in plan.changed] == [
        ("a.parquet", 0),
        ("a.parquet", 4),
    ]
    assert [chunk.shard for chunk in plan.done] == ["b.parquet"]
    assert plan.new == plan.gone == ()


def test_parts_of_rows_and_shards_that_vanished_are_gone():
    before = archive(shard("a.parquet", 4, 4), shard("b.parquet", 4))
    committed = carry_out({}, plan_scores(before, MODEL, 4, {}).to_score)
    plan = plan_scores(archive(shard("a.parquet", 4)), MODEL, 4, committed)
    assert plan.gone == (
        f"model={MODEL[:16]}/a/rows-000000000004-000000000008.parquet",
        f"model={MODEL[:16]}/b/rows-000000000000-000000000004.parquet",
    )
    assert [chunk.first_row for chunk in plan.changed] == [0]  # the shard has other bytes


def test_the_summary_counts_chunks_and_images():
    before = archive(shard("a.parquet", 4, 3))
    committed = carry_out({}, plan_scores(before, MODEL, 4, {}).to_score)
    committed[f"model={MODEL[:16]}/gone.parquet"] = None
    committed[part_of(chunks_of(before, 4)[1])] = None
    after = archive(*before.shards, shard("b.parquet", 5, 5, 1))
    assert plan_scores(after, MODEL, 4, committed).summary() == {
        "new": {"chunks": 3, "images": 11},
        "changed": {"chunks": 1, "images": 3},
        "done": {"chunks": 1, "images": 4},
        "gone": {"chunks": 1},
    }


def shaped(path: str, height: int, width: int) -> Shard:
    return replace(shard(path, 4), shape=ImageShape(height, width))


def test_shards_of_another_shape_than_the_baselines_are_refused_by_their_path():
    network = BaselineNetwork(BaselineConfig(SHAPE.height, SHAPE.width, 2))
    check_shapes(archive(shard("a.parquet", 4)), network, None)
    check_shapes(archive(), network, None)
    with pytest.raises(InputError, match=r"/archive: b\.parquet: images are 16x32.*16x24"):
        check_shapes(archive(shard("a.parquet", 4), shaped("b.parquet", 16, 32)), network, None)


def test_shards_that_a_counter_does_not_read_are_refused_by_their_path():
    network = CounterNetwork(CounterConfig(SHAPE.height, SHAPE.width))
    read = archive(shaped("a.parquet", 16, 16), shaped("b.parquet", 16, 4096))
    check_shapes(read, network, None)
    for height, width in ((16, 15), (16, 4097), (15, 24), (17, 24)):
        said = rf"/archive: b\.parquet: images are {height}x{width}.* 16 pixels high and 16 to 4096"
        with pytest.raises(InputError, match=said):
            check_shapes(
                archive(shard("a.parquet"), shaped("b.parquet", height, width)), network, None
            )


def test_shards_too_narrow_for_the_digits_that_they_are_said_to_hold_are_refused():
    network = CounterNetwork(CounterConfig(SHAPE.height, SHAPE.width))
    found = archive(shaped("a.parquet", 16, 400), shaped("b.parquet", 16, 18))
    check_shapes(found, network, 5)
    with pytest.raises(InputError, match="--digits 6: images of 16x18 hold 1 to 5 digits"):
        check_shapes(found, network, 6)


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
