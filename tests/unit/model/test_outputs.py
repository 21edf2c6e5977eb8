import torch

from digitsum.model.outputs import Posterior


def test_posterior_select_replace_concatenate():
    rng = torch.Generator().manual_seed(0)
    whole, other = (
        Posterior(torch.rand(6, 3, 2, generator=rng), torch.rand(6, 5, generator=rng))
        for _ in range(2)
    )
    rows = torch.tensor([4, 1])
    replaced = whole.replace(rows, other.select(rows))
    for name in ("logits", "sum_log_probs"):
        expected = getattr(whole, name).clone()
        expected[rows] = getattr(other, name)[rows]
        assert torch.equal(getattr(replaced, name), expected)
    assert replaced.digits is None
    halves = [whole.select(torch.arange(0, 2)), whole.select(torch.arange(2, 6))]
    assert torch.equal(Posterior.concatenate(halves).logits, whole.logits)
