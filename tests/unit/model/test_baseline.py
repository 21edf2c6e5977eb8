import pytest
import torch
import torch.nn.functional as F
from torch import nn

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.options import ImageShape

KINDS = ("weight", "bias")
SMALL = BaselineConfig(height=16, width=24, num_digits=2)


def paper_layers(num_features: int, num_classes: int, network: BaselineNetwork) -> nn.Sequential:
    """Return the paper's description as a plain list of layers, with the network's weights."""
    channels = [(1, 32), (32, 64), (64, 128)]
    convolutions = [
        layer
        for inputs, outputs in channels
        for layer in (nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    ]
    linear = nn.Linear(num_features, 256), nn.ReLU(), nn.Dropout(0.7), nn.Linear(256, num_classes)
    layers = nn.Sequential(*convolutions, nn.Flatten(), *linear)
    layers.load_state_dict(
        dict(zip(layers.state_dict(), network.state_dict().values(), strict=True))
    )
    return layers


def test_default_is_the_papers_network():
    torch.manual_seed(0)
    network = BaselineNetwork(BaselineConfig()).eval()
    layers = ("conv1", "conv2", "conv3", "fc1", "fc2")  # as in the paper's notebook
    assert list(network.state_dict()) == [f"{n}.{kind}" for n in layers for kind in KINDS]
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_543_077
    assert network.dropout.p == 0.7
    images = torch.rand(3, 1, 40, 168)
    with torch.inference_mode():
        logits = network(images)
        expected = paper_layers(128 * 5 * 21, 37, network).eval()(images)
    assert logits.shape == (3, 37)
    torch.testing.assert_close(logits, expected)


def test_dropout_between_linear_layers():
    network = BaselineNetwork(SMALL).train()
    images = torch.rand(4, 1, 16, 24)
    expected = paper_layers(128 * 2 * 3, 19, network).train()
    torch.manual_seed(3)
    logits = network(images)
    torch.manual_seed(3)
    torch.testing.assert_close(logits, expected(images))
    assert not torch.equal(logits, network.eval()(images))


@pytest.mark.parametrize(
    ("config", "num_features", "num_classes"),
    [
        (BaselineConfig(height=8, width=8, num_digits=1), 128, 10),
        (BaselineConfig(height=23, width=31, num_digits=2), 128 * 2 * 3, 19),
        (BaselineConfig(height=16, width=9, num_digits=64), 128 * 2 * 1, 577),
    ],
)
def test_other_sizes(config, num_features, num_classes):
    network = BaselineNetwork(config).eval()
    assert network.fc1.in_features == num_features
    assert network.fc2.out_features == num_classes
    assert config.shape == ImageShape(config.height, config.width)
    with torch.inference_mode():
        images = torch.zeros(2, 1, config.height, config.width)
        assert network(images).shape == (2, num_classes)


@pytest.mark.parametrize("known_count", [None, 2])
def test_posterior_is_the_logits_softmax(known_count):
    network, logits = BaselineNetwork(SMALL), torch.randn(5, 19)
    expected = F.log_softmax(logits, dim=1)
    for counts in ((0, 2), (2, 2), (1, 8)):
        torch.testing.assert_close(network.sum_log_probs(logits, *counts), expected)
    posterior = network.posterior(logits, known_count)
    torch.testing.assert_close(posterior.sum_log_probs, expected)
    assert (posterior.count_probs, posterior.digits, posterior.digit_x) == (None, None, None)
    assert float(network.pull(logits, torch.arange(5), known_count)) == 0


@pytest.mark.parametrize("shape", [ImageShape(16, 25), ImageShape(15, 24), ImageShape(24, 16)])
def test_check_shape_refuses_other_shapes(shape):
    network = BaselineNetwork(SMALL)
    network.check_shape(ImageShape(16, 24), "here")
    with pytest.raises(InputError, match=f"^here: images are {shape}, .* trained on 16x24"):
        network.check_shape(shape, "here")


@pytest.mark.parametrize("known_count", [-1, 0, 1, 3])
def test_check_known_count_refuses_others(known_count):
    network = BaselineNetwork(SMALL)
    assert network.config.max_digits == 2
    network.check_known_count(2, SMALL.shape)
    with pytest.raises(
        InputError, match=f"--known-count {known_count}: the model adds up 2 digits"
    ):
        network.check_known_count(known_count, SMALL.shape)
