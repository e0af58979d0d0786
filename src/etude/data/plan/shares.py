"""Shares: the units of one batch among ranks, balanced in cost."""

from __future__ import annotations

from heapq import heapify, heapreplace

import numpy as np
import numpy.typing as npt

from etude.data.plan.lengths import Whole
from etude.errors import DataError


def shares(costs: npt.ArrayLike, ranks: int) -> list[Whole]:
    """The units of a batch among ranks: each in turn, the costliest first, goes where there is least so far.

    The largest sum of a share is at most 4/3 of the best possible (Graham, 1969). Every rank that makes this from the
    same costs makes the same shares.

    Args:
        costs: of the units, at least 0, shape (units,). Of equal ones the first goes first; of ranks that have equally
            much, the one with fewer units, then the lower.
        ranks: how many there are, at least 1. With fewer units than ranks some have none.

    Returns:
        For each rank places in the batch, int64, ascending; every place in exactly one of them.

    Raises:
        DataError: a cost that is negative, infinite or NaN; no rank.
    """
    if ranks < 1:
        raise DataError(f"A batch cannot be shared among {ranks} ranks. There is at least 1.")
    costs = np.asarray(costs, np.float64)
    wrong = np.flatnonzero(~(np.isfinite(costs) & (costs >= 0)))
    if len(wrong):
        raise DataError(
            f"The cost of unit {wrong[0]} of the batch is {costs[wrong[0]]:g}. A cost is a number from 0 on."
        )
    if ranks == 1:
        return [np.arange(len(costs))]
    of = np.empty(len(costs), np.int64)
    loads = [(0.0, 0, rank) for rank in range(ranks)]
    heapify(loads)
    order = np.argsort(-costs, kind="stable")
    for place, cost in zip(order.tolist(), costs[order].tolist(), strict=True):
        load, units, rank = loads[0]
        of[place] = rank
        heapreplace(loads, (load + cost, units + 1, rank))
    return [np.flatnonzero(of == rank) for rank in range(ranks)]


def share(costs: npt.ArrayLike, rank: int, ranks: int) -> Whole:
    """The places of one rank, as `shares` divides them.

    Args:
        costs: of the units of the batch, shape (units,). rank: from 0 to ranks - 1. ranks: how many there are.

    Raises:
        DataError: no such rank, or what `shares` refuses.
    """
    if not 0 <= rank < ranks:
        raise DataError(f"There is no rank {rank} among {ranks}. Ranks are 0 to {ranks - 1}.")
    return shares(costs, ranks)[rank]
