from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.model.registry import NetworkName, build_network
from digitsum.model.saved_model import num_parameters
from digitsum.training.presets import PRESETS, PresetName, Recipe

CYCLE = Recipe(epochs=3, learning_rate=0.01)
fractions = st.floats(0, 1)


@pytest.mark.parametrize(
    ("progress", "fraction"),
    [(0, 1 / 25), (0.1, (1 + 1 / 25) / 2), (0.2, 1), (0.6, 1 / 2), (1, 0)],
)
def test_learning_rate_of_one_cycle(progress, fraction):
    assert CYCLE.learning_rate_at(progress) == pytest.approx(0.01 * fraction, abs=1e-12)


@given(fractions, fractions)
def test_learning_rate_rises_then_falls(one, other):
    early, late = sorted((one, other))
    rises = CYCLE.learning_rate_at(0.2 * early), CYCLE.learning_rate_at(0.2 * late)
    falls = CYCLE.learning_rate_at(0.2 + 0.8 * early), CYCLE.learning_rate_at(0.2 + 0.8 * late)
    assert 0 <= rises[0] <= rises[1] + 1e-15 <= 0.01 * (1 + 1e-9)
    assert 0.01 * (1 + 1e-9) >= falls[0] >= falls[1] - 1e-15 >= -1e-15


def test_distortion_grows_then_shrinks():
    recipe = Recipe(epochs=3, distortion=1.5)
    assert recipe.distortion_at(0) == pytest.approx(0.15)
    for progress in (0.5, 0.6, 0.8):
        assert recipe.distortion_at(progress) == pytest.approx(1.5)
    assert recipe.distortion_at(0.9) == pytest.approx(1.5 * 0.75)
    assert recipe.distortion_at(1) == pytest.approx(0.75)


@given(fractions, fractions)
def test_distortion_is_monotonic(one, other):
    early, late = sorted((one, other))
    recipe = Recipe(epochs=3)
    assert recipe.distortion_at(early / 2) <= recipe.distortion_at(late / 2)
    assert recipe.distortion_at(0.8 + early / 5) >= recipe.distortion_at(0.8 + late / 5) - 1e-15


@pytest.mark.parametrize("progress", [0, 0.3, 0.5, 0.9, 1])
def test_constant_recipe(progress):
    constant = Recipe(epochs=3, learning_rate=0.01, one_cycle=False, distortion=0.0, pull_images=0)
    assert constant.learning_rate_at(progress) == 0.01
    assert constant.distortion_at(progress) == 0
    assert constant.pull_at(int(1e9 * progress)) == 0


def test_pull_fades():
    recipe = Recipe(epochs=3, pull_images=1000)
    assert recipe.pull_at(0) == 1
    assert recipe.pull_at(250) == pytest.approx(0.75)
    assert recipe.pull_at(1000) == recipe.pull_at(1001) == recipe.pull_at(10**9) == 0


def test_presets_have_networks_and_names():
    assert set(PRESETS) == set(get_args(NetworkName))
    names = {preset for presets in PRESETS.values() for preset in presets}
    assert names == set(get_args(PresetName))


def test_preset_sizes():
    small, quick, full, large = (
        num_parameters(build_network("counter", PRESETS["counter"][preset].sizes))
        for preset in ("small", "quick", "full", "large")
    )
    assert small < full == quick < large
