import torch
from hypothesis import given
from hypothesis import strategies as st

from digitsum.model.registry import build_network, network_sizes
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.training.config import TrainConfig
from digitsum.training.metrics import Epoch
from digitsum.training.synthetic import validation_images
from digitsum.training.weight_averaging import averaged_weights, epoch_of_average


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5))
def test_averaged_weights_are_means(values):
    first, *others = ({"a": torch.full((2, 3), value), "n": torch.tensor(7)} for value in values)
    averaged = averaged_weights(first, others)
    assert averaged.keys() == {"a", "n"}
    torch.testing.assert_close(averaged["a"], torch.full((2, 3), sum(values) / len(values)))
    assert averaged["n"] == 7


def test_epoch_of_average(caplog, monkeypatch):
    monkeypatch.setattr("digitsum.training.synthetic.VALIDATION_IMAGES", 300)
    network = load_model(packaged_model()).network
    fresh = build_network("counter", network_sizes(network)).eval()
    sample = validation_images(TrainConfig(out="unused"))
    epoch = Epoch(3, 0.2, 0.9, 0.1, 0.97, 100, 50, 1.0, 100.0, 0.01)
    good = epoch_of_average(network, sample, 1 / 255, epoch)
    assert (good.epoch, good.train_loss, good.validation_images) == (3, 0.2, 300)
    assert good.validation_accuracy > 0.98
    assert 0 < good.validation_loss < 0.1
    assert caplog.text == ""
    bad = epoch_of_average(fresh, sample, 1 / 255, epoch)
    assert bad.validation_accuracy < 0.5
    assert "right, epoch 3 alone 97.00%: give --average-with only models" in caplog.text
