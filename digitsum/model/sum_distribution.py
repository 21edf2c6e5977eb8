"""The exact distribution of the number of digits in an image, and of their sum, from its columns.

Each of C columns emits one symbol, independently of the others: blank, with probability b_c, or a
digit d, with probability p_cd. The number K of digits and their sum S have the generating function

    sum_{k,s} P(K=k, S=s) z^k x^s  =  prod_c ( b_c + z p_c(x) ),      p_c(x) = sum_d p_cd x^d.

For the count alone (x = 1) this is the Poisson-binomial distribution. There are two ways to it.

**Fourier, for prediction** (`sum_probs`, `count_probs`). At z = 1, the product's values at the n-th
roots of unity are the discrete Fourier transform of P(S = 0..n-1), and n = 9 C + 1 holds every sum
(Duijn et al., "Probabilistic linear integer arithmetic", NeurIPS 2024; for the Poisson-binomial:
Hong, "On computing the distribution function for the Poisson binomial distribution", Computational
Statistics & Data Analysis 59, 2013). Terms cancel, so probabilities have the precision of 1, which
is enough for the most probable sum and its confidence.

**Convolution, for learning, and for known counts** (`log_probs_by_count`). The logarithm of a small
probability, and its gradient, need that probability's own precision. Divided by the blanks, the
product leaves elementary symmetric polynomials of the odds r_c(x) = p_c(x) / b_c:

    P(K=k, .)  =  prod_c b_c  *  e_k,       e_k = sum over c_1 < ... < c_k of r_{c_1} ... r_{c_k}.

With G_k[c] the part of e_k whose last digit stands in column c,

    G_1 = r,      G_{k+1}[c](x) = r_c(x) * sum_{c' < c} G_k[c'](x),      e_k = sum_c G_k[c],

so k digits take k running sums and convolutions of length 10, whatever the number of columns (for
x = 1: Chen and Liu, "Statistical applications of the Poisson-binomial and conditional Bernoulli
distributions", Statistica Sinica 7, 1997). No term is negative, so nothing cancels. To stay within
float64's range, each image's odds are divided by a factor rho, and e_k multiplied by rho^k; what
still underflows becomes 0.

Suffixes as in network.py; here f are the frequencies of a transform.
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
"""Symbols that a column can emit: 0 is blank, 1 + d is the digit d."""

# Products of odds up to e^600 leave float64 (up to e^709) room for adding up many of them.
_MAX_LOG_PRODUCT = 600.0
# Bounds the memory for wide images: each column's transform is as long as all columns together.
_COLUMNS_AT_ONCE = 64
# Stands for log 0 on the way of a gradient, which -inf would turn into NaN.
_NO_LOG_PROB = -1e30


def sum_probs(symbol_log_probs_bcy: Tensor, max_sum: int) -> Tensor:
    """Return P(sum = s) for s = 0..max_sum, whatever the number of digits, float (b, max_sum + 1).

    Takes log probabilities of symbols, float (b, columns, 11), blank first. Has the precision of 1
    in that dtype; see the module's docstring. Larger sums are left out.
    """
    values = (0, *range(NUM_DIGIT_VALUES))  # blank adds nothing
    return _distribution(symbol_log_probs_bcy.exp(), values, max_sum)


def count_probs(symbol_log_probs_bcy: Tensor, max_count: int) -> Tensor:
    """Return P(count = k) for k = 0..max_count, float (b, max_count + 1); see `sum_probs`."""
    blank_bc = symbol_log_probs_bcy[:, :, 0].exp()
    return _distribution(torch.stack([blank_bc, 1 - blank_bc], dim=2), (0, 1), max_count)


def log_probs_by_count(symbol_log_probs_bcy: Tensor, max_count: int) -> list[Tensor]:
    """Return the joint log probabilities of the number of digits and of their sum, in nats.

    Takes log probabilities of symbols, float (b, columns, 11), blank first. Item k of the list, for
    k = 0..max_count, is float (b, 9 * k + 1): log P(count = k, sum = s), -inf if there are fewer
    than k columns. Counts above `max_count` are left out, so an image's probabilities may sum to
    less than 1. Differentiable; the gradient of -inf is 0.
    """
    if max_count < 1:
        raise ValueError(f"max_count is {max_count}; it must be at least 1")
    # In this order of dimensions, shifts by a digit and sums over columns run along memory.
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

    All sums are equally probable if the count is so improbable that its probabilities underflow.
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


def _distribution(probs_bcy: Tensor, values_y: Sequence[int], max_sum: int) -> Tensor:
    """Return the distribution of the sum of the columns' values, float (b, max_sum + 1).

    Symbol y has probability `probs_bcy[..., y]` and value `values_y[y]`; values rise from 0.
    All numbers are real, because OpenVINO compiles this too and lacks complex ones.
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

    # The inverse transform, at sums up to max_sum only. One of each pair of conjugate frequencies
    # was computed, and counts twice.
    sums_s = torch.arange(max_sum + 1, dtype=torch.float64, device=probs_bcy.device)
    angles_fs = angles_f.unsqueeze(1) * sums_s
    weights_f1 = torch.full_like(angles_f, 2 / length).unsqueeze(1)
    weights_f1[[0, -1]] /= 2
    inverse_cos_fs = (angles_fs.cos() * weights_f1).to(probs_bcy.dtype)
    inverse_sin_fs = (angles_fs.sin() * weights_f1).to(probs_bcy.dtype)
    probs_bs = real_1bf[0] @ inverse_cos_fs - imaginary_1bf[0] @ inverse_sin_fs
    # The transform is periodic: a sum beyond all columns repeats a smaller one.
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
    """Return the logarithm, -inf of 0; there the gradient is 0, because 0 times infinity is NaN."""
    tiny = torch.finfo(values.dtype).tiny
    return values.clamp(min=tiny).log().where(values > 0, -torch.inf)


def _log_rho(log_odds_dcb: Tensor, max_count: int) -> Tensor:
    """Return log rho, (b,), by whose factor each image's odds are divided.

    The mean of the columns' `max_count` greatest log odds brings e_k of that count near 1; it is
    raised if the product of fewer of them would leave the range.
    """
    per_column = log_odds_dcb.detach().amax(dim=0)
    greatest_kb = per_column.topk(min(max_count, len(per_column)), dim=0).values
    counts_k1 = torch.arange(1, len(greatest_kb) + 1, device=greatest_kb.device).unsqueeze(1)
    least_kb = (greatest_kb.cumsum(dim=0) - _MAX_LOG_PRODUCT) / counts_k1
    return torch.maximum(greatest_kb.mean(dim=0), least_kb.amax(dim=0))


class _Convolution(torch.autograd.Function):
    """Products of polynomials, (s, c, b) by (10, c, b) to (s + 9, c, b).

    Hand-written, because autograd's backward pass of ten additions in place took twice as long.
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
