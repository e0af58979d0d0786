"""Initialisers by name, and what a value in `initialize=` stands for."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, TypeAlias

from torch import Tensor, nn

from etude.arguments import named
from etude.errors import SettingError, nearest
from etude.initial import draws, matrices
from etude.initial.computed import Computed
from etude.initial.initialiser import Initialiser, Scaled, number
from etude.initial.matrices import Around
from etude.values.part import Part
from etude.values.rules import Times
from etude.values.schedule import Schedule

InitialiserLike: TypeAlias = "Initialiser | str | float | Times | Callable[..., Any]"

_MADE: tuple[Callable[..., Initialiser], ...] = (
    *(draws.zeros, draws.ones, draws.constant, draws.normal, draws.truncated_normal, draws.uniform),
    *(draws.variance_scaling, draws.glorot_uniform, draws.glorot_normal, draws.xavier_uniform, draws.xavier_normal),
    *(draws.he_uniform, draws.he_normal, draws.kaiming_uniform, draws.kaiming_normal),
    *(draws.lecun_uniform, draws.lecun_normal, draws.sparse),
    *(matrices.orthogonal, matrices.identity, matrices.dirac),
)
NAMES: dict[str, Callable[..., Initialiser]] = {made.__name__: made for made in _MADE}
"""Every name and what makes it."""

_NEEDS = {"constant": "constant(0.1)", "sparse": "sparse(0.9)"}
"""Those of which a name alone does not say enough."""


@named
def initialiser(value: InitialiserLike) -> Initialiser:
    """What a value stands for: an initialiser, its name, a number, `times(r)`, or a function.

    Args:
        value: a name of this module's list; a number for every element; `times(r)`: what the module made times r; or
            `f(array)` or `f(array, generator)`, which fills the array it is given or returns another.

    Raises:
        SettingError: it is none of these; the nearest name is told. Text is never evaluated.
    """
    if isinstance(value, Initialiser):
        return value
    if isinstance(value, str):
        return _named(value)
    if isinstance(value, Times):
        return Scaled(number(value.factor, f"initialize: {value!r}"))
    if isinstance(value, Real) and not isinstance(value, bool):
        return draws.constant(number(value, f"initialize: {value!r}"))
    if any(value is made for made in _MADE):
        return _named(value.__name__)  # type: ignore[union-attr]
    if callable(value) and not isinstance(value, Schedule | Part | nn.Module | type | Tensor):
        return Computed(value)
    raise SettingError(f"initialize: {_no_value(value)}")


def _named(name: str) -> Initialiser:
    if name in _NEEDS:
        raise SettingError(f"initialize: {name!r} needs a number. Write initial.{_NEEDS[name]}.")
    if name in NAMES:
        return NAMES[name]()
    word = name.partition("(")[0].removesuffix("_initializer").rstrip("_")
    if "(" in name:
        near = nearest(word, NAMES)
        raise SettingError(
            f"initialize: {name!r} is a name with arguments, and text is not evaluated.{near} Write a call in the "
            "program, such as initial.uniform(-0.1, 0.1)."
        )
    if "/" in name or "\\" in name or "." in name:
        raise SettingError(f"initialize: {name!r} looks like a file. Write Load({name!r}).")
    raise SettingError(
        f"initialize: there is no initialiser {name!r}. There are: {', '.join(NAMES)}.{nearest(word, NAMES)}"
    )


def _no_value(value: object) -> str:
    if isinstance(value, Schedule):
        return f"{value!r} is a schedule, and an array gets its first values once. Write a number or a name."
    if isinstance(value, Tensor):
        return f"a tensor of {tuple(value.shape)}. Write a function that returns it: lambda array: tensor."
    return (
        f"{value!r} is no initialiser. Write a name such as 'orthogonal', a number, a function of an array, Load(path) "
        "or Fresh()."
    )


@named
def blocks(count: int, how: InitialiserLike) -> Initialiser:
    """Arrays of which the first axis holds `count` blocks, each with fans of its own: a fused query, key and value.

    torch's own LSTM, GRU, RNN and MultiheadAttention are known; this is for modules of one's own.

    Raises:
        SettingError: `count` is no whole number of at least 1, or `how` is no initialiser that is drawn.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SettingError(f"blocks({count!r}): a whole number of at least 1 is needed. Write blocks(3, 'orthogonal').")
    return Around(_weights(how, "blocks"), count)


@named
def transposed(how: InitialiserLike) -> Initialiser:
    """Matrices kept as (in, out), where torch's modules have (out, in): their fans the other way round."""
    return Around(_weights(how, "transposed"))


def _weights(how: InitialiserLike, said: str) -> Initialiser:
    made = initialiser(how)
    if not made.draws:
        raise SettingError(f"{said}(): {how!r} does not go by what the axes mean. Leave {said} out.")
    return made
