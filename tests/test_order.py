"""Order and chance are functions of what they are given, and of nothing else."""

from __future__ import annotations

import random

import numpy as np
import torch

from etude.data.order import division, in_order, item_key, permutation, sow, undisturbed


def _seed_all() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    np.random.randn()  # leaves a second normal number waiting, which is part of the state


def _drawn() -> list[float]:
    return [torch.rand(()).item(), float(np.random.rand()), random.random()]


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


def test_the_key_of_an_item_depends_on_seed_epoch_and_index() -> None:
    keys = {item_key(seed, epoch, index) for seed in range(8) for epoch in range(8) for index in range(8)}
    keys |= {item_key(2**64, 0, 0), item_key(2**64 + 1, 0, 0)}
    assert len(keys) == 8**3 + 2
    assert all(0 <= key < 2**64 for key in keys)


def test_a_key_decides_all_three_generators() -> None:
    with undisturbed():
        sow(item_key(0, 0, 5))
        first = _drawn()
        sow(item_key(0, 0, 5))
        assert _drawn() == first
        sow(item_key(0, 0, 6))
        assert all(new != old for new, old in zip(_drawn(), first, strict=True))


def test_torch_and_numpy_draw_different_bits_from_one_key() -> None:
    with undisturbed():
        sow(item_key(0, 0, 0))
        ours = torch.randint(2**31, (4,)).tolist()
        theirs = np.random.randint(2**31, size=4).tolist()
    assert not set(ours) & set(theirs)


def test_the_generators_of_the_process_are_left_as_they_were() -> None:
    _seed_all()
    expected = [*_drawn(), float(np.random.randn())]
    _seed_all()
    with undisturbed():
        sow(9)
        _drawn()
    assert [*_drawn(), float(np.random.randn())] == expected
