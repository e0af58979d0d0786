"""What can be the value of a schedule: a literal as it is kept, and what is refused."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from torch import nn

from etude.errors import ScheduleError
from etude.values.marks import FROZEN, Choice
from etude.values.part import Part, Repeat, part
from etude.values.spans import Span


def refuse_scheduler(literal: object) -> None:
    """Refuse what belongs to torch's schedulers, known by its module: they tick, and a schedule does not."""
    kind = literal if isinstance(literal, type) else type(literal)
    if not any(base.__module__ == "torch.optim.lr_scheduler" for base in kind.__mro__):
        return
    name = f"class {kind.__name__}" if kind is literal else kind.__name__
    if any(base.__name__ == "ReduceLROnPlateau" for base in kind.__mro__):
        write = 'plateau("val.loss", factor=0.1, patience=10) * 0.1'
    elif kind is literal:
        write = f"etude.optim.from_torch(lambda optimizer: {kind.__name__}(optimizer, ...), rate=0.1)"
    else:
        write = (
            "etude.optim.from_torch(scheduler), before it is stepped, or from_torch(lambda optimizer: ..., rate=0.1)"
        )
    raise ScheduleError(f"{name}: a scheduler of torch, which ticks, is no schedule. Write {write}.")


def number(value: object, said: str, name: str = "") -> float:
    """`value` as a finite number of Python's own.

    Args:
        value: what was given. said: the call it was given to, for the message; name: of the argument.

    Raises:
        ScheduleError: it is a bool, no number, NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or value - value != 0:
        raise ScheduleError(f"{said}: a finite number is needed{f' for {name}' if name else ''}, not {value!r}.")
    return int(value) if isinstance(value, Integral) else float(value)


def plain_value(value: Any) -> Any:
    """A literal as it is kept: numbers as Python's own, modules and types of modules as parts."""
    if isinstance(value, bool) or value is None or value is FROZEN or isinstance(value, str | tuple | Part | Choice):
        return value
    if isinstance(value, Real):
        if value != value:
            raise ScheduleError("NaN cannot be the value of a schedule.")
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, nn.Module | type):
        return part(value)
    raise ScheduleError(_no_value(value))


def _no_value(value: object) -> str:
    hint = "Write a number, a bool, a part, FROZEN, a schedule or a function of Progress."
    if isinstance(value, list):
        hint = "For steps in turn write cycle(...); for values one after the other, pieces(...)."
    elif isinstance(value, Repeat):
        hint = f"A repetition is an item of a cycle. Write cycle({value!r}, ...)."
    elif isinstance(value, Span):
        hint = f"A span says how long. Write schedule.until({value!r}) or over={value!r}."
    elif hasattr(value, "item"):
        hint = "For the number in it write .item()."
    return f"{value!r}: a {type(value).__name__} cannot be the value of a schedule. {hint}"


def kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, Real):
        return "number"
    return "part" if isinstance(value, Part) else "any"
