"""Stochastic depth: residual branches that are left out by chance while training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

from torch import Tensor, nn

from etude.arguments import named, named_class
from etude.errors import SettingError, nearest
from etude.layers.chance import chance_in, chance_text, is_never, thinned
from etude.values.schedule import Schedule

_MODES = ("row", "batch")
_RESCALES = ("train", "evaluation")


@final
@named_class
class StochasticDepth(nn.Module):
    """A residual branch that is left out by chance: `x + branch(x)`, or `x` alone.

    Huang et al., "Deep networks with stochastic depth", ECCV 2016. The branch is computed either way, so that its
    arrays have a gradient, of 0 where it is left out.

    Args:
        branch: the module that is added to its input; other arguments of the call are handed to it.
        p: the chance to leave it out, from 0 to 1. A tensor of one element becomes a buffer: a knob fills it in place,
            and a compiled net needs no new program for another value.
        mode: "row" draws for each sample (the first axis), "batch" once for all of them.
        rescale: "train" divides the branch by 1 - p where it is kept, so that evaluation is plain; "evaluation"
            multiplies it by 1 - p in evaluation, as in the paper. Both keep the expectation.

    Shapes:
        x: any with the samples first; the branch gives the same.

    Raises:
        SettingError: an argument is none of these; in a call, the branch gives another shape.
    """

    knob_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"p": (0.0, 1.0)}
    p: float | Tensor

    def __init__(self, branch: nn.Module, p: float | Tensor = 0.0, mode: str = "row", rescale: str = "train") -> None:
        super().__init__()
        if not isinstance(branch, nn.Module):
            raise SettingError(
                f"StochasticDepth({branch!r}): the branch is a module. In a forward of your own write x + drop_path("
                "y, p, self.training)."
            )
        chance = chance_in(p, "StochasticDepth")
        _check(mode, rescale, "StochasticDepth")
        self.branch, self.mode, self.rescale = branch, mode, rescale
        if isinstance(chance, Tensor):
            self.register_buffer("p", chance, persistent=False)
        else:
            self.p = chance

    def forward(self, x: Tensor, *others: Any, **options: Any) -> Tensor:
        added = self.branch(x, *others, **options)
        if not isinstance(added, Tensor) or added.shape != x.shape:
            gave = f"the shape {tuple(added.shape)}" if isinstance(added, Tensor) else f"a {type(added).__name__}"
            raise SettingError(
                f"StochasticDepth: the branch gave {gave} for an input of the shape {tuple(x.shape)}, and they cannot "
                "be added. Use a branch that keeps the shape, or drop_path in a forward of your own."
            )
        return x + _dropped(added, self.p, self.training, self.mode, self.rescale)

    def extra_repr(self) -> str:
        return f"p={chance_text(self.p)}, mode={self.mode!r}, rescale={self.rescale!r}"


@named
def drop_path(x: Tensor, p: float | Tensor, training: bool, mode: str = "row", rescale: str = "train") -> Tensor:
    """What `StochasticDepth` adds, for a forward of your own: `x + drop_path(self.branch(x), self.p, self.training)`.

    Args:
        x: what the branch gave, of any shape with the samples first. p: the chance to drop it, from 0 to 1.
        training: whether the module is training; in evaluation `x` comes back, times 1 - p with rescale="evaluation".
        mode, rescale: as for `StochasticDepth`.

    Raises:
        SettingError: p is no chance, mode or rescale is none of those.
    """
    _check(mode, rescale, "drop_path")
    if not isinstance(p, Tensor):
        p = chance_in(p, "drop_path")
    return _dropped(x, p, training, mode, rescale)


@named
def linear_depth(where: nn.Module | Iterable[nn.Module], last: float) -> tuple[float, ...]:
    """Set how often branches are left out, linearly over depth: branch l of n with chance l / n · last (Huang et al.).

    The shares among the branches stay under a schedule that multiplies them:

        linear_depth(net, 0.5)
        knobs = {"p": {StochasticDepth: times(linear(0, 1))}}

    Args:
        where: a net, of which every `StochasticDepth` is taken in the order of definition; or modules in your own
            order, of any class with an attribute `p`.
        last: the chance of the last branch, from 0 to 1.

    Returns:
        The chance of each branch, the first one first.

    Raises:
        SettingError: there is no branch, a module has no `p`, or last is no chance; nothing is set.
    """
    if isinstance(last, Schedule):
        raise SettingError(
            f"linear_depth: last={last!r}: a number is needed. Write linear_depth(net, 0.5) and "
            'knobs={"p": {StochasticDepth: times(linear(0, 1))}}.'
        )
    end = float(chance_in(last, "linear_depth: last"))
    branches = _branches(where)
    chances = tuple(end * number / len(branches) for number in range(1, len(branches) + 1))
    for branch, p in zip(branches, chances, strict=True):
        _set(branch, p)
    return chances


def _dropped(x: Tensor, p: float | Tensor, training: bool, mode: str, rescale: str) -> Tensor:
    if not training:
        return x if rescale == "train" else x * (1 - p)
    if is_never(p):
        return x
    rows = x.shape[0] if mode == "row" and x.dim() else 1
    return thinned(x, (rows,) + (1,) * (x.dim() - 1) if x.dim() else (), p, rescale == "train")


def _check(mode: str, rescale: str, said: str) -> None:
    for name, value, allowed in (("mode", mode, _MODES), ("rescale", rescale, _RESCALES)):
        if value not in allowed:
            raise SettingError(
                f"{said}: {name}={value!r}: {' or '.join(map(repr, allowed))} is needed.{nearest(str(value), allowed)}"
            )


def _branches(where: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    if isinstance(where, nn.Module):
        found: list[nn.Module] = [module for module in where.modules() if isinstance(module, StochasticDepth)]
        if not found:
            raise SettingError(
                f"linear_depth: the {type(where).__name__} has no StochasticDepth in it. Give the modules themselves, "
                "in order: linear_depth([block.drop for block in net.blocks], 0.5)."
            )
        return found
    found = list(where)
    if not found:
        raise SettingError("linear_depth([]): there is nothing to set. Give a net, or modules with an attribute p.")
    for module in found:
        held = getattr(module, "p", None)
        if not isinstance(module, nn.Module) or not isinstance(held, float | int | Tensor) or _is_trained(held):
            raise SettingError(
                f"linear_depth: a {type(module).__name__} has no attribute p that is a number. Give a net, or "
                "modules that have one."
            )
    return found


def _is_trained(held: object) -> bool:
    return isinstance(held, nn.Parameter)


def _set(module: nn.Module, p: float) -> None:
    if isinstance(module.p, Tensor):
        module.p.fill_(p)
    else:
        module.p = p  # type: ignore[assignment]
