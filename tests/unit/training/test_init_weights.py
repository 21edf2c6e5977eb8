import pytest
import torch
from factories import SHAPE as SMALL
from factories import make_baseline, write_model

from digitsum.errors import InputError
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
    write_model(tmp_path, make_baseline())
    chosen = config(network="baseline", start_from=str(tmp_path), digits=3, pixel_scale=1 / 255)
    with pytest.raises(InputError, match=r"trained on 2 digits .* --digits"):
        initial_network(chosen, SMALL, load_start(chosen, SMALL))


def test_load_start_without_reference(tmp_path):
    write_model(tmp_path)
    load_start(config(start_from=str(tmp_path)), SMALL)
    advanced = AdvancedOptions(train_on_validation=True)
    with pytest.raises(InputError, match="holds no reference"):
        load_start(config(start_from=str(tmp_path), advanced=advanced), SMALL)


@pytest.mark.parametrize(("network", "digits"), [("counter", 2), ("counter", 9), ("baseline", 2)])
def test_fresh_network_follows_seed(network, digits):
    before = torch.get_rng_state()
    one, same, other = (
        initial_network(
            config(network=network, start_from=None, digits=digits, seed=s), SHAPE, None
        )
        for s in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert (one.config.shape, one.config.num_digits) == (SHAPE, digits)
    assert one.config.max_digits == (max(8, digits) if network == "counter" else digits)
    weights, same_weights, others = (list(n.parameters()) for n in (one, same, other))
    assert all(map(torch.equal, weights, same_weights))
    assert not all(map(torch.equal, weights, others))
