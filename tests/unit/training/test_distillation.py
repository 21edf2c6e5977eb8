import math

import pytest
import torch

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.saved_model import SavedModel, load_model, packaged_model, save_model
from digitsum.options import ImageShape
from digitsum.training.config import AdvancedOptions, TrainConfig
from digitsum.training.distillation import Teachers, distillation_loss, load_teachers

SHAPE = ImageShape(40, 168)
CPU = torch.device("cpu")
SIZES = ("stem_channels", "body_channels", "row_channels", "column_channels")
PIXELS = torch.randint(0, 256, (6, 40, 44), generator=torch.Generator().manual_seed(0)).byte()


def counter(seed: int, channels: int = 8) -> CounterNetwork:
    torch.manual_seed(seed)
    network = CounterNetwork(CounterConfig(40, 44, 2, **dict.fromkeys(SIZES, channels)))
    with torch.no_grad():  # otherwise it predicts the same for all images
        network.head.weight.mul_(2000)
        network.head.bias[0] = 4
    return network.eval()


def model_of(network: CounterNetwork, temperature: float = 1.0) -> SavedModel:
    return SavedModel("counter", network, 1 / 255, temperature, uri="some", digest="")


def config(*teachers: str, **options) -> TrainConfig:
    return TrainConfig(out="unused", advanced=AdvancedOptions(teachers=teachers), **options)


def joint_probs(network: CounterNetwork, max_digits: int, temperature: float = 1.0) -> torch.Tensor:
    logits = network(PIXELS.unsqueeze(1) / 255) / temperature
    return network.joint_log_probs(logits, max_digits).exp().detach()


def logits_of(network: CounterNetwork) -> torch.Tensor:
    return network(PIXELS.unsqueeze(1) / 255)


def entropy(probs: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(probs).sum(dim=1).mean()


def test_joint_probs_add_up_to_counts():
    network = counter(0)
    joint = joint_probs(network, 11)  # as many digits as columns
    torch.testing.assert_close(joint.sum(dim=1), torch.ones(6))
    by_count = torch.stack(
        [part.sum(dim=1) for part in joint.split([9 * k + 1 for k in range(12)], 1)]
    )
    expected = network.count_probs(logits_of(network), None).detach()
    torch.testing.assert_close(by_count.T[:, : expected.shape[1]], expected, atol=1e-5, rtol=1e-4)


def test_teachers_mean_is_calibrated():
    first, second = counter(1), counter(2, channels=4)
    teachers = Teachers([model_of(first), model_of(second, temperature=2.0)], CPU)
    expected = (joint_probs(first, 3) + joint_probs(second, 3, temperature=2.0)) / 2
    torch.testing.assert_close(teachers.mean_probs(PIXELS, 3), expected)
    assert not teachers.mean_probs(PIXELS, 3).requires_grad


def test_loss_is_least_for_teacher():
    teacher, student = counter(1), counter(3)
    taught = joint_probs(teacher, 11)
    own = distillation_loss(teacher, logits_of(teacher), taught, 11)
    torch.testing.assert_close(own, entropy(taught), atol=1e-4, rtol=1e-4)
    assert distillation_loss(student, logits_of(student), taught, 11) > own + 0.1


def test_loss_is_four_fifths_distilled():
    student, teachers = counter(3), Teachers([model_of(counter(1))], CPU)
    logits = logits_of(student)
    distilled = distillation_loss(student, logits, teachers.mean_probs(PIXELS, 3), 3)
    loss = teachers.loss(student, PIXELS, logits, torch.tensor(2.0), 3)
    torch.testing.assert_close(loss, 0.2 * 2.0 + 0.8 * distilled)
    assert loss.requires_grad


def test_loss_of_impossible_is_finite():
    teacher, student = counter(1), counter(3)
    logits = torch.zeros(6, 11, 11)
    logits[:, :, 0] = 1000  # so any digit is impossible
    logits.requires_grad_()
    loss = distillation_loss(student, logits, joint_probs(teacher, 3), 3)
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()


def test_student_approaches_teacher():
    teacher, student = counter(1), counter(3, channels=16)
    taught = joint_probs(teacher, 11)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)

    def distance() -> float:
        return float((joint_probs(student, 11) - taught).abs().sum(dim=1).mean())

    before = distance()
    for _ in range(100):
        loss = distillation_loss(student, logits_of(student), taught, 11)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert distance() < before / 3


def test_load_teachers(tmp_path):
    packaged = load_model(packaged_model())
    scale = packaged.pixel_scale
    save_model(str(tmp_path), "counter", packaged.network, metrics={}, card="", pixel_scale=scale)
    teachers = load_teachers(config("packaged", str(tmp_path)), SHAPE)
    assert [teacher.uri for teacher in teachers] == [packaged.uri, load_model(str(tmp_path)).uri]
    assert load_teachers(config(), SHAPE) == ()


@pytest.fixture
def baseline(tmp_path) -> str:
    torch.manual_seed(0)
    network = BaselineNetwork(BaselineConfig(40, 168, 4)).eval()
    save_model(str(tmp_path), "baseline", network, metrics={}, card="", pixel_scale=1.0)
    return str(tmp_path)


def test_load_teachers_refuses(baseline):
    with pytest.raises(InputError, match=r"'baseline', not 'counter'.* leave it out of --teachers"):
        load_teachers(config("packaged", baseline), SHAPE)
    with pytest.raises(InputError, match=r"of 4 digits, and cannot teach those of 3; leave it out"):
        load_teachers(config(baseline, network="baseline", digits=3), SHAPE)
    with pytest.raises(InputError, match="50x168"):
        load_teachers(config("packaged"), ImageShape(50, 168))
    with pytest.raises(InputError, match=r"/nowhere"):
        load_teachers(config("/nowhere"), SHAPE)


def test_baseline_teaches_sums(baseline):
    models = load_teachers(config(baseline, network="baseline"), SHAPE)
    pixels = torch.randint(0, 256, (3, 40, 168), generator=torch.Generator().manual_seed(0)).byte()
    taught = Teachers(models, CPU).mean_probs(pixels, 5)
    network = models[0].network
    logits = network(pixels.unsqueeze(1).float())
    torch.testing.assert_close(taught, logits.softmax(dim=1).detach())
    torch.testing.assert_close(distillation_loss(network, logits, taught, 5), entropy(taught))
