"""Networks that teach: whose opinion counts, and that it is learned."""

import math

import pytest
import torch

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.saved_model import SavedModel, load_model, packaged_model, save_model
from digitsum.options import ImageShape
from digitsum.training.config import TrainConfig
from digitsum.training.distillation import Teachers, distillation_loss, load_teachers

SHAPE = ImageShape(40, 168)
CPU = torch.device("cpu")
SIZES = ("stem_channels", "body_channels", "row_channels", "column_channels")
PIXELS = torch.randint(0, 256, (6, 40, 44), generator=torch.Generator().manual_seed(0)).byte()


def counter(seed: int, channels: int = 8) -> CounterNetwork:
    torch.manual_seed(seed)
    network = CounterNetwork(CounterConfig(40, 44, 2, **dict.fromkeys(SIZES, channels)))
    with torch.no_grad():  # else all images look alike to it
        network.head.weight.mul_(2000)
        network.head.bias[0] = 4
    return network.eval()


def model_of(network: CounterNetwork, temperature: float = 1.0) -> SavedModel:
    return SavedModel("counter", network, 1 / 255, temperature, uri="some", digest="")


def config(*teachers: str, **options) -> TrainConfig:
    return TrainConfig(out="unused", teachers=teachers, **options)


def joint_probs(network: CounterNetwork, max_digits: int, temperature: float = 1.0) -> torch.Tensor:
    logits = network(PIXELS.unsqueeze(1) / 255) / temperature
    return network.joint_log_probs(logits, max_digits).exp().detach()


def test_an_opinion_is_of_every_count_and_its_sums():
    network = counter(0)
    logits = network(PIXELS.unsqueeze(1) / 255)
    joint = network.joint_log_probs(logits, 11).exp().detach()  # as many digits as columns
    torch.testing.assert_close(joint.sum(dim=1), torch.ones(6))
    by_count = torch.stack(
        [part.sum(dim=1) for part in joint.split([9 * k + 1 for k in range(12)], 1)]
    )
    expected = network.count_probs(logits, None).detach()
    torch.testing.assert_close(by_count.T[:, : expected.shape[1]], expected, atol=1e-5, rtol=1e-4)


def test_the_teachers_opinion_is_their_mean_each_calibrated():
    first, second = counter(1), counter(2, channels=4)
    teachers = Teachers([model_of(first), model_of(second, temperature=2.0)], CPU)
    expected = (joint_probs(first, 3) + joint_probs(second, 3, temperature=2.0)) / 2
    torch.testing.assert_close(teachers.opinion(PIXELS, 3), expected)
    assert not teachers.opinion(PIXELS, 3).requires_grad


def test_no_opinion_costs_less_than_the_teachers_own():
    teacher, pupil = counter(1), counter(3)
    opinion = joint_probs(teacher, 11)
    own = distillation_loss(teacher, teacher(PIXELS.unsqueeze(1) / 255), opinion, 11)
    other = distillation_loss(pupil, pupil(PIXELS.unsqueeze(1) / 255), opinion, 11)
    entropy = torch.special.entr(opinion).sum(dim=1).mean()
    torch.testing.assert_close(own, entropy, atol=1e-4, rtol=1e-4)
    assert other > own + 0.1


def test_four_fifths_of_the_loss_are_the_teachers_opinion():
    pupil, teachers = counter(3), Teachers([model_of(counter(1))], CPU)
    logits = pupil(PIXELS.unsqueeze(1) / 255)
    taught = distillation_loss(pupil, logits, teachers.opinion(PIXELS, 3), 3)
    found = teachers.loss(pupil, PIXELS, logits, torch.tensor(2.0), 3)
    torch.testing.assert_close(found, 0.2 * 2.0 + 0.8 * taught)
    assert found.requires_grad


def test_what_a_network_holds_to_be_impossible_costs_no_infinity():
    teacher, pupil = counter(1), counter(3)
    logits = torch.zeros(6, 11, 11)
    logits[:, :, 0] = 1000  # that there is any digit
    logits.requires_grad_()
    loss = distillation_loss(pupil, logits, joint_probs(teacher, 3), 3)
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()


def test_a_pupil_comes_to_think_as_its_teacher_does():
    teacher, pupil = counter(1), counter(3, channels=16)
    opinion = joint_probs(teacher, 11)
    optimizer = torch.optim.Adam(pupil.parameters(), lr=1e-3)

    def distance() -> float:
        return float((joint_probs(pupil, 11) - opinion).abs().sum(dim=1).mean())

    before = distance()
    for _ in range(100):
        loss = distillation_loss(pupil, pupil(PIXELS.unsqueeze(1) / 255), opinion, 11)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert distance() < before / 3


def test_teachers_are_bundles_or_the_packaged_one(tmp_path):
    packaged = load_model(packaged_model())
    scale = packaged.pixel_scale
    save_model(str(tmp_path), "counter", packaged.network, metrics={}, card="", pixel_scale=scale)
    found = load_teachers(config("packaged", str(tmp_path)), SHAPE)
    assert [teacher.uri for teacher in found] == [packaged.uri, load_model(str(tmp_path)).uri]
    assert load_teachers(config(), SHAPE) == []
    assert load_teachers(TrainConfig(out="unused"), SHAPE) == []


def test_who_cannot_teach_is_refused_with_what_to_do(tmp_path):
    network = BaselineNetwork(BaselineConfig(40, 168, 4))
    save_model(str(tmp_path), "baseline", network, metrics={}, card="", pixel_scale=1.0)
    with pytest.raises(InputError, match=r"'baseline', which cannot teach 'counter'; leave it out"):
        load_teachers(config("packaged", str(tmp_path)), SHAPE)
    with pytest.raises(InputError, match=r"of 4 digits, and cannot teach those of 3; leave it out"):
        load_teachers(config(str(tmp_path), network="baseline", digits=3), SHAPE)
    with pytest.raises(InputError, match="50x168"):
        load_teachers(config("packaged"), ImageShape(50, 168))
    with pytest.raises(InputError, match=r"/nowhere"):
        load_teachers(config("/nowhere"), SHAPE)


def test_networks_that_do_not_count_teach_each_other_sums(tmp_path):
    torch.manual_seed(0)
    network = BaselineNetwork(BaselineConfig(40, 168, 4)).eval()
    save_model(str(tmp_path), "baseline", network, metrics={}, card="", pixel_scale=1.0)
    models = load_teachers(config(str(tmp_path), network="baseline"), SHAPE)
    pixels = torch.randint(0, 256, (3, 40, 168), generator=torch.Generator().manual_seed(0)).byte()
    opinion = Teachers(models, CPU).opinion(pixels, 5)
    logits = network(pixels.unsqueeze(1).float())
    torch.testing.assert_close(opinion, logits.softmax(dim=1).detach())
    entropy = torch.special.entr(opinion).sum(dim=1).mean()
    torch.testing.assert_close(distillation_loss(network, logits, opinion, 5), entropy)
