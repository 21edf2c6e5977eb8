"""Which digits were read, and in which columns: the most probable ones that add up to a sum.

Columns emit independently, so without regard to the sum each emits what is most probable there;
where the number of digits is known, the columns with the greatest odds of a digit emit theirs.
Where these digits do not add up (a few images in a hundred), a dynamic programme over the columns
finds the most probable ones that do (Viterbi, "Error bounds for convolutional codes", IEEE
Transactions on Information Theory 13, 1967).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from digitsum.archive.schema import MAX_DIGIT

NOTHING = -1
"""Stands where an image has fewer digits than columns."""


def most_probable_digits(
    symbol_log_probs_bcy: Tensor, sums_b: Tensor, num_digits: int | None
) -> tuple[Tensor, Tensor]:
    """Return the digits read, from left to right, and their columns, each int64 (b, c) then -1.

    Takes log probabilities of symbols, (b, c, 11), blank first, and the sums, int64 (b,), that the
    digits add up to. There are `num_digits` of them in each image, at most one a column, or, where
    that is None, as many as is most probable.
    """
    log_odds_bcd = symbol_log_probs_bcy[:, :, 1:] - symbol_log_probs_bcy[:, :, :1]
    best = log_odds_bcd.max(dim=2)
    if num_digits is None:
        is_read_bc = best.values > 0
    else:
        chosen_bk = best.values.topk(num_digits, dim=1).indices
        is_read_bc = torch.zeros_like(best.values, dtype=torch.bool).scatter(1, chosen_bk, True)
    emitted_bc = best.indices.where(is_read_bc, NOTHING)
    wrong = (emitted_bc.clamp(min=0).sum(dim=1) != sums_b).nonzero().squeeze(1)
    if len(wrong):
        emitted_bc[wrong] = _best_of_sum(log_odds_bcd[wrong], sums_b[wrong], num_digits)

    is_nothing_bc = emitted_bc == NOTHING
    columns_bc = is_nothing_bc.to(torch.int8).argsort(dim=1, stable=True)
    digits_bc = emitted_bc.gather(1, columns_bc)
    return digits_bc, columns_bc.where(digits_bc != NOTHING, NOTHING)


def _best_of_sum(log_odds_bcd: Tensor, sums_b: Tensor, num_digits: int | None) -> Tensor:
    """Return what the columns emit, int64 (b, c), digits or nothing, where it adds up as it shall.

    `best[k, s]` is the log odds of the best digits of sum s in the columns so far, k of them where
    they are counted (k is 0 throughout where not); each column leaves it or improves it by one more
    digit, and remembers which.
    """
    num_images, num_columns, _ = log_odds_bcd.shape
    num_counts = 1 if num_digits is None else num_digits + 1
    num_sums = int(sums_b.max()) + 1
    best_bks = log_odds_bcd.new_full((num_images, num_counts, num_sums), -torch.inf)
    best_bks[:, 0, 0] = 0
    steps = []
    for column in range(num_columns):
        one_less_bks = best_bks
        if num_digits is not None:
            one_less_bks = F.pad(best_bks, (0, 0, 1, 0), value=-torch.inf)[:, :-1]
        with_digit_dbks = torch.stack(
            [
                F.pad(one_less_bks, (digit, 0), value=-torch.inf)[:, :, :num_sums]
                + log_odds_bcd[:, column, digit, None, None]
                for digit in range(MAX_DIGIT + 1)
            ]
        )
        improved = with_digit_dbks.max(dim=0)
        steps.append(improved.indices.where(improved.values > best_bks, NOTHING))
        best_bks = torch.maximum(best_bks, improved.values)

    emitted_bc = sums_b.new_full((num_images, num_columns), NOTHING)
    image = torch.arange(num_images, device=sums_b.device)
    rest_b = sums_b.clone()
    left_b = torch.full_like(sums_b, num_counts - 1)
    for column in reversed(range(num_columns)):
        digit_b = steps[column][image, left_b, rest_b]
        emitted_bc[:, column] = digit_b
        rest_b = rest_b - digit_b.clamp(min=0)
        if num_digits is not None:
            left_b = left_b - (digit_b != NOTHING).long()
    return emitted_bc
