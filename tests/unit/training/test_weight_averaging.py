"""Weights of networks that began alike, averaged."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from digitsum.errors import InputError
from digitsum.model.network import SumNetwork
from digitsum.model.registry import build_network, network_sizes
from digitsum.model.saved_model import load_model, packaged_model, save_model
from digitsum.training.config import TrainConfig
from digitsum.training.metrics import Epoch
from digitsum.training.synthetic import validation_images
from digitsum.training.weight_averaging import averaged_weights, epoch_of_mean, load_averaged_with


@pytest.fixture(scope="module")
def network() -> SumNetwork:
    return load_model(packaged_model()).network


def config(*average_with: str, **options) -> TrainConfig:
    return TrainConfig(out="unused", start_from="packaged", average_with=average_with, **options)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5))
def test_each_weight_is_the_mean_of_all(values):
    first, *others = ({"a": torch.full((2, 3), value), "n": torch.tensor(7)} for value in values)
    found = averaged_weights(first, others)
    torch.testing.assert_close(found["a"], torch.full((2, 3), sum(values) / len(values)))
    assert found["n"] == 7


def test_networks_that_are_alike_average_to_themselves(network):
    weights = network.state_dict()
    found = averaged_weights(weights, [weights, weights])
    assert found.keys() == weights.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, weights[name])


def test_what_began_alike_is_loaded(network, tmp_path):
    scale = load_model(packaged_model()).pixel_scale
    # Trained on for other widths, and placed anew: neither is a weight.
    sizes = {**network_sizes(network), "width": 336, "digit_offset": 1}
    wider = build_network("counter", sizes)
    wider.load_state_dict(network.state_dict())
    save_model(str(tmp_path), "counter", wider, metrics={}, card="", pixel_scale=scale)
    found = load_averaged_with(config("packaged", str(tmp_path)), network)
    assert [model.network.config.shape.width for model in found] == [168, 336]
    assert load_averaged_with(TrainConfig(out="unused"), network) == []


@pytest.mark.parametrize("changed", ["sizes", "scale", "network"])
def test_what_began_otherwise_is_refused(network, tmp_path, changed):
    scale, name, other = load_model(packaged_model()).pixel_scale, "counter", network
    if changed == "sizes":
        other = build_network(name, {**network_sizes(network), "num_mixers": 1})
    elif changed == "scale":
        scale = 0.5
    else:
        name = "baseline"
        other = build_network(name, {"height": 40, "width": 168, "num_digits": 4})
    save_model(str(tmp_path), name, other, metrics={}, card="", pixel_scale=scale)
    with pytest.raises(InputError, match=r"is another network.* leave it out of --average-with"):
        load_averaged_with(config("packaged", str(tmp_path)), network)


def test_no_bundle_is_refused(network):
    with pytest.raises(InputError, match="/nowhere"):
        load_averaged_with(config("/nowhere"), network)


def test_a_run_may_be_averaged_when_it_is_done():
    assert config("packaged").learned_from() == config().learned_from()
    assert replace(config(), seed=1).learned_from() != config().learned_from()


@pytest.mark.parametrize("options", [{"start_from": None}, {"train_on_validation": True}], ids=str)
def test_a_mean_wants_a_common_start_and_a_temperature_of_its_own(options):
    with pytest.raises(InputError, match="--average-with: goes with --start-from"):
        replace(config("packaged"), **options)


def epoch(accuracy: float) -> Epoch:
    return Epoch(3, 0.2, 0.9, 0.1, accuracy, 100, 50, 1.0, 100.0, 0.01)


def test_the_figures_are_those_of_the_mean_and_a_bad_mean_is_told(network, caplog):
    fresh = build_network("counter", network_sizes(network)).eval()
    sample = validation_images(TrainConfig(out="unused"))
    good = epoch_of_mean(network, sample, 1 / 255, epoch(0.97))
    assert (good.epoch, good.train_loss, good.validation_images) == (3, 0.2, 5000)
    assert good.validation_accuracy > 0.98
    assert 0 < good.validation_loss < 0.1
    assert caplog.text == ""
    bad = epoch_of_mean(fresh, sample, 1 / 255, epoch(0.97))
    assert bad.validation_accuracy < 0.5
    assert "right, epoch 3 alone 97.00%: leave --average-with out" in caplog.text
