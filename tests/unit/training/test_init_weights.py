import pytest
import torch

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.saved_model import load_model, packaged_model, save_model
from digitsum.options import ImageShape, ReadOptions
from digitsum.training.config import AdvancedOptions, TrainConfig
from digitsum.training.init_weights import initial_network, load_start

SHAPE = ImageShape(40, 168)


def config(**options) -> TrainConfig:
    return TrainConfig(out="unused", **{"start_from": "packaged", **options})


def test_load_start_without_one():
    assert load_start(config(start_from=None), SHAPE) is None


@pytest.mark.parametrize(("width", "digits"), [(168, 4), (336, 8), (100, 2), (504, 12)])
def test_counter_with_weights(width, digits):
    chosen = config(digits=digits, read=ReadOptions(height=40, width=width))
    shape = ImageShape(40, width)
    start = load_start(chosen, shape)
    network = initial_network(chosen, shape, start)
    assert (network.config.shape, network.config.num_digits) == (shape, digits)
    assert network.config.max_digits == max(8, digits)
    assert network.config.digit_offset == start.network.config.digit_offset
    weights = start.network.state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, ImageShape(50, 168), "50x168"),
        ({"network": "baseline"}, SHAPE, r"'counter', not 'baseline'; give --network counter"),
        ({"pixel_scale": 0.5}, SHAPE, r"by 0\.00392157, not by 0\.5; give --pixel-scale"),
        ({"start_from": "/nowhere"}, SHAPE, "/nowhere"),
    ],
    ids=str,
)
def test_load_start_refuses(options, shape, message):
    with pytest.raises(InputError, match=message):
        load_start(config(**options), shape)


def test_baseline_of_other_digits(tmp_path):
    network = BaselineNetwork(BaselineConfig(16, 24, 2))
    save_model(str(tmp_path), "baseline", network, metrics={}, card="", pixel_scale=1.0)
    chosen = config(network="baseline", start_from=str(tmp_path), digits=3)
    shape = ImageShape(16, 24)
    with pytest.raises(InputError, match=r"trained on 2 digits .* --digits"):
        initial_network(chosen, shape, load_start(chosen, shape))


def test_load_start_without_reference(tmp_path):
    packaged = load_model(packaged_model())
    scale = packaged.pixel_scale
    save_model(str(tmp_path), "counter", packaged.network, metrics={}, card="", pixel_scale=scale)
    load_start(config(start_from=str(tmp_path)), SHAPE)
    advanced = AdvancedOptions(train_on_validation=True)
    with pytest.raises(InputError, match="holds no reference"):
        load_start(config(start_from=str(tmp_path), advanced=advanced), SHAPE)
