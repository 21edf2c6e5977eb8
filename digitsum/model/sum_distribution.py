"""The exact distribution of how many digits an image holds, and of their sum, given its columns.

Each of C columns emits, independently of the others, either nothing ("blank", with probability b_c)
or one digit d (with probability p_cd). The joint distribution of the number K of digits and of
their sum S has the generating function

    sum_{k,s} P(K=k, S=s) z^k x^s  =  prod_c ( b_c + z p_c(x) ),      p_c(x) = sum_d p_cd x^d.

For the count alone (x = 1) this is the Poisson-binomial distribution. It is computed in two forms.

**Fourier, for prediction** (`sum_probs`, `count_probs`). With z = 1, the values of the product at
the n-th roots of unity are the discrete Fourier transform of P(S = 0..n-1); n = 9 C + 1 holds every
sum, so nothing is cut off or folded back, whatever the count. One product over the columns and one
inverse transform: PLIA does so for sums of any integer variables (Duijn et al., "Probabilistic
linear integer arithmetic", NeurIPS 2024), Hong for the Poisson-binomial ("On computing the
distribution function for the Poisson binomial distribution", Computational Statistics & Data
Analysis 59, 2013). Terms cancel, so probabilities are right to the precision of 1, which is what
the most probable sum and its confidence take.

**Convolution, for learning, and for known counts** (`log_probs_by_count`). Minus the logarithm of a
small probability, and its gradient, need that probability's own precision. Divided by the blanks,
the product leaves elementary symmetric polynomials of the odds r_c(x) = p_c(x) / b_c:

    P(K=k, .)  =  prod_c b_c  *  e_k,       e_k = sum over c_1 < ... < c_k of r_{c_1} ... r_{c_k}.

With G_k[c] the part of e_k whose last digit stands in column c,

    G_1 = r,      G_{k+1}[c](x) = r_c(x) * sum_{c' < c} G_k[c'](x),      e_k = sum_c G_k[c],

so that k digits take k steps, however many columns there are: a running sum over the columns, and a
convolution of length 10 for all columns at once (for x = 1, the convolution of Chen and Liu,
"Statistical applications of the Poisson-binomial and conditional Bernoulli distributions",
Statistica Sinica 7, 1997). Every term is positive: nothing cancels. Odds are divided by a factor
rho of each image, as logarithms, and e_k multiplied by rho^k, so that what float64 computes with
stays within its range; what is still less than its least comes out as 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from digitsum.archive.schema import MAX_DIGIT, max_sum

NUM_DIGIT_VALUES = MAX_DIGIT + 1
NUM_SYMBOLS = 1 + NUM_DIGIT_VALUES
"""What a column can emit: blank, which is symbol 0, or a digit d, which is symbol 1 + d."""

# Products of odds up to e^600 leave float64 (e^709) room for how many of them are added up.
_MAX_LOG_PRODUCT = 600.0
# Bounds the memory that transforms take of wide images, each as long as all columns together.
_COLUMNS_AT_ONCE = 64
# Stands for log 0 where a gradient passes: from -inf it would come back as NaN.
_NO_LOG_PROB = -1e30


def sum_probs(symbol_log_probs_bcy: Tensor, max_sum: int) -> Tensor:
    """Return P(sum = s) for s = 0..max_sum, whatever the number of digits, float (b, max_sum + 1).

    Takes log probabilities of symbols, float (b, columns, 11), blank first. Right to the precision
    of 1 in that dtype; see the module's docstring. Probabilities of greater sums are left out.
    """
    values = (0, *range(NUM_DIGIT_VALUES))  # blank adds nothing
    return _emitted(symbol_log_probs_bcy.exp(), values, max_sum)


def count_probs(symbol_log_probs_bcy: Tensor, max_count: int) -> Tensor:
    """Return P(count = k) for k = 0..max_count, float (b, max_count + 1), likewise."""
    blank_bc = symbol_log_probs_bcy[:, :, 0].exp()
    return _emitted(torch.stack([blank_bc, 1 - blank_bc], dim=2), (0, 1), max_count)


def log_probs_by_count(symbol_log_probs_bcy: Tensor, max_count: int) -> list[Tensor]:
    """Return the joint log probabilities of the number of digits and of their sum, in nats.

    Takes log probabilities of symbols, float (b, columns, 11), blank first. Item k of the list, for
    k = 0..max_count, is float (b, 9 * k + 1): log P(count = k, sum = s), -inf where there are fewer
    than k columns. Counts above `max_count` are left out, so an image's probabilities may sum to
    less than 1. Differentiable; where it is -inf, the gradient is 0.
    """
    if max_count < 1:
        raise ValueError(f"max_count is {max_count}; it must be at least 1")
    # By [digit, column, image]: shifting by a digit, and adding up columns, then run along memory.
    symbols_ycb = symbol_log_probs_bcy.double().permute(2, 1, 0).contiguous()
    blank_cb, digits_dcb = symbols_ycb[0], symbols_ycb[1:]
    log_odds_dcb = digits_dcb - blank_cb
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
    return [log_probs_sb.T.to(symbol_log_probs_bcy.dtype) for log_probs_sb in by_count]


def known_count_log_probs(symbol_log_probs_bcy: Tensor, count: int) -> Tensor:
    """Return log P(sum | count), float (b, 9 * count + 1), in nats, normalized.

    All sums are as probable where the count is so improbable that its probabilities come out as 0.
    """
    joint_bs = log_probs_by_count(symbol_log_probs_bcy, count)[count]
    return joint_bs.clamp(min=_NO_LOG_PROB).log_softmax(dim=1)


def sum_log_probs(by_count: list[Tensor], min_count: int, max_count: int) -> Tensor:
    """Return log P(min_count <= count <= max_count, sum), float (b, 9 * max_count + 1), in nats.

    `by_count` is what `log_probs_by_count` returns.
    """
    if min_count == max_count:
        return by_count[max_count]
    num_sums = max_sum(max_count) + 1
    padded = [
        F.pad(joint_bs, (0, num_sums - joint_bs.shape[1]), value=_NO_LOG_PROB)
        for joint_bs in by_count[min_count : max_count + 1]
    ]
    total_bs = torch.stack(padded).clamp(min=_NO_LOG_PROB).logsumexp(dim=0)
    return total_bs.where(total_bs > _NO_LOG_PROB / 2, -torch.inf)


def _emitted(probs_bcy: Tensor, values_y: Sequence[int], max_sum: int) -> Tensor:
    """Return the distribution of the sum of what columns emit, float (b, max_sum + 1).

    Symbol y has probability `probs_bcy[..., y]` and adds `values_y[y]`, up from 0 to the last.
    In real numbers throughout, for not every back-end that this is compiled for knows complex ones.
    """
    num_columns = probs_bcy.shape[1]
    length = values_y[-1] * num_columns + 1
    length += length % 2
    frequencies_f = torch.arange(length // 2 + 1, dtype=torch.float64, device=probs_bcy.device)
    angles_f = frequencies_f * (2 * math.pi / length)
    values_y1 = torch.tensor(values_y, dtype=torch.float64, device=probs_bcy.device).unsqueeze(1)
    angles_yf = values_y1 * angles_f
    cos_yf, sin_yf = angles_yf.cos().to(probs_bcy.dtype), angles_yf.sin().to(probs_bcy.dtype)
    products = [
        _product(part @ cos_yf, -(part @ sin_yf))
        for part in torch.split(probs_bcy.transpose(0, 1), _COLUMNS_AT_ONCE)
    ]
    real_1bf, imaginary_1bf = _product(*map(torch.cat, zip(*products, strict=True)))

    # The inverse transform, of the sums that are wanted only. Of each pair of conjugate frequencies
    # one was computed, and counts twice.
    sums_s = torch.arange(max_sum + 1, dtype=torch.float64, device=probs_bcy.device)
    angles_fs = angles_f.unsqueeze(1) * sums_s
    weights_f1 = torch.full_like(angles_f, 2 / length).unsqueeze(1)
    weights_f1[[0, -1]] /= 2
    inverse_cos_fs = (angles_fs.cos() * weights_f1).to(probs_bcy.dtype)
    inverse_sin_fs = (angles_fs.sin() * weights_f1).to(probs_bcy.dtype)
    probs_bs = real_1bf[0] @ inverse_cos_fs - imaginary_1bf[0] @ inverse_sin_fs
    # What no columns add up to has come round to a sum that they do.
    return probs_bs.clamp(min=0) * (sums_s <= values_y[-1] * num_columns)


def _product(real_cbf: Tensor, imaginary_cbf: Tensor) -> tuple[Tensor, Tensor]:
    """Return the product of complex numbers over the columns, each part float (1, b, f)."""
    while (columns := real_cbf.shape[0]) > 1:
        half = columns // 2
        left, right, odd = slice(half), slice(half, 2 * half), slice(2 * half, columns)
        real = real_cbf[left] * real_cbf[right] - imaginary_cbf[left] * imaginary_cbf[right]
        imaginary = real_cbf[left] * imaginary_cbf[right] + imaginary_cbf[left] * real_cbf[right]
        real_cbf = torch.cat([real, real_cbf[odd]])
        imaginary_cbf = torch.cat([imaginary, imaginary_cbf[odd]])
    return real_cbf, imaginary_cbf


def _log(values: Tensor) -> Tensor:
    """Return the logarithm, -inf of 0; there its gradient is 0, for 0 times infinity is NaN."""
    tiny = torch.finfo(values.dtype).tiny
    return values.clamp(min=tiny).log().where(values > 0, -torch.inf)


def _log_rho(log_odds_dcb: Tensor, max_count: int) -> Tensor:
    """Return, (b,), the log of what each image's odds are divided by.

    The mean of the `max_count` greatest log odds of columns brings e_k of that count near 1; it is
    raised where the product of fewer of them would leave the range.
    """
    per_column = log_odds_dcb.detach().amax(dim=0)
    greatest_kb = per_column.topk(min(max_count, len(per_column)), dim=0).values
    counts_k1 = torch.arange(1, len(greatest_kb) + 1, device=greatest_kb.device).unsqueeze(1)
    least_kb = (greatest_kb.cumsum(dim=0) - _MAX_LOG_PRODUCT) / counts_k1
    return torch.maximum(greatest_kb.mean(dim=0), least_kb.amax(dim=0))


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
