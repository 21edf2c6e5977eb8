import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from digitsum.errors import InputError
from digitsum.model.network import SumNetwork
from digitsum.model.registry import build_network, network_sizes
from digitsum.model.saved_model import load_model, packaged_model, save_model
from digitsum.training.config import AdvancedOptions, TrainConfig
from digitsum.training.metrics import Epoch
from digitsum.training.synthetic import validation_images
from digitsum.training.weight_averaging import (
    averaged_weights,
    epoch_of_average,
    load_averaged_with,
)


@pytest.fixture(scope="module")
def network() -> SumNetwork:
    return load_model(packaged_model()).network


def config(*average_with: str) -> TrainConfig:
    advanced = AdvancedOptions(average_with=average_with)
    return TrainConfig(out="unused", start_from="packaged", advanced=advanced)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5))
def test_averaged_weights_are_means(values):
    first, *others = ({"a": torch.full((2, 3), value), "n": torch.tensor(7)} for value in values)
    averaged = averaged_weights(first, others)
    assert averaged.keys() == {"a", "n"}
    torch.testing.assert_close(averaged["a"], torch.full((2, 3), sum(values) / len(values)))
    assert averaged["n"] == 7


def test_averaged_weights_of_same_network(network):
    weights = network.state_dict()
    torch.testing.assert_close(averaged_weights(weights, [weights, weights]), dict(weights))


def test_load_averaged_with_common_start(network, tmp_path):
    scale = load_model(packaged_model()).pixel_scale
    # Another width and another digit offset: neither is a weight.
    sizes = {**network_sizes(network), "width": 336, "digit_offset": 1}
    wider = build_network("counter", sizes)
    wider.load_state_dict(network.state_dict())
    save_model(str(tmp_path), "counter", wider, metrics={}, card="", pixel_scale=scale)
    models = load_averaged_with(config("packaged", str(tmp_path)), network)
    assert [model.network.config.shape.width for model in models] == [168, 336]
    assert load_averaged_with(config(), network) == ()


@pytest.mark.parametrize("changed", ["sizes", "scale", "network", "missing"])
def test_load_averaged_with_refuses(network, tmp_path, changed):
    scale, name, other = load_model(packaged_model()).pixel_scale, "counter", network
    if changed == "sizes":
        other = build_network(name, {**network_sizes(network), "num_mixers": 1})
    elif changed == "scale":
        scale = 0.5
    elif changed == "network":
        name = "baseline"
        other = build_network(name, {"height": 40, "width": 168, "num_digits": 4})
    if changed != "missing":
        save_model(str(tmp_path), name, other, metrics={}, card="", pixel_scale=scale)
    remedy = "not a model" if changed == "missing" else r"leave it out of --average-with"
    with pytest.raises(InputError, match=remedy):
        load_averaged_with(config("packaged", str(tmp_path)), network)


def epoch(accuracy: float) -> Epoch:
    return Epoch(3, 0.2, 0.9, 0.1, accuracy, 100, 50, 1.0, 100.0, 0.01)


def test_epoch_of_average(network, caplog, monkeypatch):
    monkeypatch.setattr("digitsum.training.synthetic.VALIDATION_IMAGES", 300)
    fresh = build_network("counter", network_sizes(network)).eval()
    sample = validation_images(TrainConfig(out="unused"))
    good = epoch_of_average(network, sample, 1 / 255, epoch(0.97))
    assert (good.epoch, good.train_loss, good.validation_images) == (3, 0.2, 300)
    assert good.validation_accuracy > 0.98
    assert 0 < good.validation_loss < 0.1
    assert caplog.text == ""
    bad = epoch_of_average(fresh, sample, 1 / 255, epoch(0.97))
    assert bad.validation_accuracy < 0.5
    assert "right, epoch 3 alone 97.00%: give --average-with only models" in caplog.text
