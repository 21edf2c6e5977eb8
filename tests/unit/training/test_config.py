import dataclasses
import json

import pytest

from digitsum.errors import InputError
from digitsum.options import ReadOptions
from digitsum.training.config import RESUMABLE_CHANGES, TrainConfig

CONFIG = TrainConfig(archive="archive", out="model")
# The number of epochs may change where the step size does not follow it.
BASELINE = TrainConfig(archive="archive", out="model", network="baseline")


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
        TrainConfig(archive="archive", out="model", **options)


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
    config = TrainConfig(archive="archive", out="model", **options)
    assert {option: getattr(config, option) for option in options} == options


def test_what_a_resumed_run_may_change_are_options():
    assert {field.name for field in dataclasses.fields(TrainConfig)} >= RESUMABLE_CHANGES


def _follows_epochs(change):
    return change in ({"network": "counter"}, {"distortion": 0.5})


@pytest.mark.parametrize(
    "change",
    [
        {"out": "other"},
        {"workers": 2},
        {"use_gpu": True},
        {"cpus_per_worker": 0.5},
        {"max_failures": 0},
        {"cascade_below": 0.25},
        {"name": "other"},
        {"runs": "other"},
    ],
    ids=str,
)
@pytest.mark.parametrize("config", [CONFIG, BASELINE], ids=["counter", "baseline"])
def test_where_a_run_goes_on_is_not_what_it_learns_from(config, change):
    assert dataclasses.replace(config, **change).learned_from() == config.learned_from()


def test_how_long_a_run_goes_on_is_what_it_learns_from_only_where_the_step_size_follows_it():
    longer = dataclasses.replace(BASELINE, epochs=99)
    assert longer.learned_from() == BASELINE.learned_from()
    longer = dataclasses.replace(CONFIG, epochs=99)
    assert longer.learned_from() == CONFIG.learned_from() | {"epochs": 99}


@pytest.mark.parametrize(
    "change",
    [
        {"archive": "other"},
        {"validation": "other"},
        {"validation_fraction": 0.3},
        {"archive": None},
        {"network": "counter"},
        {"glyphs": "other"},
        {"digits": 3},
        {"min_digits": 1},
        {"images_per_epoch": 1000},
        {"batch_size": 32},
        {"learning_rate": 0.01},
        {"distortion": 0.5},
        {"pixel_scale": 0.5},
        {"seed": 1},
        {"start_from": "packaged"},
        {"teachers": ("packaged", "models/other")},
        {"precision": "bf16"},
        {"shuffle_buffer_images": 1},
        {"read": ReadOptions(image_column="pixels")},
        {"read": ReadOptions(height=40, width=168)},
    ],
    ids=str,
)
def test_what_a_run_learns_from_is_recorded_as_json_holds_it(change):
    recorded = dataclasses.replace(BASELINE, **change).learned_from()
    assert recorded != BASELINE.learned_from()
    assert json.loads(json.dumps(recorded, allow_nan=False)) == recorded
    may_change = RESUMABLE_CHANGES - ({"epochs"} if _follows_epochs(change) else set())
    assert not set(recorded) & may_change
