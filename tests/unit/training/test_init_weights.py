import pytest
import torch
from factories import SHAPE, make_baseline, make_counter, write_model

from digitsum.errors import InputError
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.options import ImageShape, ReadOptions
from digitsum.training.config import AdvancedOptions, TrainConfig
from digitsum.training.init_weights import UsedModels, initial_network, load_models


def config(digits: int = 2, **options) -> TrainConfig:
    """Return a configuration; the names of its models are those of `models` below."""
    advanced = AdvancedOptions(
        teachers=options.pop("teachers", ()),
        average_with=options.pop("average_with", ()),
        train_on_validation=options.pop("train_on_validation", False),
    )
    return TrainConfig(out="unused", digits=digits, advanced=advanced, **options)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Write models of 16x24 pixels into the working directory."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "start")
    write_model(tmp_path / "wide", make_counter(width=48, digit_offset=1))
    write_model(tmp_path / "small", make_counter(num_mixers=1))
    write_model(tmp_path / "scaled", pixel_scale=0.5)
    write_model(tmp_path / "baseline", make_baseline())


def test_load_models(models):
    assert load_models(config(), SHAPE) == UsedModels(None, (), ())
    # Teachers may have any size, and neither a width nor a digit offset is a weight.
    loaded = load_models(
        config(start_from="start", teachers=("small", "wide"), average_with=("start", "wide")),
        SHAPE,
    )
    used = (loaded.start, *loaded.teachers, *loaded.averaged_with)
    names = [model.uri.rpartition("/")[2] for model in used]
    assert names == ["start", "small", "wide", "start", "wide"]


START = {"start_from": "start"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_from": "packaged"}, "16x24"),
        ({"start_from": "baseline"}, "'baseline', not 'counter'; give --network baseline, .*start"),
        ({"start_from": "scaled"}, r"by 0\.5, not by 0\.00392157; give --pixel-scale 0\.5"),
        ({"start_from": "nowhere"}, "nowhere: .*not a model"),
        ({**START, "train_on_validation": True}, "holds no reference .*leave --train-on-valid"),
        ({"teachers": ("start", "packaged")}, "16x24"),
        ({"teachers": ("baseline",)}, "'baseline', not 'counter'.* leave it out of --teachers"),
        (
            {"teachers": ("baseline",), "network": "baseline", "digits": 3},
            "of 2 digits, and cannot teach those of 3; leave it out",
        ),
        ({"teachers": ("nowhere",)}, "nowhere: .*not a model"),
        ({**START, "average_with": ("small",)}, "other sizes .* leave it out of --average-with"),
        ({**START, "average_with": ("scaled",)}, "other sizes .* leave it out of --average-with"),
        ({**START, "average_with": ("baseline",)}, "'baseline', .* leave it out of --average-with"),
        ({**START, "average_with": ("nowhere",)}, "nowhere: .*not a model"),
    ],
    ids=str,
)
def test_load_models_refuses(models, options, message):
    with pytest.raises(InputError, match=message):
        load_models(config(**options), SHAPE)


@pytest.mark.parametrize(("width", "digits"), [(168, 4), (336, 8), (100, 2), (504, 12)])
def test_counter_with_weights(width, digits):
    shape = ImageShape(40, width)
    chosen = config(digits, start_from="packaged", read=ReadOptions(height=40, width=width))
    start = load_models(chosen, shape).start
    assert start.digest == load_model(packaged_model()).digest
    network = initial_network(chosen, shape, start)
    assert (network.config.shape, network.config.num_digits) == (shape, digits)
    assert network.config.max_digits == max(8, digits)
    assert network.config.digit_offset == start.network.config.digit_offset
    weights = start.network.state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_baseline_of_other_digits(models):
    chosen = config(3, network="baseline", start_from="baseline", pixel_scale=1 / 255)
    with pytest.raises(InputError, match=r"trained on 2 digits .* --digits"):
        initial_network(chosen, SHAPE, load_models(chosen, SHAPE).start)


@pytest.mark.parametrize(
    ("network", "digits", "most"), [("counter", 2, 8), ("counter", 9, 9), ("baseline", 2, 2)]
)
def test_fresh_network_follows_seed(network, digits, most):
    before = torch.get_rng_state()
    one, same, other = (
        initial_network(config(digits, network=network, seed=seed), SHAPE, None)
        for seed in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert (one.config.shape, one.config.num_digits) == (SHAPE, digits)
    assert one.config.max_digits == most
    weights, same_weights, others = (list(net.parameters()) for net in (one, same, other))
    assert all(map(torch.equal, weights, same_weights))
    assert not all(map(torch.equal, weights, others))
