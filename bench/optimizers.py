"""One step of every update rule over many arrays, alone: its gradients are there, and nothing else is done.

Arrays are of 64x64; each number of them is tried with one learning rate and with more and more distinct ones. Ours and
torch's classes step on the same kinds of arrays; where there is more than one rate, torch's have a parameter group for
each, and ours a multiplier for each array.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import etude
from etude.step.optim.compiler import library
from measure import Contender, Target, Timing, compare, repeated

Gradient: TypeAlias = Callable[[str], Tensor]

RATE = 1e-3
POINTS = ((16, 1), (16, 8), (148, 1), (148, 8), (148, 148), (1000, 1), (1000, 8), (1000, 148), (1000, 1000))
"""Numbers of arrays and of distinct learning rates."""
FEW = ((16, 8), (148, 1), (148, 148), (1000, 1000))
"""The points of a short run."""

FORMS: Mapping[str, Mapping[str, bool]] = {
    "torch, fused": {"fused": True},
    "torch, foreach": {"foreach": True},
    "torch, for-loop": {"foreach": False, "fused": False},
}
"""How torch computes a step; for-loop is what it does on a CPU where nothing is said."""

OURS: Mapping[str, tuple[type[torch.optim.Optimizer], str, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, "sgd", {"momentum": 0.9}),
    "Adam": (torch.optim.Adam, "adam", {}),
    "AdamW": (torch.optim.AdamW, "adamw", {}),
    "AMSGrad": (torch.optim.Adam, "adam", {"amsgrad": True}),
}
"""Rules that torch has too and that are our own: torch's class, our name, the settings of both."""
LONG = "torch, fused, one long array"
"""One array with as many numbers as all have together: the cost of passing over the numbers."""
ASKED = ("SGD", "Adam", "AdamW")
"""Those of which a time is asked."""

CLASSES = {
    kind.__name__: kind
    for kind in (
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.Adafactor,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        torch.optim.ASGD,
        torch.optim.Muon,
    )
}
"""torch's classes used as they are."""
FEW_CLASSES = ("AdamW", "NAdam", "Adagrad", "RMSprop")
QUICK = {"SGD, fused": "SGD", "AdamW, fused": "AdamW", "Adagrad, fused": "Adagrad"}
"""Those whose fused form is driven as well, by the name of that row."""

RULES: Mapping[str, dict[str, Any]] = {
    "signsgd": {},
    "signum": {},
    "lion": {},
    "ftrl": {},
    "ftml": {},
    "lamb": {},
    "lars": {},
    "lans": {},
    "adabelief": {},
    "dcasgd": {},
    "sgld": {},
    "rowwise_adagrad": {},
}
"""Rules that torch does not have, and the settings they are timed with."""
SPARSE = ("lazy_sgd", "lazy_adam", "rowwise_adagrad")


# -------------------------------------------------------------------------------------------------- the contenders


def dense(device: str) -> Tensor:
    """A gradient of an array."""
    return torch.randn(64, 64, device=device)


def sparse(device: str) -> Tensor:
    """The gradient of an embedding of 64 rows of which four were looked up."""
    rows = torch.randperm(64, device=device)[:4].sort().values
    return torch.sparse_coo_tensor(rows[None], torch.randn(4, 64, device=device), (64, 64)).coalesce()


class Arrays:
    """Arrays of 64x64, and a gradient for each that can be put in place again and again.

    Args:
        count: how many. gradient: makes one. device: where they are.
    """

    def __init__(self, count: int, gradient: Gradient = dense, device: str = "cpu") -> None:
        self._gradients = [gradient(device) for _ in range(count)]
        self.all = [nn.Parameter(torch.randn(g.shape, device=device)) for g in self._gradients]

    def fill(self, forget: Callable[[], object]) -> None:
        """Take the gradients away, and put them back as if they had just been computed."""
        forget()
        for array, gradient in zip(self.all, self._gradients, strict=True):
            array.grad = gradient


def groups(arrays: Sequence[nn.Parameter], rates: int, top: float = RATE) -> list[dict[str, Any]]:
    """Parameter groups with so many distinct rates, spread over the arrays."""
    return [{"params": list(arrays[i::rates]), "lr": top * (i + 1) / rates} for i in range(rates)]


def multipliers(arrays: Sequence[nn.Parameter], rates: int) -> Any:
    """The same rates as rules: one for each array."""
    return {etude.part(array): (i % rates + 1) / rates for i, array in enumerate(arrays)} if rates > 1 else None


def waiting(step: Callable[[], object], device: str) -> Callable[[], object]:
    """A step that has ended when it returns."""

    def run() -> None:
        step()
        torch.cuda.synchronize()

    return step if device == "cpu" else run


def theirs(
    kind: type[torch.optim.Optimizer],
    options: Mapping[str, Any],
    count: int,
    rates: int,
    gradient: Gradient = dense,
    device: str = "cpu",
) -> Contender:
    """A class of torch driven by hand, with a parameter group for each rate."""
    arrays = Arrays(count, gradient, device)
    optimizer = kind(groups(arrays.all, rates), **options)
    return repeated(waiting(optimizer.step, device), partial(arrays.fill, optimizer.zero_grad))


def ours(
    optimizer: Any,
    settings: Mapping[str, Any],
    count: int,
    rates: int,
    gradient: Gradient = dense,
    device: str = "cpu",
) -> Contender:
    """`etude.Trainer` with as many rates, by multipliers."""
    arrays = Arrays(count, gradient, device)
    trainer = etude.Trainer(
        arrays.all,
        optimizer,
        learning_rate=RATE,
        learning_rate_multipliers=multipliers(arrays.all, rates),
        **settings,
    )
    return repeated(waiting(partial(trainer.step, 1), device), partial(arrays.fill, trainer.zero_grad))


@contextmanager
def without_kernel() -> Iterator[None]:
    """Trainers made within this do without the compiled kernels of this library."""
    before = os.environ.get("ETUDE_NATIVE")
    os.environ["ETUDE_NATIVE"] = "0"
    library.cache_clear()
    try:
        yield
    finally:
        del os.environ["ETUDE_NATIVE"]
        if before is not None:
            os.environ["ETUDE_NATIVE"] = before
        library.cache_clear()


# ------------------------------------------------------------------------------------------------- the comparisons


def title(what: str, count: int, rates: int) -> str:
    """The name of a comparison."""
    return f"{what}: {count} arrays of 64x64, {rates} {'rate' if rates == 1 else 'rates'}"


def own_rule(rule: str, count: int, rates: int, rounds: int) -> list[Timing]:
    """One of our rules beside the three forms of torch's class, with the compiled kernel and without."""
    kind, name, settings = OURS[rule]
    contenders = {form: theirs(kind, {**settings, **way}, count, rates) for form, way in FORMS.items()}
    contenders["étude"] = ours(name, settings, count, rates)
    with without_kernel():
        contenders["étude, no kernel"] = ours(name, settings, count, rates)
    targets = []
    if rates == 1:
        long = partial(torch.randn, count * 64, 64)
        contenders[LONG] = theirs(kind, {**settings, "fused": True}, 1, 1, lambda device: long(device=device))
    else:
        contenders["étude, one rate"] = ours(name, settings, count, 1)
    if rule in ASKED and rates >= 148:
        targets = [Target("étude", 0.2), Target("étude", 3.0, "étude, one rate")]
    elif rule in ASKED and (count, rates) == (148, 1):
        targets = [Target("étude", 0.35)]
    return compare(contenders, rounds, targets)


def classes_of_torch(names: Sequence[str], count: int, rates: int, rounds: int) -> list[Timing]:
    """Classes of torch by hand, and through `etude.Trainer`."""
    contenders: dict[str, Contender] = {}
    for name in names:
        options = {"fused": True} if name in QUICK else {}
        kind = CLASSES[QUICK.get(name, name)]
        contenders[name] = theirs(kind, options, count, rates)
        contenders[through(name)] = ours(f"torch.{kind.__name__}", options, count, rates)
    return _pairs(contenders, names, rounds)


def through(name: str) -> str:
    """The name of a class of torch that étude drives."""
    return f"étude: {name}"


def _pairs(contenders: Mapping[str, Contender], names: Sequence[str], rounds: int) -> list[Timing]:
    targets = [Target(through(name), 1.1) for name in names]
    return compare(contenders, rounds, targets, {made: name for name in names for made in (name, through(name))})


def other_rules(count: int, rates: int, rounds: int) -> list[Timing]:
    """The rules that torch does not have, with torch's AdamW as a yardstick."""
    adamw = torch.optim.AdamW
    contenders = {f"AdamW, {form}": theirs(adamw, way, count, rates) for form, way in FORMS.items()}
    for name, settings in {"adamw": {}, **RULES}.items():
        contenders[f"étude: {name}"] = ours(name, settings, count, rates)
    return compare(contenders, rounds)


def sparse_rules(count: int, rates: int, rounds: int) -> list[Timing]:
    """Gradients in torch's sparse layout."""
    contenders = {"SparseAdam": theirs(torch.optim.SparseAdam, {}, count, rates, sparse)}
    for name in ("SparseAdam", *SPARSE):
        optimizer = "torch.SparseAdam" if name == "SparseAdam" else name
        contenders[through(name)] = ours(optimizer, {}, count, rates, sparse)
    return compare(contenders, rounds, [Target(through("SparseAdam"), 1.1)])


def on_cuda(count: int, rates: int, rounds: int) -> list[Timing]:
    """AdamW with a setting for each array on a GPU; the time includes waiting for it."""
    contenders = {
        "torch, fused": theirs(torch.optim.AdamW, {"fused": True}, count, rates, device="cuda"),
        "torch, foreach": theirs(torch.optim.AdamW, {"foreach": True}, count, rates, device="cuda"),
        "étude": ours("adamw", {}, count, rates, device="cuda"),
    }
    return compare(contenders, rounds, [Target("étude", 0.9)])


def results(rounds: int, wide: bool = False) -> Iterator[tuple[str, list[Timing]]]:
    """All comparisons of this file, or the few that decide; each with its title."""
    for rule in OURS if wide else ASKED:
        for point in POINTS if wide else FEW:
            yield title(rule, *point), own_rule(rule, *point, rounds)
    names = (*CLASSES, *QUICK) if wide else FEW_CLASSES
    for point in POINTS if wide else FEW[1:3]:
        yield title("Classes of torch", *point), classes_of_torch(names, *point, rounds)
    for point in POINTS if wide else FEW[1:3]:
        yield title("Other rules", *point), other_rules(*point, rounds)
    for point in POINTS if wide else ():
        yield title("Sparse gradients", *point), sparse_rules(*point, rounds)
    for point in POINTS if torch.cuda.is_available() else ():
        yield title("AdamW on CUDA", *point), on_cuda(*point, rounds)
