import pytest
import torch

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.registry import build_network, network_sizes, to_input

SIZES = {"height": 16, "width": 24, "num_digits": 2, "dropout": 0.5}
COUNTER_SIZES = {
    "height": 16,
    "width": 24,
    "num_digits": 2,
    "max_digits": 5,
    "stem_channels": 4,
    "body_channels": 5,
    "row_channels": 6,
    "column_channels": 7,
    "num_mixers": 3,
    "digit_offset": 2,
}


def test_the_sizes_of_a_built_network_are_those_it_was_built_from():
    network = build_network("baseline", SIZES)
    assert network.config == BaselineConfig(**SIZES)
    assert network_sizes(network) == SIZES


def test_the_sizes_of_a_built_counter_are_those_it_was_built_from():
    network = build_network("counter", COUNTER_SIZES)
    assert isinstance(network, CounterNetwork)
    assert network.config == CounterConfig(**COUNTER_SIZES)
    assert network_sizes(network) == COUNTER_SIZES


def test_sizes_that_are_left_out_are_the_defaults():
    network = build_network("baseline", {"height": 16, "width": 24})
    assert network.config == BaselineConfig(height=16, width=24, num_digits=4, dropout=0.7)
    network = build_network("counter", {"height": 16, "width": 24})
    assert network.config == CounterConfig(height=16, width=24)


@pytest.mark.parametrize(
    "name", ["", "resnet", "Baseline", "Counter", "os.system", "digitsum.cli", None, 1]
)
def test_an_unknown_network_is_refused_by_its_name(name):
    with pytest.raises(InputError, match=f"{name!r} is not known"):
        build_network(name, SIZES)


@pytest.mark.parametrize(
    "change",
    [
        {"height": True},
        {"height": 16.0},
        {"height": "16"},
        {"width": None},
        {"width": [24]},
        {"num_digits": 2.5},
        {"dropout": 0},
        {"dropout": False},
        {"dropout": "0.5"},
        {"depth": 3},
        {"__class__": 1},
    ],
    ids=str,
)
def test_a_field_that_is_unknown_or_of_another_type_is_refused_by_its_name(change):
    (field,) = change
    with pytest.raises(InputError, match=f"'{field}'"):
        build_network("baseline", SIZES | change)


@pytest.mark.parametrize(
    "change",
    [{"num_mixers": True}, {"row_channels": 6.0}, {"max_digits": "5"}, {"dropout": 0.5}],
    ids=str,
)
def test_a_field_of_a_counter_that_is_unknown_or_of_another_type_is_refused_by_its_name(change):
    (field,) = change
    with pytest.raises(InputError, match=f"'{field}'"):
        build_network("counter", COUNTER_SIZES | change)


@pytest.mark.parametrize(
    "change",
    [
        {"height": 7},
        {"width": 15},
        {"width": 10**9},
        {"num_digits": 6},
        {"max_digits": 65},
        {"stem_channels": 0},
        {"body_channels": 1025},
        {"row_channels": 10**9},
        {"column_channels": -1},
        {"num_mixers": 17},
    ],
    ids=str,
)
def test_a_field_of_a_counter_out_of_bounds_is_refused(change):
    with pytest.raises(InputError, match=str(*change.values())):
        build_network("counter", COUNTER_SIZES | change)


@pytest.mark.parametrize("change", [{"height": 4}, {"width": 10**9}, {"num_digits": 0}], ids=str)
def test_a_field_out_of_bounds_is_refused(change):
    with pytest.raises(InputError, match=str(*change.values())):
        build_network("baseline", SIZES | change)


def test_pixels_become_one_channel_of_scaled_float32_and_stay_as_they_are():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 16)
    images = to_input(pixels, 1 / 255)
    assert images.shape == (2, 1, 8, 16)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.flatten(), torch.arange(256) / 255)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels.flatten(), torch.arange(256, dtype=torch.uint8))
