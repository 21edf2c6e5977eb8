"""The rounds of a soak, drawn from a seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import count

SHARDS_AT_FIRST = 4
MOST_DAMAGED = 2
FEWEST_SHARDS = 4


class Way(Enum):
    """The process that scores: one that lives on, or a command that starts and ends."""

    LIVING_THREADS = "living, threads"
    LIVING_RAY = "living, Ray"
    COMMAND_THREADS = "command, threads"
    COMMAND_RAY = "command, Ray"


class Kill(Enum):
    DRIVER = "driver"
    ACTOR = "actor"


class Act(Enum):
    ADD = "add"
    REPLACE = "replace"
    DAMAGE = "damage"
    """Of a whole shard."""
    REPAIR = "repair"
    REMOVE = "remove"


@dataclass(frozen=True)
class Change:
    """A change to a shard before a round."""

    act: Act
    shard: int


@dataclass(frozen=True)
class Round:
    number: int
    way: Way
    kill: Kill | None
    delay: float
    """Moment of the kill, as a fraction of the time there is for it."""
    changes: tuple[Change, ...]


# Rounds of commands take many times as long as those of a living process, which alone can leak.
_BLOCK = (
    *[(Way.LIVING_THREADS, None)] * 8,
    *[(Way.LIVING_RAY, None)] * 7,
    (Way.LIVING_RAY, Kill.ACTOR),
    (Way.COMMAND_THREADS, Kill.DRIVER),
)
# Of these, one a block, in turns.
_ON_RAY = ((Way.COMMAND_RAY, Kill.DRIVER), (Way.COMMAND_RAY, Kill.ACTOR), (Way.COMMAND_RAY, None))
BLOCK_ROUNDS = len(_BLOCK) + 1
"""Rounds in which each way occurs, and each kill except those of commands on Ray."""


def rounds(seed: int) -> Iterator[Round]:
    """Yield rounds without end; the same ones for the same seed."""
    rng = random.Random(seed)
    whole: set[int] = set()
    damaged: set[int] = set()
    next_shard = number = 0
    for block in count():
        ways = [*_BLOCK, _ON_RAY[block % len(_ON_RAY)]]
        rng.shuffle(ways)
        for way, kill in ways:
            num_added = rng.randint(1, 2) if number else SHARDS_AT_FIRST
            num_added += 4 if kill else 0  # so that there is time to kill
            added = list(range(next_shard, next_shard + num_added))
            next_shard += num_added
            changes = [Change(Act.ADD, shard) for shard in added]
            changes += _old_shard_changes(rng, whole, damaged)
            whole.update(added)
            yield Round(number, way, kill, rng.random(), tuple(changes))
            number += 1


def _old_shard_changes(rng: random.Random, whole: set[int], damaged: set[int]) -> Iterator[Change]:
    """Yield changes to present shards, each at most once."""
    free = sorted(whole)
    rng.shuffle(free)
    if free:
        yield Change(Act.REPLACE, free.pop())
    if damaged and rng.random() < 0.5:
        shard = rng.choice(sorted(damaged))
        damaged.remove(shard)
        whole.add(shard)
        yield Change(Act.REPAIR, shard)
    elif free and len(damaged) < MOST_DAMAGED and rng.random() < 0.3:
        shard = free.pop()
        whole.remove(shard)
        damaged.add(shard)
        yield Change(Act.DAMAGE, shard)
    if len(free) > FEWEST_SHARDS and rng.random() < 0.3:
        shard = free.pop()
        whole.remove(shard)
        yield Change(Act.REMOVE, shard)
