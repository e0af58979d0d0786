"""The order is a function of what it is given, and of nothing else."""

from __future__ import annotations

import torch

from etude.data.order import division, in_order, permutation


def test_the_order_of_a_seed_and_an_epoch_never_changes() -> None:
    # Runs are resumed in other processes and on other machines: a new numpy that shuffles otherwise must be noticed.
    assert permutation(8, 0, 0).tolist() == [4, 0, 7, 3, 5, 2, 1, 6]
    assert permutation(8, 1, 2).tolist() == [2, 3, 4, 1, 0, 6, 5, 7]
    assert division(8, 0).tolist() == [0, 1, 7, 5, 6, 4, 3, 2]


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = [permutation(64, seed, epoch).tolist() for seed in (0, 1, 2**70) for epoch in (0, 1, 2)]
    orders.append(division(64, 0).tolist())
    assert len({tuple(order) for order in orders}) == len(orders)


def test_an_order_is_int64_and_whole() -> None:
    order = permutation(100, 3, 4)
    assert order.dtype == torch.int64
    assert order.sort().values.equal(in_order(100))
