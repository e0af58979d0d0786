"""Bands of a mask along one axis: how many, where, how wide, and how much of the axis they cover at most."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_bands(lengths: Tensor, size: int, most: int, low: Tensor, high: Tensor, width: int, chance: float) -> Bands:
    """Draw bands for each row of a batch.

    Their number is uniform in [low, high], their starts are drawn without repetition, their widths are uniform in
    [1, width]; they may overlap, and are cut at the end of the row.

    Args:
        lengths: of the rows, shape (rows,). size: of the axis, at least every length.
        most: at least every number of `high`: how many are drawn and then, perhaps, not used.
        low, high: the least and largest number of bands in each row, shape (rows,); neither can exceed the length.
        width: the largest width. chance: with which each band is made after all.
    """
    rows, device = len(lengths), lengths.device
    most = min(most, size)
    low, high = torch.minimum(low, lengths), torch.minimum(high, lengths)
    number = low + (torch.rand(rows, device=device) * (high - low + 1)).floor().to(low.dtype)
    # The places of the largest of random numbers are drawn without repetition. Those behind the end come last.
    inside = torch.arange(size, device=device) < lengths[:, None]
    drawn = torch.rand(rows, size, device=device).masked_fill(~inside, -1.0)
    starts = drawn.topk(most, dim=1).indices if most else lengths.new_zeros(rows, 0)
    widths = torch.randint(1, width + 1, (rows, most), device=device)
    used = torch.arange(most, device=device) < number[:, None]
    if chance < 1:
        used = used & (torch.rand(rows, most, device=device) < chance)
    return Bands(starts, torch.minimum(starts + widths, lengths[:, None]), used, lengths, size)


class Bands:
    """Bands that were drawn: `starts`, `ends` (behind the last element) and `used`, each of shape (rows, number)."""

    __slots__ = ("_lengths", "_size", "ends", "starts", "used")

    def __init__(self, starts: Tensor, ends: Tensor, used: Tensor, lengths: Tensor, size: int) -> None:
        self.starts, self.ends, self.used = starts, ends, used
        self._lengths, self._size = lengths, size

    def mask(self, share: float) -> Tensor:
        """True where a band is, shape (rows, size); at most `share` of the length of each row.

        What is too much is taken from the band drawn last.
        """
        if share < 1:
            return self._bounded(share)
        rows = len(self.starts)
        steps = torch.zeros(rows, self._size + 1, dtype=torch.int32, device=self.starts.device)
        one = self.used.to(torch.int32)
        steps = steps.scatter_add(1, self.starts, one).scatter_add(1, self.ends, -one)
        return steps.cumsum(1)[:, :-1] > 0

    def _bounded(self, share: float) -> Tensor:
        places = torch.arange(self._size, device=self.starts.device)
        rows, number = self.starts.shape
        if not number:
            return torch.zeros(rows, self._size, dtype=torch.bool, device=self.starts.device)
        # Which band covers a place first: shape (rows, number, size), then (rows, size).
        covers = (places >= self.starts[..., None]) & (places < self.ends[..., None]) & self.used[..., None]
        order = torch.arange(number, device=self.starts.device)[:, None]
        first = torch.where(covers, order, number).amin(1)
        rank = (first * self._size + places).argsort(1).argsort(1)
        # A hair more: 0.3 of 10 is 3, whatever the nearest binary fraction is.
        room = (self._lengths * share + 1e-6).floor()
        return (first < number) & (rank < room[:, None])
