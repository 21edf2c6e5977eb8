import itertools
import json
import math
from dataclasses import fields, replace
from typing import get_args

import pytest

from digitsum.errors import InputError
from digitsum.model.registry import NetworkName
from digitsum.options import ReadOptions, flag
from digitsum.training.config import AdvancedOptions, TrainConfig, check_resumes, fixed_options
from digitsum.training.presets import PRESETS

NETWORKS_AND_PRESETS = [
    (network, preset) for network, presets in PRESETS.items() for preset in presets
]
ARCHIVE, START = {"archive": "archive"}, {"start_from": "packaged"}
ON_VALIDATION = AdvancedOptions(train_on_validation=True)
AVERAGED = AdvancedOptions(average_with=("packaged",))


def config(**options) -> TrainConfig:
    return TrainConfig(**{"out": "model", **options})


def resume(started: dict, resumed: dict) -> None:
    """Check that a run can be resumed, as its record on disk allows it."""
    recorded = json.loads(json.dumps(fixed_options(config(**started))))
    check_resumes(config(**resumed), recorded, "night")


@pytest.mark.parametrize(
    ("names", "values", "remedy"),
    [
        (["digits", "epochs", "batch_size", "images_per_epoch"], [0, -8], "give at least 1"),
        (["workers", "shuffle_buffer_images"], [0, -1], "give at least 1"),
        (["learning_rate", "pixel_scale"], [0.0, -1e-3, math.nan, math.inf], "give a number above"),
        (["cpus_per_worker"], [0.0, -1.0, math.nan], "give a number above 0"),
        (["distortion"], [-0.1, 2.1, math.nan, math.inf], "give 0 to 2"),
        (["cascade_below"], [-0.1, 58.0, math.nan], "give a confidence, 0 to 1"),
        (["validation_fraction"], [0.0, 1.0, -0.1, math.nan], "give a number between 0 and 1"),
        (["seed"], [-1, 2**64], "give a number of 0 to 2"),
        (["max_failures"], [-1], "give at least 0"),
        (["min_digits"], [0, 5, -1], "give 1 to --digits, 4"),
    ],
    ids=str,
)
def test_config_refuses_value(names, values, remedy):
    for name, value in itertools.product(names, values):
        with pytest.raises(InputError, match=f"{flag(name)} {value}: {remedy}"):
            config(**ARCHIVE, **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**ARCHIVE, "batch_size": 64, "workers": 3}, "--batch-size 64: give a multiple of --work"),
        ({**ARCHIVE, "batch_size": 2, "workers": 4}, "--batch-size 2: give a multiple"),
        (
            {"images_per_epoch": 10, "batch_size": 4, "workers": 4},
            "--images-per-epoch 10: give a multiple of --workers",
        ),
        ({"images_per_epoch": 12, "batch_size": 10, "workers": 4}, "--batch-size 10: give a mult"),
        *(
            ({"name": name}, "--name .*: a run's name is the name of a directory")
            for name in ("", "..", ".hidden", "a/b", "-a", "two words", "line\n")
        ),
        ({"validation": "archive"}, "--validation without --archive: give both, or neither"),
        ({"digits": 12}, "12 digits do not fit on 40x168 pixels; .* --width at least 171"),
        ({"read": ReadOptions(height=27, width=168)}, "--height is at least 28"),
        ({"read": ReadOptions(height=40, width=66)}, "4 digits do not fit on 40x66"),
        ({"network": "baseline", "preset": "full"}, "--preset full: .* paper, tuned"),
        ({"preset": "paper"}, "--preset paper: .* full, quick, small, large"),
        *(
            (options | {"advanced": ON_VALIDATION}, "--train-on-validation .*leave --archive out")
            for options in ({}, START | ARCHIVE)
        ),
        ({"advanced": AVERAGED}, "--average-with .*give --start-from"),
        (
            {**START, "advanced": replace(AVERAGED, train_on_validation=True)},
            "--average-with .* leave --train-on-validation out",
        ),
    ],
    ids=str,
)
def test_config_refuses(options, message):
    with pytest.raises(InputError, match=message):
        config(**options)


@pytest.mark.parametrize(
    "options",
    [
        *({**ARCHIVE, "validation_fraction": fraction} for fraction in (0.001, 0.999)),
        {"batch_size": 1, "workers": 1},
        {**ARCHIVE, "batch_size": 6, "workers": 3},
        {"seed": 0, "max_failures": 0},
        {"seed": 2**64 - 1},
        {"cpus_per_worker": 0.01},
        *({"name": name} for name in ("a", "2026-01-31_ä.b", "_a")),
        *({"min_digits": digits} for digits in (1, 4)),
        {"images_per_epoch": 1},
        *({"distortion": strength} for strength in (0.0, 2.0)),
        {**ARCHIVE, "validation": "other"},
        {"digits": 11},
        # Nothing is composed, so neither digits nor images per epoch need to fit.
        {**ARCHIVE, "digits": 12},
        {**ARCHIVE, "batch_size": 70, "workers": 7},
        {"read": ReadOptions(height=28, width=67)},
        {"images_per_epoch": 12, "batch_size": 8, "workers": 4},
    ],
    ids=str,
)
def test_config_takes_bounds(options):
    taken = config(**options)
    assert {option: getattr(taken, option) for option in options} == options


def test_digit_counts_and_shape():
    assert (config().digit_counts, str(config().shape)) == (range(4, 5), "40x168")
    given = config(digits=3, min_digits=1, read=ReadOptions(height=30, width=90))
    assert (given.digit_counts, str(given.shape)) == (range(1, 4), "30x90")


@pytest.mark.parametrize(("network", "preset"), NETWORKS_AND_PRESETS)
@pytest.mark.parametrize("archive", [None, "archive"])
def test_recipe_is_presets(network, preset, archive):
    chosen = config(network=network, preset=preset, archive=archive)
    assert chosen.recipe == PRESETS[network][preset]
    default = {"counter": "full", "baseline": "paper"}[network]
    assert config(network=network).recipe == PRESETS[network][default]


@pytest.mark.parametrize(("network", "preset"), NETWORKS_AND_PRESETS)
@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 77, "images_per_epoch": 777, "batch_size": 7, "learning_rate": 0.07},
        {"distortion": 0.7, "pixel_scale": 7.0, "cascade_below": 0.3},
        {"distortion": 0.0, "cascade_below": 0.0},
    ],
    ids=str,
)
def test_recipe_options_override(network, preset, options):
    recipe = config(network=network, preset=preset, **options).recipe
    assert recipe == replace(PRESETS[network][preset], **options)


def test_recipe_of_start():
    fresh, continued = PRESETS["counter"]["full"], config(start_from="packaged").recipe
    assert continued.learning_rate == fresh.learning_rate / 2
    assert continued.pull_at(0) == 0
    assert continued.distortion_at(0.0) == continued.distortion_at(0.5) == 1.0
    assert continued.distortion_at(1.0) == fresh.distortion_at(1.0)
    assert config(start_from="packaged", learning_rate=0.1).recipe.learning_rate == 0.1
    assert replace(fresh.continued(), distortion=0.0).distortion_at(0.5) == 0


RESUMABLE = [
    *({"out": "other"}, {"runs": "other"}, {"name": "other"}, {"max_failures": 0}),
    *({"workers": 2}, {"use_gpu": True}, {"cpus_per_worker": 0.5}, {"cascade_below": 0.25}),
    {**START, "advanced": AVERAGED},
]
FIXED = [
    *({"archive": other} for other in ("other", None)),
    *({"validation": "other"}, {"validation_fraction": 0.3}, {"glyphs": "other"}),
    *({"network": "counter"}, {"preset": "tuned"}, START),
    *({"digits": 3}, {"min_digits": 1}, {"seed": 1}, {"precision": "bf16"}),
    *({"images_per_epoch": 1000}, {"batch_size": 32}, {"shuffle_buffer_images": 1}),
    *({"learning_rate": 0.01}, {"distortion": 0.5}, {"pixel_scale": 0.5}),
    {"advanced": AdvancedOptions(teachers=("packaged", "models/other"))},
    {"read": ReadOptions(image_column="pixels")},
    {"read": ReadOptions(height=40, width=168)},
]
BASELINE = {**ARCHIVE, "network": "baseline"}


@pytest.mark.parametrize("network", get_args(NetworkName))
@pytest.mark.parametrize("change", RESUMABLE, ids=str)
def test_resume_with_changed_options(network, change):
    started = {**ARCHIVE, "network": network, "start_from": change.get("start_from")}
    resume(started, started | change)


@pytest.mark.parametrize("change", FIXED, ids=str)
def test_resume_refuses(change):
    resume(BASELINE | change, BASELINE | change)
    with pytest.raises(InputError, match=r"run night was started with .*another --name"):
        resume(BASELINE, BASELINE | change)


def test_resume_every_option():
    """Each option is in one of the two lists above, or has a test of its own."""
    listed = {name for change in (*RESUMABLE, *FIXED) for name in change} | {"epochs"}
    assert listed == {field.name for field in fields(TrainConfig)}


def test_resume_names_change():
    with pytest.raises(InputError, match=r"with learning_rate=0\.004, not 0\.5"):
        resume({}, {"learning_rate": 0.5})


@pytest.mark.parametrize(("network", "preset"), NETWORKS_AND_PRESETS)
@pytest.mark.parametrize("distortion", [None, 0.0, 0.5])
def test_resume_with_more_epochs(network, preset, distortion):
    """The epochs may change only if neither step size nor distortion follows them."""
    started = {"network": network, "preset": preset, "distortion": distortion, "epochs": 5}
    recipe = config(**started).recipe
    if recipe.one_cycle or recipe.distortion:
        with pytest.raises(InputError, match="epochs=5, not 9"):
            resume(started, started | {"epochs": 9})
    else:
        resume(started, started | {"epochs": 9})
