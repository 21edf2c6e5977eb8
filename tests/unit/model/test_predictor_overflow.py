"""Finite weights may still be so great that nothing is left of a probability.

OpenVINO's ReLU takes what is no number for 0, so that there such a model has some sum to say.
"""

import numpy as np
import pytest
import torch

from digitsum.errors import InputError
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import load_model, save_model


def test_weights_that_overflow_are_no_scores(tmp_path):
    torch.manual_seed(0)
    network = CounterNetwork(CounterConfig(16, 24, num_digits=2, max_digits=2))
    with torch.no_grad():
        for weights in network.parameters():
            weights *= 1e30
    save_model(str(tmp_path), "counter", network, metrics={}, card="", pixel_scale=1.0)
    predictor = make_predictor(load_model(str(tmp_path)), backend="torch")
    with pytest.raises(InputError, match="what is no probability"):
        predictor.predict(np.full((3, 16, 24), 255, np.uint8))
