"""Which digits were read, and in which columns: the most probable ones that add up to a sum.

Columns emit independently, so without regard to the sum the most probable way to k digits is that
the k columns with the greatest odds of their best digit emit it. Where these digits do not add up
(a few images in a hundred), a dynamic programme over the columns finds the most probable ones that
do (Viterbi, "Error bounds for convolutional codes", IEEE Trans. Information Theory 13, 1967).
"""

from __future__ import annotations

import torch
from torch import Tensor

from digitsum.archive.schema import MAX_DIGIT, max_sum

NOTHING = -1
"""Stands where an image has fewer digits than another."""


def most_probable_digits(
    symbol_log_probs_bcy: Tensor, by_count: list[Tensor], sums_b: Tensor, num_digits: int | None
) -> tuple[Tensor, Tensor]:
    """Return the digits read, from left to right, and their columns, each int64 (b, k) then -1.

    Takes log probabilities of symbols, (b, columns, 11), what `log_probs_by_count` made of them,
    and the sums, int64 (b,), that the digits are to add up to. There are `num_digits` of them in
    each image, or, where that is None, as many as is most probable with that sum.
    """
    counts_b = _most_probable_count(by_count, sums_b, num_digits)
    log_odds_bcd = symbol_log_probs_bcy[:, :, 1:] - symbol_log_probs_bcy[:, :, :1]
    best = log_odds_bcd.max(dim=2)
    num_columns = best.values.shape[1]
    most = min(len(by_count) - 1, num_columns)
    chosen_bk = best.values.topk(most, dim=1).indices
    is_read_bk = torch.arange(most, device=chosen_bk.device) < counts_b.unsqueeze(1)
    columns_bk = chosen_bk.where(is_read_bk, num_columns).sort(dim=1).values
    is_read_bk = columns_bk < num_columns
    columns_bk = columns_bk.where(is_read_bk, NOTHING)
    digits_bk = best.indices.gather(1, columns_bk.clamp(min=0)).where(is_read_bk, NOTHING)

    wrong = (digits_bk.clamp(min=0).sum(dim=1) != sums_b).nonzero().squeeze(1)
    if len(wrong):
        corrected = _best_digits_of_sum(log_odds_bcd[wrong], counts_b[wrong], sums_b[wrong])
        width = corrected[0].shape[1]
        digits_bk[wrong, :width], columns_bk[wrong, :width] = corrected
    return digits_bk, columns_bk


def _most_probable_count(by_count: list[Tensor], sums_b: Tensor, num_digits: int | None) -> Tensor:
    if num_digits is not None:
        return torch.full_like(sums_b, num_digits)
    joint = [
        log_probs.gather(1, sums_b.clamp(max=max_sum(count)).unsqueeze(1))
        .squeeze(1)
        .where(sums_b <= max_sum(count), -torch.inf)
        for count, log_probs in enumerate(by_count)
    ]
    return torch.stack(joint, dim=1).argmax(dim=1)


def _best_digits_of_sum(
    log_odds_bcd: Tensor, counts_b: Tensor, sums_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Return, for each image, the most probable digits of that count and sum, and their columns.

    `best[k, s]` is the log odds of the best k digits of sum s in the columns so far; each column
    leaves it or improves it by one more digit, and remembers which.
    """
    num_images, num_columns, _ = log_odds_bcd.shape
    most = int(counts_b.max())
    best_bks = log_odds_bcd.new_full((num_images, most + 1, max_sum(most) + 1), -torch.inf)
    best_bks[:, 0, 0] = 0
    emitted = []
    for column in range(num_columns):
        extended_bksd = torch.full_like(best_bks, -torch.inf).unsqueeze(3).repeat(1, 1, 1, 10)
        for digit in range(MAX_DIGIT + 1):
            shifted = best_bks[:, :-1, : best_bks.shape[2] - digit]
            extended_bksd[:, 1:, digit:, digit] = (
                shifted + log_odds_bcd[:, column, digit, None, None]
            )
        improved = extended_bksd.max(dim=3)
        emitted.append(improved.indices.where(improved.values > best_bks, NOTHING))
        best_bks = torch.maximum(best_bks, improved.values)

    digits_bk = counts_b.new_full((num_images, most), NOTHING)
    columns_bk = digits_bk.clone()
    image = torch.arange(num_images, device=counts_b.device)
    left_b, rest_b = counts_b.clone(), sums_b.clone()
    for column in reversed(range(num_columns)):
        digit_b = emitted[column][image, left_b, rest_b]
        reads = digit_b != NOTHING
        left_b = left_b - reads.long()
        rest_b = rest_b - digit_b.where(reads, 0)
        digits_bk[image[reads], left_b[reads]] = digit_b[reads]
        columns_bk[image[reads], left_b[reads]] = column
    return digits_bk, columns_bk
