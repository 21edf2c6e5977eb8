import pytest
import torch

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.registry import build_network, network_sizes, to_input

SIZES = {
    "baseline": {"height": 16, "width": 24, "num_digits": 2, "dropout": 0.5},
    "counter": {
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
    },
}


@pytest.mark.parametrize(
    ("name", "network_type", "config_type"),
    [("baseline", BaselineNetwork, BaselineConfig), ("counter", CounterNetwork, CounterConfig)],
)
def test_build_network(name, network_type, config_type):
    network = build_network(name, SIZES[name])
    assert isinstance(network, network_type)
    assert network.config == config_type(**SIZES[name])
    assert network_sizes(network) == SIZES[name]
    shape = {"height": 16, "width": 24}
    assert build_network(name, shape).config == config_type(**shape)  # the rest is the default


@pytest.mark.parametrize(
    "name", ["", "resnet", "Baseline", "Counter", "os.system", "digitsum.cli", None, 1]
)
def test_build_network_of_unknown_name(name):
    with pytest.raises(InputError, match=f"{name!r} is not known"):
        build_network(name, SIZES["baseline"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("baseline", {"height": True}),
        ("baseline", {"height": 16.0}),
        ("baseline", {"height": "16"}),
        ("baseline", {"width": None}),
        ("baseline", {"width": [24]}),
        ("baseline", {"num_digits": 2.5}),
        ("baseline", {"dropout": 0}),
        ("baseline", {"dropout": False}),
        ("baseline", {"dropout": "0.5"}),
        ("baseline", {"depth": 3}),
        ("baseline", {"__class__": 1}),
        ("counter", {"num_mixers": True}),
        ("counter", {"row_channels": 6.0}),
        ("counter", {"max_digits": "5"}),
        ("counter", {"dropout": 0.5}),
    ],
    ids=str,
)
def test_build_network_names_wrong_fields(name, change):
    (field,) = change
    with pytest.raises(InputError, match=f"'{field}'"):
        build_network(name, SIZES[name] | change)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("baseline", {"height": 4}),
        ("baseline", {"width": 10**9}),
        ("baseline", {"num_digits": 0}),
        ("counter", {"width": 10**9}),
        ("counter", {"row_channels": 10**9}),
        ("counter", {"num_mixers": 17}),
    ],
    ids=str,
)
def test_build_network_out_of_bounds(name, change):
    with pytest.raises(InputError, match=str(*change.values())):
        build_network(name, SIZES[name] | change)


def test_to_input_scales_and_leaves_pixels():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 16)
    images = to_input(pixels, 1 / 255)
    assert images.shape == (2, 1, 8, 16)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.flatten(), torch.arange(256) / 255)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels.flatten(), torch.arange(256, dtype=torch.uint8))
