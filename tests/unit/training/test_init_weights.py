from dataclasses import replace

import numpy as np
import pytest
import torch

from digitsum.archive.glyphs import EMBEDDED, load_glyphs, load_training_glyphs
from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.saved_model import load_model, packaged_model, save_model
from digitsum.options import ImageShape, ReadOptions
from digitsum.training.config import TrainConfig
from digitsum.training.init_weights import load_start, started_network
from digitsum.training.presets import PRESETS

SHAPE = ImageShape(40, 168)


def config(**options) -> TrainConfig:
    return TrainConfig(out="unused", **{"start_from": "packaged", **options})


def test_without_a_bundle_there_is_no_start():
    assert load_start(config(start_from=None), SHAPE) is None


@pytest.mark.parametrize(("width", "digits"), [(168, 4), (336, 8), (100, 2), (504, 12)])
def test_a_counter_goes_on_with_other_widths_and_numbers_of_digits(width, digits):
    chosen = config(digits=digits, read=ReadOptions(height=40, width=width))
    shape = ImageShape(40, width)
    start = load_start(chosen, shape)
    network = started_network(chosen, shape, start)
    assert (network.config.shape, network.config.num_digits) == (shape, digits)
    assert network.config.max_digits == max(8, digits)
    assert network.config.digit_offset == start.network.config.digit_offset
    weights = start.network.state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_images_of_another_height_are_refused():
    with pytest.raises(InputError, match="50x168"):
        load_start(config(), ImageShape(50, 168))


def test_another_network_or_scale_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(InputError, match=r"'counter', not 'baseline'; give --network counter"):
        load_start(config(network="baseline"), SHAPE)
    with pytest.raises(InputError, match=r"times 0\.00392157, not times 0\.5; give --pixel-scale"):
        load_start(config(pixel_scale=0.5), SHAPE)


def test_a_baseline_of_another_number_of_digits_is_refused(tmp_path):
    network = BaselineNetwork(BaselineConfig(16, 24, 2))
    save_model(str(tmp_path), "baseline", network, metrics={}, card="", pixel_scale=1.0)
    chosen = config(network="baseline", start_from=str(tmp_path), digits=3)
    shape = ImageShape(16, 24)
    with pytest.raises(InputError, match=r"trained on 2 digits .* --digits"):
        started_network(chosen, shape, load_start(chosen, shape))


def test_a_bundle_without_reference_does_not_spare_validation_glyphs(tmp_path):
    packaged = load_model(packaged_model())
    scale = packaged.pixel_scale
    save_model(str(tmp_path), "counter", packaged.network, metrics={}, card="", pixel_scale=scale)
    load_start(config(start_from=str(tmp_path)), SHAPE)
    with pytest.raises(InputError, match="holds no reference"):
        load_start(config(start_from=str(tmp_path), train_on_validation=True), SHAPE)


@pytest.mark.parametrize("options", [{"archive": "some"}, {"start_from": None}], ids=str)
def test_validation_glyphs_are_trained_on_only_where_a_start_was_validated(options):
    with pytest.raises(InputError, match="--train-on-validation: goes with --start-from"):
        config(train_on_validation=True, **options)


def test_the_recipe_of_a_network_that_reads_already():
    fresh, continued = PRESETS["counter"]["full"], config().recipe
    assert continued.learning_rate == fresh.learning_rate / 2
    assert continued.pull_at(0) == 0
    assert continued.distortion_at(0.0) == continued.distortion_at(0.5) == 1.0
    assert continued.distortion_at(1.0) == fresh.distortion_at(1.0)
    assert config(learning_rate=0.1).recipe.learning_rate == 0.1
    assert replace(fresh.continued(), distortion=0.0).distortion_at(0.5) == 0


def test_the_glyphs_of_a_last_training_are_those_of_both_parts():
    train, val = (load_glyphs(EMBEDDED, split) for split in ("train", "val"))
    both = load_training_glyphs(EMBEDDED, with_validation=True)
    assert np.array_equal(both.pixels, np.concatenate([train.pixels, val.pixels]))
    assert np.array_equal(both.digits, np.concatenate([train.digits, val.digits]))
    alone = load_training_glyphs(EMBEDDED, with_validation=False)
    assert np.array_equal(alone.pixels, train.pixels)
