from itertools import islice

import pytest
from rounds import BLOCK_ROUNDS, MOST_DAMAGED, Act, Kill, Way, rounds

SEEDS = range(10)


@pytest.mark.parametrize("seed", SEEDS)
def test_rounds_block_has_all_ways(seed):
    drawn = list(islice(rounds(seed), 6 * BLOCK_ROUNDS))
    assert [this.number for this in drawn] == list(range(len(drawn)))
    for first in range(0, len(drawn), BLOCK_ROUNDS):
        block = drawn[first : first + BLOCK_ROUNDS]
        assert {this.way for this in block} == set(Way)
        assert {this.kill for this in block} == {None, *Kill}
    on_ray = {this.kill for this in drawn if this.way is Way.COMMAND_RAY}
    assert on_ray == {None, *Kill}


@pytest.mark.parametrize("seed", SEEDS)
def test_rounds_changes_are_possible(seed):
    whole, damaged, sizes, acts = set(), set(), [], set()
    for this in islice(rounds(seed), 300):
        touched = [change.shard for change in this.changes]
        assert len(touched) == len(set(touched))
        for change in this.changes:
            acts.add(change.act)
            if change.act is Act.ADD:
                assert change.shard not in whole | damaged
                whole.add(change.shard)
            elif change.act is Act.REPAIR:
                damaged.remove(change.shard)
                whole.add(change.shard)
            else:
                assert change.shard in whole
                if change.act is not Act.REPLACE:
                    whole.remove(change.shard)
                if change.act is Act.DAMAGE:
                    damaged.add(change.shard)
        assert len(damaged) <= MOST_DAMAGED
        assert len(damaged) < 0.6 * len(whole | damaged), "the soak allows 60% to be rejected"
        sizes.append(len(whole))
    assert acts == set(Act)
    assert sizes[-1] > sizes[149] > sizes[0]


def test_rounds_follow_seed():
    assert list(islice(rounds(3), 100)) == list(islice(rounds(3), 100))
    assert list(islice(rounds(3), 100)) != list(islice(rounds(4), 100))
