import dataclasses
import json

import pytest

from digitsum.archive.schema import ReadOptions
from digitsum.errors import InputError
from digitsum.training.config import RESUMABLE_CHANGES, TrainConfig

CONFIG = TrainConfig(archive="archive", bundle="bundle")


@pytest.mark.parametrize(
    "options",
    [
        {"validation_fraction": 0.0},
        {"validation_fraction": 1.0},
        {"validation_fraction": -0.1},
        {"validation_fraction": float("nan")},
        {"digits": 0},
        {"epochs": 0},
        {"batch_size": 0},
        {"shuffle_buffer_images": 0},
        {"workers": 0},
        {"workers": -1},
        {"batch_size": 64, "workers": 3},
        {"batch_size": 2, "workers": 4},
        {"learning_rate": 0.0},
        {"learning_rate": -1e-3},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"seed": -1},
        {"seed": 2**64},
        {"max_failures": -1},
        {"cpus_per_worker": 0.0},
        {"cpus_per_worker": -1.0},
        {"cpus_per_worker": float("nan")},
        {"name": ""},
        {"name": ".."},
        {"name": ".hidden"},
        {"name": "a/b"},
        {"name": "-a"},
        {"name": "two words"},
        {"name": "line\n"},
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused_by_their_name(options):
    (option, *_) = options
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')}"):
        TrainConfig(archive="archive", bundle="bundle", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"validation_fraction": 0.001},
        {"validation_fraction": 0.999},
        {"batch_size": 1, "workers": 1},
        {"batch_size": 6, "workers": 3},
        {"seed": 0, "max_failures": 0},
        {"seed": 2**64 - 1},
        {"cpus_per_worker": 0.01},
        {"name": "a"},
        {"name": "2026-01-31_ä.b"},
        {"name": "_a"},
    ],
    ids=str,
)
def test_options_at_their_bounds_are_taken(options):
    config = TrainConfig(archive="archive", bundle="bundle", **options)
    assert {option: getattr(config, option) for option in options} == options


def test_what_a_resumed_run_may_change_are_options():
    assert {field.name for field in dataclasses.fields(TrainConfig)} >= RESUMABLE_CHANGES


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": "other"},
        {"epochs": 99},
        {"workers": 2},
        {"use_gpu": True},
        {"cpus_per_worker": 0.5},
        {"max_failures": 0},
        {"name": "other"},
        {"runs": "other"},
    ],
    ids=str,
)
def test_where_and_how_long_a_run_goes_on_is_not_what_it_learns_from(change):
    assert dataclasses.replace(CONFIG, **change).learned_from() == CONFIG.learned_from()


@pytest.mark.parametrize(
    "change",
    [
        {"archive": "other"},
        {"validation": "other"},
        {"validation_fraction": 0.3},
        {"digits": 3},
        {"batch_size": 32},
        {"learning_rate": 0.01},
        {"seed": 1},
        {"precision": "bf16"},
        {"shuffle_buffer_images": 1},
        {"read": ReadOptions(image_column="pixels")},
        {"read": ReadOptions(height=40, width=168)},
    ],
    ids=str,
)
def test_what_a_run_learns_from_is_recorded_as_json_holds_it(change):
    recorded = dataclasses.replace(CONFIG, **change).learned_from()
    assert recorded != CONFIG.learned_from()
    assert json.loads(json.dumps(recorded, allow_nan=False)) == recorded
    assert not set(recorded) & RESUMABLE_CHANGES
