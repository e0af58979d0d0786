"""What an update rule costs within a whole step: forward, backward and step of a transformer of 148 arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import etude
from loops import Transformer
from measure import Contender, Target, Timing, compare, repeated
from optimizers import CLASSES, FORMS, OURS, QUICK, RULES, groups, multipliers, through, without_kernel

RATE = 1e-5
"""So small that the net stays what it is however often it steps."""
EVERY = 148
"""As many distinct rates as arrays."""


def net() -> Transformer:
    """Twelve blocks of width 64 for windows of 16 tokens: 148 arrays, 600,000 weights."""
    torch.manual_seed(0)
    return Transformer(vocabulary=64, width=64, layers=12, length=16)


def batch() -> tuple[Tensor, Tensor]:
    """Four windows, and the tokens that follow."""
    tokens = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def whole(module: nn.Module, step: Callable[[], object], forget: Callable[[], object] = lambda: None) -> Contender:
    """The time of forgetting gradients, forward, backward and step."""
    x, y = batch()

    def once() -> None:
        forget()
        F.cross_entropy(module(x), y).backward()
        step()

    return repeated(once)


def no_update() -> Contender:
    """Forward and backward."""
    made = net()
    return whole(made, lambda: None, made.zero_grad)


def theirs(kind: type[torch.optim.Optimizer], options: Mapping[str, Any], rates: int) -> Contender:
    """A class of torch by hand."""
    made = net()
    optimizer = kind(groups(list(made.parameters()), rates, RATE), **options)
    return whole(made, optimizer.step, optimizer.zero_grad)


def ours(optimizer: str, settings: Mapping[str, Any], rates: int) -> Contender:
    """`etude.Trainer`; the net's own forward forgets used gradients."""
    made = net()
    rules = multipliers(list(made.parameters()), rates)
    trainer = etude.Trainer(made, optimizer, learning_rate=RATE, learning_rate_multipliers=rules, **settings)
    return whole(made, partial(trainer.step, 1))


def muon_by_hand() -> Contender:
    """Muon for matrices, AdamW for the rest, as `optimizer="muon"` has it."""
    made = net()
    arrays = {name: array for name, array in made.named_parameters() if array.dim() == 2 and "embed" not in name}
    rest = [array for name, array in made.named_parameters() if name not in arrays]
    muon = torch.optim.Muon(list(arrays.values()), lr=RATE, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=RATE)

    def step() -> None:
        muon.step()
        adamw.step()

    return whole(made, step, made.zero_grad)


def lbfgs(by_hand: bool) -> Contender:
    """L-BFGS with four iterations a step, each of which computes the loss."""
    made, (x, y) = net(), batch()

    def closure() -> Tensor:
        loss = F.cross_entropy(made(x), y)
        loss.backward()
        return loss

    def closure_by_hand() -> Tensor:
        made.zero_grad()
        return closure()

    if by_hand:
        optimizer = torch.optim.LBFGS(made.parameters(), lr=RATE, max_iter=4, history_size=10)
        return repeated(partial(optimizer.step, closure_by_hand))
    trainer = etude.Trainer(made, "lbfgs", learning_rate=RATE, max_iter=4, history_size=10)
    return repeated(partial(trainer.step, 1, closure=closure))


def own_rule(rule: str, rounds: int) -> list[Timing]:
    """One of our rules beside torch's three forms, with one rate and with one for each array."""
    kind, name, settings = OURS[rule]
    contenders = {"no update": no_update()}
    for rates in (1, EVERY):
        for form, way in FORMS.items():
            contenders[f"{form}{_with(rates)}"] = theirs(kind, {**settings, **way}, rates)
        contenders[f"étude{_with(rates)}"] = ours(name, settings, rates)
        with without_kernel():
            contenders[f"étude, no kernel{_with(rates)}"] = ours(name, settings, rates)
    return compare(contenders, rounds)


def _with(rates: int) -> str:
    return "" if rates == 1 else f", {rates} rates"


def other_rules(rounds: int) -> list[Timing]:
    """The rules that torch does not have."""
    contenders = {"no update": no_update()}
    for name, settings in RULES.items():
        for rates in (1, EVERY):
            contenders[f"étude: {name}{_with(rates)}"] = ours(name, settings, rates)
    return compare(contenders, rounds)


def classes_of_torch(rounds: int) -> list[Timing]:
    """torch's classes, by hand and through étude."""
    contenders, targets = {"no update": no_update()}, []
    beside: dict[str, str] = {}
    for name, hand, made in _pairs():
        contenders[name], contenders[through(name)] = hand(), made()
        beside |= {name: name, through(name): name}
        targets.append(Target(through(name), 1.1))
    return compare(contenders, rounds, targets, beside)


def _pairs() -> Iterator[tuple[str, Callable[[], Contender], Callable[[], Contender]]]:
    """The name of a class and what drives it, by hand and through étude."""
    for name in (*CLASSES, *QUICK):
        kind, options = CLASSES[QUICK.get(name, name)], {"fused": True} if name in QUICK else {}
        for rates in (1, EVERY) if name != "Muon" else ():
            hand = partial(theirs, kind, options, rates)
            yield f"{name}{_with(rates)}", hand, partial(ours, f"torch.{kind.__name__}", options, rates)
    yield "Muon and AdamW", muon_by_hand, partial(ours, "muon", {}, 1)
    yield "L-BFGS", partial(lbfgs, True), partial(lbfgs, False)


def results(rounds: int, wide: bool = False) -> Iterator[tuple[str, list[Timing]]]:
    """All comparisons of this file, or AdamW alone; each with its title."""
    for rule in OURS if wide else ("AdamW",):
        yield f"Whole step: {rule}", own_rule(rule, rounds)
    if wide:
        yield "Whole step: other rules", other_rules(rounds)
        yield "Whole step: classes of torch", classes_of_torch(rounds)
