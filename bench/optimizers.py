"""One optimizer step over many arrays, with one rate and with a rate for each array, beside torch's fused AdamW."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

import etude
from measure import Contender, Timing, compare

STEPS = 20


def arrays(count: int) -> list[nn.Parameter]:
    """Arrays of 64x64 with gradients."""
    made = [nn.Parameter(torch.randn(64, 64)) for _ in range(count)]
    for array in made:
        array.grad = torch.randn(64, 64)
    return made


def theirs(count: int, rates: int) -> Contender:
    """torch's fused AdamW, a parameter group for each rate."""
    made = arrays(count)
    groups = [{"params": made[i::rates], "lr": 1e-3 * (i + 1) / rates} for i in range(rates)]
    return repeated(torch.optim.AdamW(groups, fused=True).step)


def ours(count: int, rates: int) -> Contender:
    """`etude.Trainer` with as many multipliers; each step gets gradients that count as new."""
    made = arrays(count)
    multipliers = {etude.part(made[i]): (i % rates + 1) / rates for i in range(count)} if rates > 1 else None
    trainer = etude.Trainer(made, "adamw", learning_rate=1e-3, learning_rate_multipliers=multipliers)
    gradients = [[torch.randn(64, 64) for _ in made] for _ in range(2)]
    turn = 0

    def step() -> float:
        nonlocal turn
        turn = 1 - turn
        for array, gradient in zip(made, gradients[turn], strict=True):
            array.grad = gradient
        began = time.perf_counter()
        trainer.step()
        return time.perf_counter() - began

    return lambda: sorted(step() for _ in range(STEPS))[STEPS // 2]


def repeated(step: Callable[[], object]) -> Contender:
    """The median of several steps."""

    def timed() -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    return lambda: sorted(timed() for _ in range(STEPS))[STEPS // 2]


def results(rounds: int) -> dict[str, list[Timing]]:
    """All comparisons of this file."""
    found = {}
    for count, rates, target in ((16, 1, None), (16, 8, None), (148, 1, 0.6), (148, 148, 0.35), (1000, 1000, None)):
        contenders = {"torch AdamW(fused), groups": theirs(count, rates), "etude.Trainer": ours(count, rates)}
        title = f"optimizer step: {count} arrays of 64x64, {rates} rates"
        found[title] = compare(contenders, rounds, {} if target is None else {"etude.Trainer": target})
    return found
