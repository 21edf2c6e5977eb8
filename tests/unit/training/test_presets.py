import json
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.errors import InputError
from digitsum.model.registry import NetworkName, build_network
from digitsum.model.saved_model import num_parameters
from digitsum.options import ReadOptions
from digitsum.training.config import RESUMABLE_CHANGES, TrainConfig
from digitsum.training.presets import PRESETS, PresetName, Recipe, default_preset

NETWORKS_AND_PRESETS = [
    (network, preset) for network, presets in PRESETS.items() for preset in presets
]
CYCLE = Recipe(epochs=3, learning_rate=0.01)
fractions = st.floats(0, 1)


def config(**options) -> TrainConfig:
    return TrainConfig(**{"out": "model", **options})


def test_one_cycle_begins_at_a_25th_peaks_after_a_fifth_and_ends_at_0():
    assert CYCLE.learning_rate_at(0) == pytest.approx(0.01 / 25)
    assert CYCLE.learning_rate_at(0.2) == pytest.approx(0.01)
    assert CYCLE.learning_rate_at(1) == pytest.approx(0, abs=1e-12)


def test_one_cycle_is_half_way_in_the_middle_of_each_side():
    assert CYCLE.learning_rate_at(0.1) == pytest.approx(0.01 * (1 + 1 / 25) / 2)
    assert CYCLE.learning_rate_at(0.6) == pytest.approx(0.01 / 2)


@given(fractions, fractions)
def test_one_cycle_rises_to_its_peak_and_falls_from_it(one, other):
    early, late = sorted((one, other))
    rises = CYCLE.learning_rate_at(0.2 * early), CYCLE.learning_rate_at(0.2 * late)
    falls = CYCLE.learning_rate_at(0.2 + 0.8 * early), CYCLE.learning_rate_at(0.2 + 0.8 * late)
    assert rises[0] <= rises[1] + 1e-15
    assert falls[0] >= falls[1] - 1e-15


@given(fractions)
def test_no_step_is_greater_than_the_recipes_or_below_0(progress):
    assert 0 <= CYCLE.learning_rate_at(progress) <= 0.01 * (1 + 1e-12)


@given(fractions)
def test_without_a_cycle_the_step_size_is_always_the_same(progress):
    constant = Recipe(epochs=3, learning_rate=0.01, one_cycle=False)
    assert constant.learning_rate_at(progress) == 0.01


def test_distortion_begins_at_a_tenth_reaches_its_strength_and_ends_at_a_half():
    recipe = Recipe(epochs=3, distortion=1.5)
    assert recipe.distortion_at(0) == pytest.approx(0.15)
    for progress in (0.5, 0.6, 0.8):
        assert recipe.distortion_at(progress) == pytest.approx(1.5)
    assert recipe.distortion_at(0.9) == pytest.approx(1.5 * 0.75)
    assert recipe.distortion_at(1) == pytest.approx(0.75)


@given(fractions, fractions)
def test_distortion_grows_in_the_first_half_and_shrinks_in_the_last_fifth(one, other):
    early, late = sorted((one, other))
    recipe = Recipe(epochs=3)
    assert recipe.distortion_at(early / 2) <= recipe.distortion_at(late / 2)
    assert recipe.distortion_at(0.8 + early / 5) >= recipe.distortion_at(0.8 + late / 5) - 1e-15


@given(fractions)
def test_without_distortion_there_is_none_at_any_time(progress):
    assert Recipe(epochs=3, distortion=0).distortion_at(progress) == 0


def test_the_pull_falls_from_1_to_0_and_stays_there():
    recipe = Recipe(epochs=3, pull_images=1000)
    assert recipe.pull_at(0) == 1
    assert recipe.pull_at(250) == pytest.approx(0.75)
    assert recipe.pull_at(1000) == recipe.pull_at(1001) == recipe.pull_at(10**9) == 0


@given(st.integers(0, 10**9))
def test_with_no_pull_images_nothing_is_ever_pulled(images_seen):
    assert Recipe(epochs=3, pull_images=0).pull_at(images_seen) == 0


@pytest.mark.parametrize(("network", "preset"), NETWORKS_AND_PRESETS)
@pytest.mark.parametrize("archive", [None, "archive"])
def test_every_preset_can_be_trained_with(network, preset, archive):
    chosen = config(network=network, preset=preset, archive=archive)
    assert chosen.recipe == PRESETS[network][preset]
    assert json.loads(json.dumps(chosen.learned_from(), allow_nan=False)) == chosen.learned_from()


def test_every_network_has_presets_and_every_presets_name_is_some_networks():
    assert set(PRESETS) == set(get_args(NetworkName))
    named = {preset for presets in PRESETS.values() for preset in presets}
    assert named == set(get_args(PresetName))


def test_sizes_of_presets_make_networks_as_large_as_their_names_say():
    sizes = {
        preset: num_parameters(build_network("counter", PRESETS["counter"][preset].sizes))
        for preset in ("small", "quick", "full", "large")
    }
    assert sizes["small"] < sizes["full"] == sizes["quick"] < sizes["large"]


@pytest.mark.parametrize(("network", "preset"), [("counter", "full"), ("baseline", "paper")])
def test_without_a_preset_the_networks_first_one_is_taken(network, preset):
    assert default_preset(network) == preset
    assert config(network=network).recipe == PRESETS[network][preset]


@pytest.mark.parametrize(("network", "preset"), NETWORKS_AND_PRESETS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 77),
        ("images_per_epoch", 777),
        ("batch_size", 7),
        ("learning_rate", 0.07),
        ("distortion", 0.7),
        ("distortion", 0.0),
        ("pixel_scale", 7.0),
        ("cascade_below", 0.3),
    ],
)
def test_an_option_overrides_the_preset_and_nothing_else_of_it(network, preset, option, value):
    recipe = config(network=network, preset=preset, **{option: value}).recipe
    assert getattr(recipe, option) == value
    rest = {k: v for k, v in vars(recipe).items() if k != option}
    assert rest == {k: v for k, v in vars(PRESETS[network][preset]).items() if k != option}


@pytest.mark.parametrize(("network", "preset"), [("baseline", "full"), ("counter", "paper")])
def test_a_preset_of_another_network_is_refused_naming_its_own(network, preset):
    with pytest.raises(InputError, match=f"--preset {preset}: .* {', '.join(PRESETS[network])}"):
        config(network=network, preset=preset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_digits": 0}, "--min-digits 0: give 1 to --digits, which is 4"),
        ({"min_digits": 5}, "--min-digits 5: give 1 to --digits, which is 4"),
        ({"min_digits": -1}, "--min-digits -1"),
        ({"images_per_epoch": 0}, "--images-per-epoch 0: give at least 1"),
        ({"images_per_epoch": -8}, "--images-per-epoch -8: give at least 1"),
        ({"distortion": -0.1}, "--distortion -0.1: give 0 to 2"),
        ({"distortion": 2.1}, "--distortion 2.1: give 0 to 2"),
        ({"distortion": math.nan}, "--distortion nan"),
        ({"distortion": math.inf}, "--distortion inf"),
        ({"cascade_below": -0.1}, "--cascade-below -0.1: give a confidence, 0 to 1"),
        ({"cascade_below": 58.0}, "--cascade-below 58.0"),
        ({"cascade_below": math.nan}, "--cascade-below nan"),
        ({"pixel_scale": 0.0}, "--pixel-scale 0.0: give a number above 0"),
        ({"pixel_scale": math.inf}, "--pixel-scale inf"),
        ({"pixel_scale": math.nan}, "--pixel-scale nan"),
        ({"validation": "archive"}, "--validation without --archive: give both, or neither"),
        ({"digits": 12}, "12 digits do not fit on 40x168 pixels; .* --width at least 171"),
        ({"read": ReadOptions(height=27, width=168)}, "--height is at least 28"),
        ({"read": ReadOptions(height=40, width=66)}, "4 digits do not fit on 40x66"),
        (
            {"images_per_epoch": 10, "batch_size": 4, "workers": 4},
            "--images-per-epoch 10 cannot be shared by 4 workers evenly; give a multiple",
        ),
        (
            {"images_per_epoch": 12, "batch_size": 10, "workers": 4},
            "--batch-size 10 cannot be shared by 4 workers evenly; give a multiple",
        ),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused_in_a_sentence(options, message):
    with pytest.raises(InputError, match=message):
        config(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"min_digits": 1},
        {"min_digits": 4},
        {"images_per_epoch": 1},
        {"distortion": 0.0},
        {"distortion": 2.0},
        {"archive": "archive", "validation": "other"},
        {"digits": 11},
        {"read": ReadOptions(height=28, width=67)},
        {"images_per_epoch": 12, "batch_size": 8, "workers": 4},
    ],
    ids=str,
)
def test_options_at_their_bounds_are_taken(options):
    taken = config(**options)
    assert {option: getattr(taken, option) for option in options} == options


def test_digits_need_to_fit_only_where_images_are_composed():
    assert config(archive="archive", digits=12).digit_counts == range(12, 13)


def test_images_of_an_archive_are_not_those_that_are_composed():
    # 96,000 composed images cannot be shared by 7, but none are composed.
    assert config(archive="archive", batch_size=70, workers=7).recipe.batch_size == 70


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({}, [4]),
        ({"digits": 2}, [2]),
        ({"digits": 3, "min_digits": 1}, [1, 2, 3]),
        ({"digits": 3, "min_digits": 3}, [3]),
    ],
    ids=str,
)
def test_images_hold_from_min_digits_to_digits(options, counts):
    assert list(config(**options).digit_counts) == counts


def test_composed_images_have_the_shape_that_is_given_or_the_default():
    assert str(config().shape) == "40x168"
    assert str(config(read=ReadOptions(height=30, width=90)).shape) == "30x90"


@pytest.mark.parametrize(("network", "preset"), NETWORKS_AND_PRESETS)
def test_a_run_may_go_on_longer_only_where_its_step_size_does_not_follow_the_epochs(
    network, preset
):
    first, longer = (config(network=network, preset=preset, epochs=epochs) for epochs in (5, 9))
    one_cycle = first.recipe.one_cycle
    assert ("epochs" in first.learned_from()) == one_cycle
    assert (first.learned_from() == longer.learned_from()) == (not one_cycle)


@pytest.mark.parametrize("network", get_args(NetworkName))
@pytest.mark.parametrize("option", sorted(RESUMABLE_CHANGES - {"epochs"}))
def test_where_and_how_a_run_goes_on_is_never_what_it_learns_from(network, option):
    assert option not in config(network=network).learned_from()


@pytest.mark.parametrize(
    "change",
    [
        {"preset": "quick"},
        {"min_digits": 2},
        {"images_per_epoch": 48},
        {"distortion": 0.5},
        {"pixel_scale": 1.0},
        {"glyphs": "other"},
        {"epochs": 9},
    ],
    ids=str,
)
def test_what_images_are_composed_of_and_how_they_are_distorted_is_learned_from(change):
    assert config(**change).learned_from() != config().learned_from()
