import pytest
import torch
import torch.nn.functional as F
from torch import nn

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.options import ImageShape

# The names and shapes in the paper's notebook.
PAPER_SHAPES = {
    "conv1.weight": (32, 1, 3, 3),
    "conv1.bias": (32,),
    "conv2.weight": (64, 32, 3, 3),
    "conv2.bias": (64,),
    "conv3.weight": (128, 64, 3, 3),
    "conv3.bias": (128,),
    "fc1.weight": (256, 128 * 5 * 21),
    "fc1.bias": (256,),
    "fc2.weight": (37, 256),
    "fc2.bias": (37,),
}
SMALL = BaselineConfig(height=16, width=24, num_digits=2)


@pytest.fixture(scope="module")
def paper_network() -> BaselineNetwork:
    torch.manual_seed(0)
    return BaselineNetwork(BaselineConfig())


def written_out(network: BaselineNetwork, dropout: float) -> nn.Sequential:
    """Return the paper's description as a plain list of layers, with the network's weights."""
    layers = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(network.fc1.in_features, 256),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(256, network.fc2.out_features),
    )
    layers.load_state_dict(
        dict(zip(layers.state_dict(), network.state_dict().values(), strict=True))
    )
    return layers


def test_the_default_is_the_papers_network_by_names_and_shapes(paper_network):
    shapes = {name: tuple(tensor.shape) for name, tensor in paper_network.state_dict().items()}
    assert shapes == PAPER_SHAPES
    assert paper_network.dropout.p == 0.7


def test_the_papers_network_has_3_543_077_parameters(paper_network):
    assert sum(parameter.numel() for parameter in paper_network.parameters()) == 3_543_077


def test_the_forward_pass_is_the_papers_layers_in_the_papers_order(paper_network):
    images = torch.rand(3, 1, 40, 168)
    with torch.inference_mode():
        logits = paper_network.eval()(images)
        expected = written_out(paper_network, 0.7).eval()(images)
    assert logits.shape == (3, 37)
    torch.testing.assert_close(logits, expected)


def test_in_training_the_dropout_lies_between_the_linear_layers():
    network = BaselineNetwork(SMALL).train()
    expected = written_out(network, 0.7).train()
    images = torch.rand(4, 1, 16, 24)
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
def test_other_sizes_give_other_linear_layers_and_run(config, num_features, num_classes):
    network = BaselineNetwork(config).eval()
    assert network.fc1.in_features == num_features
    assert config.num_classes == num_classes
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, *_sides(config))).shape == (2, num_classes)


def _sides(config: BaselineConfig) -> tuple[int, int]:
    assert config.shape == ImageShape(config.height, config.width)
    return config.height, config.width


@pytest.mark.parametrize(
    "sizes",
    [
        {"height": 7},
        {"width": 7},
        {"height": 0},
        {"width": -8},
        {"height": 4097},
        {"width": 4097},
        {"num_digits": 0},
        {"num_digits": -1},
        {"num_digits": 65},
        {"dropout": -0.01},
        {"dropout": 1.0},
        {"dropout": float("nan")},
    ],
    ids=str,
)
def test_sizes_out_of_bounds_are_refused_with_their_value(sizes):
    (value,) = sizes.values()
    with pytest.raises(InputError, match=str(value)):
        BaselineConfig(**sizes)


@pytest.mark.parametrize(
    "sizes",
    [
        {"height": 8},
        {"width": 8},
        {"height": 4096},
        {"width": 4096},
        {"num_digits": 1},
        {"num_digits": 64},
        {"dropout": 0.0},
        {"dropout": 0.99},
    ],
    ids=str,
)
def test_sizes_at_the_bounds_are_taken(sizes):
    config = BaselineConfig(**sizes)
    assert {name: getattr(config, name) for name in sizes} == sizes


def test_the_sums_probabilities_are_the_logits_softmax_whatever_the_count():
    network = BaselineNetwork(SMALL)
    logits = torch.randn(5, 19)
    for counts in ((0, 2), (2, 2), (1, 8)):
        log_probs = network.sum_log_probs(logits, *counts)
        torch.testing.assert_close(log_probs, F.log_softmax(logits, dim=1))


@pytest.mark.parametrize("num_digits", [None, 2])
def test_what_it_says_of_an_image_is_the_sums_probabilities_and_no_digits(num_digits):
    logits = torch.randn(5, 19)
    posterior = BaselineNetwork(SMALL).posterior(logits, num_digits)
    torch.testing.assert_close(posterior.sum_log_probs, F.log_softmax(logits, dim=1))
    assert (posterior.count_probs, posterior.digits, posterior.digit_x) == (None, None, None)


def test_it_is_pulled_nowhere():
    logits = torch.randn(5, 19)
    assert float(BaselineNetwork(SMALL).pull(logits, torch.arange(5), 2)) == 0


@pytest.mark.parametrize("shape", [ImageShape(16, 25), ImageShape(15, 24), ImageShape(24, 16)])
def test_images_of_any_other_shape_than_its_own_are_refused(shape):
    network = BaselineNetwork(SMALL)
    network.check_shape(ImageShape(16, 24), "here")
    with pytest.raises(InputError, match=f"^here: images are {shape}, .* trained on 16x24"):
        network.check_shape(shape, "here")


@pytest.mark.parametrize("num_digits", [-1, 0, 1, 3])
def test_it_can_be_told_of_no_other_number_of_digits_than_its_own(num_digits):
    network = BaselineNetwork(SMALL)
    assert network.config.max_digits == 2
    network.check_num_digits(2, SMALL.shape)
    with pytest.raises(InputError, match=f"--known-count {num_digits}: the model adds up 2 digits"):
        network.check_num_digits(num_digits, SMALL.shape)
