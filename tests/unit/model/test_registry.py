from dataclasses import asdict

import pytest
import torch

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.registry import build_network, network_sizes, to_input
from digitsum.options import ImageShape

SIZES = {
    "baseline": {"height": 16, "width": 24, "num_digits": 2, "dropout": 0.5},
    "counter": asdict(CounterConfig(16, 24, 2, 5, 4, 5, 6, 7, num_mixers=3, digit_offset=2)),
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
    ("name", "field", "allowed", "refused"),
    [
        ("baseline", "height", [8, 4096], [7, 0, 4097, True, 16.0, "16"]),
        ("baseline", "width", [8, 4096], [7, -8, 4097, 10**9, None, [24]]),
        ("baseline", "num_digits", [1, 64], [0, -1, 65, 2.5]),
        ("baseline", "dropout", [0.0, 0.99], [-0.01, 1.0, float("nan"), 0, False, "0.5"]),
        ("baseline", "depth", [], [3]),
        ("baseline", "__class__", [], [1]),
        ("counter", "height", [8, 24], [7, 25]),
        ("counter", "width", [16, 4096], [15, 4097, 10**9]),
        ("counter", "num_digits", [1, 5], [0, -1, 6]),
        ("counter", "max_digits", [2, 64], [1, 65, "5"]),
        ("counter", "stem_channels", [1], [0]),
        ("counter", "body_channels", [1], [-1]),
        ("counter", "row_channels", [1], [1025, 10**9, 6.0]),
        ("counter", "column_channels", [1024], [0]),
        ("counter", "num_mixers", [0, 16], [-1, 17, True]),
        ("counter", "digit_offset", [-4096, 4096], [-4097, 4097]),
        ("counter", "dropout", [], [0.5]),
    ],
)
def test_build_network_bounds(name, field, allowed, refused):
    with torch.device("meta"):
        for value in allowed:
            config = build_network(name, SIZES[name] | {field: value}).config
            assert getattr(config, field) == value
            assert config.shape == ImageShape(config.height, config.width)
        for value in refused:
            with pytest.raises(InputError, match=f"'{field}'|{value}"):
                build_network(name, SIZES[name] | {field: value})


def test_to_input_scales_and_leaves_pixels():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 16)
    images = to_input(pixels, 1 / 255)
    assert images.shape == (2, 1, 8, 16)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.flatten(), torch.arange(256) / 255)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels.flatten(), torch.arange(256, dtype=torch.uint8))
