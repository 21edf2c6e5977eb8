"""The exact distribution of how many digits an image holds, and of their sum, given its columns.

Each of C columns emits, independently of the others, either nothing ("blank", with probability b_c)
or one digit d (with probability p_cd). The joint distribution of the number K of digits and of
their sum S has the generating function

    sum_{k,s} P(K=k, S=s) z^k x^s  =  prod_c ( b_c + z p_c(x) ),      p_c(x) = sum_d p_cd x^d.

For the count alone (x = 1) this is the Poisson-binomial distribution, computed by convolution as
Chen and Liu do ("Statistical applications of the Poisson-binomial and conditional Bernoulli
distributions", Statistica Sinica 7, 1997); PLIA (Duijn et al., "Probabilistic linear integer
arithmetic", NeurIPS 2024) computes sums of integer variables in the Fourier domain. Here, dividing
by the blanks leaves elementary symmetric polynomials of the odds r_c(x) = p_c(x) / b_c:

    P(K=k, .)  =  prod_c b_c  *  e_k,       e_k = sum over c_1 < ... < c_k of r_{c_1} ... r_{c_k}.

With G_k[c] the part of e_k whose last digit stands in column c,

    G_1 = r,      G_{k+1}[c](x) = r_c(x) * sum_{c' < c} G_k[c'](x),      e_k = sum_c G_k[c],

so that k digits take k steps, however many columns there are: a running sum over the columns, and a
convolution of length 10 for all columns at once. Every term is positive: unlike in the Fourier
form, nothing cancels, so small probabilities, and with them logarithms and gradients, are as exact
as large ones.

Range. Odds are divided by a factor rho of each image, and e_k multiplied by rho^k, both as
logarithms: rho is the geometric mean of the image's max_count greatest odds, so that neither the
product of these nor a part of it leaves float32's range for up to 8 digits. Odds are cut at e^20,
which moves a probability by less than 3e-9. What is e^-87 times as probable as the greatest then
comes to nothing in float32. That is no loss to a prediction, but would leave training without a
gradient where a network errs the most: what gradients are asked of, and more than 8 digits, is
computed in float64, which keeps e^-700.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from digitsum.archive.schema import MAX_DIGIT, max_sum

NUM_DIGIT_VALUES = MAX_DIGIT + 1
NUM_SYMBOLS = 1 + NUM_DIGIT_VALUES
"""What a column can emit: blank, which is symbol 0, or a digit d, which is symbol 1 + d."""

_MAX_LOG_ODDS = 20.0
_MAX_COUNT_OF_FLOAT32 = 8


def log_probs_by_count(symbol_log_probs_bcy: Tensor, max_count: int) -> list[Tensor]:
    """Return the joint log probabilities of the number of digits and of their sum, in nats.

    Takes log probabilities of symbols, float (b, columns, 11), blank first. Item k of the list, for
    k = 0..max_count, is float (b, 9 * k + 1): log P(count = k, sum = s), -inf where there are fewer
    than k columns. Counts above `max_count` are left out, so an image's probabilities may sum to
    less than 1. Differentiable where it is finite.
    """
    if max_count < 1:
        raise ValueError(f"max_count is {max_count}; it must be at least 1")
    dtype = symbol_log_probs_bcy.dtype
    in_float32 = max_count <= _MAX_COUNT_OF_FLOAT32 and not symbol_log_probs_bcy.requires_grad
    working = dtype if in_float32 else torch.float64
    # By [digit, column, image]: shifting by a digit, and adding up columns, then run along memory.
    symbols_ycb = symbol_log_probs_bcy.to(working).permute(2, 1, 0).contiguous()
    blank_cb, digits_dcb = symbols_ycb[0], symbols_ycb[1:]
    log_odds_dcb = (digits_dcb - blank_cb).clamp(max=_MAX_LOG_ODDS)
    log_rho_b = _log_rho(log_odds_dcb, max_count)
    odds_dcb = (log_odds_dcb - log_rho_b).exp()

    all_blank_b = blank_cb.sum(dim=0)
    by_count = [all_blank_b.unsqueeze(0)]
    ends_here = odds_dcb
    for count in range(1, max_count + 1):
        if count > 1:
            before = F.pad(ends_here.cumsum(dim=1)[:, :-1], (0, 0, 1, 0))
            ends_here = _Convolution.apply(before, odds_dcb)  # type: ignore[no-untyped-call]
        symmetric_sb = ends_here.sum(dim=1)
        by_count.append(_log(symmetric_sb) + (all_blank_b + count * log_rho_b))
    return [log_probs_sb.T.to(dtype) for log_probs_sb in by_count]


def sum_log_probs(by_count: list[Tensor], min_count: int, max_count: int) -> Tensor:
    """Return log P(min_count <= count <= max_count, sum), float (b, 9 * max_count + 1), in nats.

    `by_count` is what `log_probs_by_count` returns.
    """
    if min_count == max_count:
        return by_count[max_count]
    num_sums = max_sum(max_count) + 1
    padded = [
        F.pad(joint_bs.T, (0, 0, 0, num_sums - joint_bs.shape[1]), value=-torch.inf)
        for joint_bs in by_count[min_count : max_count + 1]
    ]
    return torch.stack(padded).logsumexp(dim=0).T


def _log(values: Tensor) -> Tensor:
    """Return the logarithm, -inf of 0; there its gradient is 0, for 0 times infinity is NaN."""
    tiny = torch.finfo(values.dtype).tiny
    return values.clamp(min=tiny).log().where(values > 0, -torch.inf)


def _log_rho(log_odds_dcb: Tensor, max_count: int) -> Tensor:
    """Return, (b,), the mean of the `max_count` greatest log odds of columns of each image."""
    per_column = log_odds_dcb.detach().amax(dim=0)
    greatest = per_column.topk(min(max_count, len(per_column)), dim=0).values
    return greatest.mean(dim=0)


class _Convolution(torch.autograd.Function):
    """Polynomial products, (s, c, b) by (10, c, b) to (s + 9, c, b), in as few passes as need be.

    Its own backward pass, for autograd's of ten additions in place took twice as long.
    """

    @staticmethod
    def forward(ctx: Any, left_scb: Tensor, right_dcb: Tensor) -> Tensor:
        ctx.save_for_backward(left_scb, right_dcb)
        num_left = len(left_scb)
        product = left_scb.new_zeros(num_left + len(right_dcb) - 1, *left_scb.shape[1:])
        for d, factor in enumerate(right_dcb):
            product[d : d + num_left].addcmul_(left_scb, factor)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        left_scb, right_dcb = ctx.saved_tensors
        num_left = len(left_scb)
        left_gradient = torch.zeros_like(left_scb)
        right_gradient = torch.empty_like(right_dcb)
        for d, factor in enumerate(right_dcb):
            window = gradients[0][d : d + num_left]
            left_gradient.addcmul_(window, factor)
            right_gradient[d] = (window * left_scb).sum(dim=0)
        return left_gradient, right_gradient
