"""Reading of digits from columns: the most probable ones that add up to a given sum.

Each column emits its most probable symbol; with a known count, the columns with the highest odds of
a digit emit theirs. If these digits do not add up (in a few images in a hundred), dynamic
programming over the columns finds the most probable ones that do (Viterbi, "Error bounds for
convolutional codes", IEEE Transactions on Information Theory 13, 1967).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from digitsum.archive.schema import MAX_DIGIT

NO_DIGIT = -1
"""Fills up the digits of an image that has fewer of them than columns."""


def most_probable_digits(
    symbol_log_probs_bcy: Tensor, sums_b: Tensor, known_count: int | None
) -> tuple[Tensor, Tensor]:
    """Return the digits, from left to right, and their columns, each int64 (b, c) then -1.

    Takes log probabilities of symbols, (b, c, 11), blank first, and the sums, int64 (b,), that the
    digits add up to. An image has `known_count` digits, at most one a column; without a known
    count, the most probable number of them.
    """
    log_odds_bcd = symbol_log_probs_bcy[:, :, 1:] - symbol_log_probs_bcy[:, :, :1]
    best = log_odds_bcd.max(dim=2)
    if known_count is None:
        is_read_bc = best.values > 0
    else:
        chosen_bk = best.values.topk(known_count, dim=1).indices
        is_read_bc = torch.zeros_like(best.values, dtype=torch.bool).scatter(1, chosen_bk, True)
    emitted_bc = best.indices.where(is_read_bc, NO_DIGIT)
    wrong = (emitted_bc.clamp(min=0).sum(dim=1) != sums_b).nonzero().squeeze(1)
    if len(wrong):
        emitted_bc[wrong] = _viterbi(log_odds_bcd[wrong], sums_b[wrong], known_count)

    is_blank_bc = emitted_bc == NO_DIGIT
    columns_bc = is_blank_bc.to(torch.int8).argsort(dim=1, stable=True)
    digits_bc = emitted_bc.gather(1, columns_bc)
    return digits_bc, columns_bc.where(digits_bc != NO_DIGIT, NO_DIGIT)


def _viterbi(log_odds_bcd: Tensor, sums_b: Tensor, known_count: int | None) -> Tensor:
    """Return the most probable emissions that add up, int64 (b, c): digits or NO_DIGIT.

    `best_bks[:, k, s]` is the log odds of the best k digits of sum s in the columns so far (k is
    always 0 without a known count). Each column either leaves it or improves it by one more digit:

        best'[k, s] = max( best[k, s],  max_d best[k - 1, s - d] + log_odds[d] )

    and remembers which, so that the way back from the last column spells out the digits.
    """
    num_images, num_columns, _ = log_odds_bcd.shape
    num_counts = 1 if known_count is None else known_count + 1
    num_sums = int(sums_b.max()) + 1
    best_bks = log_odds_bcd.new_full((num_images, num_counts, num_sums), -torch.inf)
    best_bks[:, 0, 0] = 0
    choices = []
    for column in range(num_columns):
        one_less_bks = best_bks
        if known_count is not None:
            one_less_bks = F.pad(best_bks, (0, 0, 1, 0), value=-torch.inf)[:, :-1]
        with_digit_dbks = torch.stack(
            [
                F.pad(one_less_bks, (digit, 0), value=-torch.inf)[:, :, :num_sums]
                + log_odds_bcd[:, column, digit, None, None]
                for digit in range(MAX_DIGIT + 1)
            ]
        )
        improved = with_digit_dbks.max(dim=0)
        choices.append(improved.indices.where(improved.values > best_bks, NO_DIGIT))
        best_bks = torch.maximum(best_bks, improved.values)

    emitted_bc = sums_b.new_full((num_images, num_columns), NO_DIGIT)
    image = torch.arange(num_images, device=sums_b.device)
    rest_b = sums_b.clone()
    left_b = torch.full_like(sums_b, num_counts - 1)
    for column in reversed(range(num_columns)):
        digit_b = choices[column][image, left_b, rest_b]
        emitted_bc[:, column] = digit_b
        rest_b = rest_b - digit_b.clamp(min=0)
        if known_count is not None:
            left_b = left_b - (digit_b != NO_DIGIT).long()
    return emitted_bc
