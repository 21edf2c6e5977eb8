from dataclasses import replace

import pytest
from factories import make_shard
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.score_parts import Part, part_path
from digitsum.archive.shards import Archive, Shard
from digitsum.manifest import parse_json, to_json
from digitsum.options import ImageShape
from digitsum.scoring.plan import (
    BROKEN,
    BYTES_CHANGED,
    NOT_SCORED,
    ONLY_BY_OTHERS,
    OTHER_ROWS,
    REJECTED_BEFORE,
    SHARD_GONE,
    UNCHANGED,
    Decision,
    PlanSummary,
    ScorePlan,
    Survey,
    plan_scores,
)
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate

MODEL = "a" * 64
SAME_NAME_MODEL = "a" * 16 + "b" * 48
PATHS = ["a.parquet", "a/b.parquet", "b.parquet", "day=1/a.parquet", "day=2/a.parquet"]

shards = st.builds(
    lambda path, size, mtime, rows: Shard(
        ListedFile(path, size, mtime), tuple(rows), ImageShape(16, 24), "image_id"
    ),
    st.sampled_from(PATHS),
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.integers(0, 4), max_size=6),
)
archives = st.lists(shards, max_size=4, unique_by=lambda shard: shard.file.path).map(
    lambda found: sorted(found, key=lambda shard: shard.file.path)
)
chunk_sizes = st.integers(1, 9)
# Contents of the place of a chunk's part: nothing, a file that cannot be read, or a part.
STATES = ["absent", "current", "broken", "other bytes", "other model", "other rows", "other shard"]
REASONS = {"absent": NOT_SCORED, "current": UNCHANGED, "broken": BROKEN}
Committed = dict[str, Part | None]


def plan(shards: list[Shard], size: int = 4, committed: Committed | None = None, **options):
    survey = Survey(Archive(locate("/archive"), tuple(shards)), options.pop("rejected", {}))
    return plan_scores(survey, MODEL, size, committed or {}, **options)


def chunks_of(shards: list[Shard], size: int = 4) -> list[Chunk]:
    return [chunk for shard in shards for chunk in plan_chunks(shard, size)]


def part_of(chunk: Chunk, state: str = "current", num_rejected: int = 0) -> Part | None:
    fingerprint = chunk.id.fingerprint
    changes = {
        "other bytes": {"fingerprint": replace(fingerprint, size_bytes=7)},
        "other rows": {"first_row": chunk.first_row + 1},
        "other shard": {"shard": "c.parquet"},
    }
    model = SAME_NAME_MODEL if state == "other model" else MODEL
    part = Part(model, replace(chunk.id, **changes.get(state, {})), num_rejected)
    return None if state == "broken" else part


def path_of(chunk: Chunk) -> str:
    return part_path(MODEL, chunk.id)


def carry_out(plan: ScorePlan, committed: Committed | None = None) -> Committed:
    """Return what is committed after a run: the plan's new parts, and not those that are gone."""
    left = {path: part for path, part in (committed or {}).items() if path not in plan.gone}
    return left | {path_of(chunk): part_of(chunk) for chunk in plan.to_score}


@given(archives, chunk_sizes, st.data())
def test_plan_by_what_is_committed(archive, size, data):
    chunks = chunks_of(archive, size)
    states = [data.draw(st.sampled_from(STATES)) for _ in chunks]
    rejected = [data.draw(st.integers(0, chunk.num_rows)) for chunk in chunks]
    known = list(zip(chunks, states, rejected, strict=True))
    committed = {path_of(c): part_of(c, state, n) for c, state, n in known if state != "absent"}
    num_foreign = data.draw(st.integers(0, 3))
    foreign = {f"model={MODEL[:16]}/gone/rows-{n}.parquet": None for n in range(num_foreign)}
    found = plan(archive, size, committed | foreign)

    def in_state(*wanted: str) -> tuple[Chunk, ...]:
        return tuple(chunk for chunk, state, _ in known if state in wanted)

    assert found.chunks("new") == in_state("absent")
    assert found.chunks("done") == in_state("current")
    assert found.chunks("changed") == in_state(*STATES[2:])
    assert found.chunks("new", "changed", "done") == tuple(chunks)
    assert found.to_score == found.chunks("new") + found.chunks("changed")
    assert found.num_to_score == sum(chunk.num_rows for chunk in found.to_score)
    assert [d.reason for d in found.decisions] == [REASONS.get(s, BYTES_CHANGED) for s in states]
    assert [d.num_rejected for d in found.decisions] == [
        num_rejected if state == "current" else 0 for _, state, num_rejected in known
    ]
    assert found.num_images == sum(shard.num_rows for shard in archive)
    assert found.gone == dict.fromkeys(foreign, SHARD_GONE)
    assert found.model_digest == MODEL


@given(archives, chunk_sizes)
def test_plan_after_a_run_is_done(archive, size):
    first = plan(archive, size)
    assert first.chunks("new") == tuple(chunks_of(archive, size)) == first.to_score
    again = plan(archive, size, carry_out(first))
    done = tuple(Decision(chunk, "done", UNCHANGED) for chunk in first.to_score)
    assert again == ScorePlan(MODEL, done, {}, len(archive), {})
    assert again.to_score == ()


@given(archives, chunk_sizes, st.data())
def test_plan_after_a_killed_run(archive, size, data):
    new = plan(archive, size).to_score
    finished = data.draw(st.sets(st.sampled_from(new))) if new else set()
    again = plan(archive, size, {path_of(chunk): part_of(chunk) for chunk in finished})
    assert set(again.chunks("done")) == finished
    assert again.to_score == again.chunks("new") == tuple(c for c in new if c not in finished)
    assert again.gone == {}


@given(archives, archives, chunk_sizes, chunk_sizes)
def test_plan_ends_as_a_first_run(before, after, size, new_size):
    committed = carry_out(plan(before, size))
    found = carry_out(plan(after, new_size, committed), committed)
    assert found == carry_out(plan(after, new_size))


def test_plan_changed_shard():
    committed = carry_out(plan([make_shard("a.parquet", 4, 4), make_shard("b.parquet", 4)]))
    after = [make_shard("a.parquet", 4, 4, mtime_ns=2), make_shard("b.parquet", 4)]
    found = plan(after, 4, committed)
    changed = [(chunk.shard, chunk.first_row) for chunk in found.chunks("changed")]
    assert changed == [("a.parquet", 0), ("a.parquet", 4)]
    assert [chunk.shard for chunk in found.chunks("done")] == ["b.parquet"]
    assert (found.chunks("new"), found.gone) == ((), {})


def test_plan_gone_rows_and_shards():
    committed = carry_out(plan([make_shard("a.parquet", 4, 4), make_shard("b.parquet", 4)]))
    found = plan([make_shard("a.parquet", 4)], 4, committed)
    assert found.gone == {
        f"model={MODEL[:16]}/a/rows-000000000004-000000000008.parquet": OTHER_ROWS,
        f"model={MODEL[:16]}/b/rows-000000000000-000000000004.parquet": SHARD_GONE,
    }
    assert [chunk.first_row for chunk in found.chunks("changed")] == [0]  # it has other bytes


def test_plan_rejected_shard_keeps_parts():
    before = [
        make_shard("a.parquet", 4, 4),
        make_shard("a/b.parquet", 4),
        make_shard("c.parquet", 4),
    ]
    committed = carry_out(plan(before))
    rejected = {"a.parquet": "not a whole Parquet file"}
    found = plan(before[2:], 4, committed, rejected=rejected)
    assert [chunk.shard for chunk in found.chunks("done")] == ["c.parquet"]
    assert (found.to_score, found.rejected, found.num_shards) == ((), rejected, 2)
    # The parts of a.parquet stay; those of a/b.parquet, which lie deeper, are gone.
    assert found.gone == {path_of(chunks_of(before[1:2])[0]): SHARD_GONE}


def test_plan_of_one_shard_keeps_other_parts():
    before = [make_shard("a.parquet", 4, 4), make_shard("b.parquet", 4)]
    committed = carry_out(plan(before))
    survey = Survey(Archive(locate("/archive"), (make_shard("a.parquet", 4),)), {}, is_whole=False)
    found = plan_scores(survey, MODEL, 4, committed)
    assert found.gone == {path_of(chunks_of(before)[1]): OTHER_ROWS}


@given(archives, chunk_sizes, st.data())
def test_plan_retry_rejected(archive, size, data):
    chunks = chunks_of(archive, size)
    rejected = [data.draw(st.integers(0, chunk.num_rows)) for chunk in chunks]
    committed = {
        path_of(chunk): part_of(chunk, "current", number)
        for chunk, number in zip(chunks, rejected, strict=True)
    }
    assert plan(archive, size, committed).chunks("done") == tuple(chunks)
    found = plan(archive, size, committed, retry_rejected=True)
    assert found.to_score == tuple(c for c, number in zip(chunks, rejected, strict=True) if number)
    assert {d.reason for d in found.decisions if d.decided != "done"} <= {REJECTED_BEFORE}
    assert all(decision.has_scores for decision in found.decisions)
    assert [decision.num_rejected for decision in found.decisions] == rejected


def test_plan_scored_by_others():
    archive = [make_shard("a.parquet", 4, 4), make_shard("b.parquet", 4)]
    chunks = chunks_of(archive)
    committed: Committed = {path_of(chunks[2]): part_of(chunks[2])}
    others = {path_of(chunk).partition("/")[2] for chunk in (chunks[0], chunks[2])}
    calls = []
    found = plan(archive, 4, committed, list_others=lambda: calls.append(1) or others)
    assert [d.reason for d in found.decisions] == [ONLY_BY_OTHERS, NOT_SCORED, UNCHANGED]
    assert replace(found, decisions=()) == replace(plan(archive, 4, committed), decisions=())
    assert found.to_score == plan(archive, 4, committed).to_score
    assert len(calls) == 1
    committed |= {path_of(chunk): part_of(chunk) for chunk in chunks}
    plan(archive, 4, committed, list_others=lambda: pytest.fail("listed, and nothing is new"))


def test_summary_by_decision_and_reason():
    before = [make_shard("a.parquet", 4, 3)]
    committed = carry_out(plan(before))
    committed[f"model={MODEL[:16]}/gone.parquet"] = None
    committed[path_of(chunks_of(before)[1])] = None
    rejected = {"c.parquet": "broken", "d.parquet": "broken"}
    after = [*before, make_shard("b.parquet", 5, 5, 1)]
    summary = plan(after, 4, committed, rejected=rejected).summary()
    assert summary.lines() == [
        "new                  3 chunks          11 images",
        f"{'':10}           3 chunks          11 images  {NOT_SCORED}",
        "changed              1 chunks           3 images",
        f"{'':10}           1 chunks           3 images  {BROKEN}",
        "done                 1 chunks           4 images",
        f"{'':10}           1 chunks           4 images  {UNCHANGED}",
        "gone                 1 parts",
        f"{'':10}           1 parts  {SHARD_GONE}",
        "rejected             2 shards",
        f"{'':10}           2 shards  broken",
    ]
    assert parse_json(PlanSummary, to_json(summary), "plan.json") == summary
