import math

import torch
from factories import make_baseline, make_model

from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.training.distillation import Teachers, distillation_loss

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


def logits_of(network: CounterNetwork) -> torch.Tensor:
    return network(PIXELS.unsqueeze(1) / 255)


def joint_probs(network: CounterNetwork, max_digits: int, temperature: float = 1.0) -> torch.Tensor:
    return network.joint_log_probs(logits_of(network) / temperature, max_digits).exp().detach()


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
    teachers = Teachers([make_model(first), make_model(second, temperature=2.0)], CPU)
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
    student, teachers = counter(3), Teachers([make_model(counter(1))], CPU)
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


def test_baseline_teaches_sums():
    network = make_baseline()
    pixels = torch.randint(0, 256, (3, 16, 24), generator=torch.Generator().manual_seed(0)).byte()
    taught = Teachers([make_model(network, pixel_scale=1.0)], CPU).mean_probs(pixels, 3)
    logits = network(pixels.unsqueeze(1).float())
    torch.testing.assert_close(taught, logits.softmax(dim=1).detach())
    torch.testing.assert_close(distillation_loss(network, logits, taught, 3), entropy(taught))
