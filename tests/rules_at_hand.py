"""Every update rule there is, ready to be tried on small arrays: by name, by class, by part, and a user's own."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from etude.step.optim.rule import Setting, UpdateRule
from etude.step.trainer import Trainer
from etude.values.part import everything
from etude.values.tree import Tree
from nets import alike


class Tiger(UpdateRule):
    """A rule that a user has written: the sign of a running mean, scaled by how often the array has moved."""

    name: ClassVar[str] = "tiger"
    settings: ClassVar[Mapping[str, Setting]] = {"beta": Setting(0.9, 0.0, 1.0), "weight_decay": Setting(0.0)}
    memories: ClassVar[tuple[str, ...]] = ("mean",)
    rate: ClassVar[float] = 0.01

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        mean = memory["mean"].lerp_(-gradient if climb else gradient, 1 - settings["beta"])
        if settings["weight_decay"]:
            array.mul_(1 - settings["learning_rate"] * settings["weight_decay"])
        array.sub_(mean / (mean.abs() + 0.1) * settings["learning_rate"] / count)


def _factory(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.NAdam(groups, lr=0.01)


def _instance(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.0)


@dataclass(frozen=True)
class Case:
    """An update rule with settings, and what has to be known to try it.

    Attributes:
        name: in the names of tests. optimizer: what a trainer is given; the name if left out.
        settings: with momentum and the like on, decay and noise off.
        own: one of the library's rules, or written as one. decays: it has `weight_decay`.
        part: the arrays that it can move. sparse: it is given sparse gradients. closure: it computes the loss itself.
        of_net: `optimizer` is a function of the net.
    """

    name: str
    optimizer: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    own: bool = True
    decays: bool = True
    part: str | None = None
    sparse: bool = False
    closure: bool = False
    of_net: bool = False

    def trainer(self, net: nn.Module, **more: Any) -> Trainer:
        """A trainer of the net under the rule, with a rate of 0.01; `more` comes before the settings of the rule."""
        optimizer = self.optimizer(net) if self.of_net else self.optimizer or self.name
        given = {"learning_rate": 0.01, "part": self.part, **self.settings, **more}
        return Trainer(net, optimizer, **given)

    def step(self, trainer: Trainer, net: nn.Module, number: int, count: float = 1.0, **how: Any) -> bool:
        """One step by gradients of a loss summed over `count` samples, which are those of this number.

        Args:
            how: `zero=True` for gradients of zero; `spoiled` names of arrays whose gradient is NaN, `without` of those
                that the loss does not have.
        """
        if not self.closure:
            self.give(net, number, count, **how)
            return trainer.step(count)
        arrays = Tree(net).arrays
        found = self.gradients(net, number, **how)
        found = {name: found[name] for name in trainer.table.names if name in found}

        def closure() -> Tensor:
            loss = torch.stack([(arrays[name] * own + arrays[name] ** 2 / 8).sum() for name, own in found.items()])
            total = loss.sum() * count
            total.backward()
            return total

        return trainer.step(count, closure=closure)

    def give(self, net: nn.Module, number: int, count: float = 1.0, **how: Any) -> None:
        """The gradients of this number, times `count`, in place of those that are there."""
        arrays = Tree(net).arrays
        for name, own in self.gradients(net, number, **how).items():
            arrays[name].grad = own * count

    def gradients(
        self,
        net: nn.Module,
        number: int,
        zero: bool = False,
        spoiled: Iterable[str] = (),
        without: Iterable[str] = (),
    ) -> dict[str, Tensor]:
        """A gradient for every parameter, by name; those of one number are the same whatever the order of the net."""
        made = {name: drawn(array, number, name) for name, array in Tree(net).arrays.items() if name not in without}
        for name in made:
            made[name] = made[name] * 0 if zero else made[name]
            made[name] = torch.full_like(made[name], torch.nan) if name in set(spoiled) else made[name]
        return {name: self.laid_out(own, number) for name, own in made.items()}

    def laid_out(self, gradient: Tensor, number: int) -> Tensor:
        """A gradient in the layout that the rule is given: sparse ones lack some rows."""
        return some_rows(gradient, number) if self.sparse else gradient

    def walk(self, trainer: Trainer, net: nn.Module, numbers: Iterable[int], count: float = 1.0) -> None:
        """A step for each of these numbers."""
        for number in numbers:
            self.step(trainer, net, number, count)

    def __str__(self) -> str:
        return self.name


def drawn(array: Tensor, number: int, name: str) -> Tensor:
    """Normal numbers for an array, representable in bfloat16."""
    generator = torch.Generator().manual_seed(1000 * number + zlib.crc32(name.encode()) % 1000)
    return torch.randn(array.shape, generator=generator).bfloat16().to(array.dtype)


def some_rows(gradient: Tensor, number: int) -> Tensor:
    """Two of every three rows, in the sparse layout."""
    rows = torch.tensor([row for row in range(len(gradient)) if (row + number) % 3], dtype=torch.long)
    return torch.sparse_coo_tensor(rows[None], gradient[rows], gradient.shape, is_coalesced=True)


class Net(nn.Module):
    """Layers `a` and `b` from 3 to 4, `out` from 8 to 2, made in this order or another; the same numbers in any."""

    def __init__(self, order: Sequence[str] = ("a", "b", "out"), dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        for key in order:
            self.add_module(key, nn.Linear(8, 2) if key == "out" else nn.Linear(3, 4))
        for name, array in self.named_parameters():
            own = drawn(array, 7, name)
            array.data = own.sign() * (own.abs() + 0.5).bfloat16().float()
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.out(torch.cat([self.a(x).tanh(), self.b(x).tanh()], dim=1))
        return joined


def same_arrays(one: nn.Module, other: nn.Module, names: Iterable[str] | None = None) -> bool:
    """Whether arrays of the same names are alike to the bit."""
    ones, others = Tree(one).arrays, Tree(other).arrays
    return all(alike(ones[name], others[name]) for name in (others if names is None else names))


def distance(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of any element."""
    ones, others = Tree(one).arrays, Tree(other).arrays
    return max(float((ones[name].detach().double() - others[name].double()).abs().max().detach()) for name in others)


MATRICES = "*.weight"
_PLAIN: Mapping[str, Any] = {"weight_decay": 0.0}


def _torch(name: str, **options: Any) -> Case:
    return Case(name, own=False, decays="weight_decay" in options, settings=options)


CASES: tuple[Case, ...] = (
    Case("sgd"),
    Case("momentum", "sgd", {"momentum": 0.9}),
    Case("nesterov", "sgd", {"momentum": 0.9, "nesterov": True}),
    Case("nag"),
    Case("dampening", "sgd", {"momentum": 0.9, "dampening": 0.5}),
    Case("adam"),
    Case("amsgrad", "adam", {"amsgrad": True, "betas": (0.9, 0.5)}),
    Case("amsgrad by name", "amsgrad", {"betas": (0.9, 0.5)}),
    Case("adamw", settings=_PLAIN),
    Case("signum"),
    Case("signsgd"),
    Case("lion"),
    Case("ftrl"),
    Case("ftml"),
    Case("lamb"),
    Case("lars", settings={"trust": 0.1}),
    Case("lans"),
    Case("adabelief"),
    Case("dcasgd", settings={"momentum": 0.9}),
    Case("sgld", settings={"temperature": 0.1}),
    Case("conditioned", "sgld", {"temperature": 0.1, "precondition": True}),
    Case("rowwise_adagrad"),
    Case("lazy_sgd", settings={"momentum": 0.9}),
    Case("lazy_adam"),
    Case("sparse rowwise", "rowwise_adagrad", sparse=True),
    Case("sparse lazy_sgd", "lazy_sgd", {"momentum": 0.9}, sparse=True),
    Case("sparse lazy_adam", "lazy_adam", {"eps": 1e-3}, sparse=True),
    Case("registered", "tiger"),
    Case("rule", Tiger()),
    _torch("torch.sgd", momentum=0.9, nesterov=True, weight_decay=0.0),
    _torch("torch.adam", amsgrad=True, weight_decay=0.0),
    _torch("torch.adamw", weight_decay=0.0),
    _torch("adadelta", eps=0.01, weight_decay=0.0),
    _torch("adafactor", weight_decay=0.0),
    _torch("adagrad", lr_decay=0.1, weight_decay=0.0),
    _torch("adamax", weight_decay=0.0),
    _torch("asgd", lambd=0.0, weight_decay=0.0),
    _torch("nadam", weight_decay=0.0),
    _torch("radam", weight_decay=0.0),
    _torch("rmsprop", momentum=0.9, centered=True, weight_decay=0.0),
    _torch("rprop"),
    Case("sparseadam", settings={"eps": 1e-3}, own=False, decays=False, sparse=True),
    Case("lbfgs", settings={"learning_rate": 0.5, "max_iter": 4}, own=False, decays=False, closure=True),
    Case("torch.optim.Muon", torch.optim.Muon, _PLAIN, own=False, part=MATRICES),
    Case("muon", settings=_PLAIN, own=False),
    Case("parts", {"*bias": "sgd", everything: "rmsprop"}, {"momentum": 0.9, **_PLAIN}, own=False),
    Case("own parts", {"*bias": "lion", everything: "adamw"}, _PLAIN, own=False),
    Case("factory", _factory, own=False, decays=False),
    Case("instance", _instance, own=False, of_net=True),
)

Feature = Callable[[Case], None]
