"""What a loop of one's own says to its trainer, looked at: numbers of samples, lengths, seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from numbers import Real
from typing import Any

from torch import Tensor

from etude.errors import ScheduleError, SettingError
from etude.values.progress import Extent
from etude.values.schedule import Schedule
from etude.values.spans import Span


def samples_of(batch_size: Any) -> float:
    """A number of samples, which may also be a tensor of one number, such as the sum of a mask."""
    if callable(batch_size) and not isinstance(batch_size, Tensor):
        raise SettingError("step(function): a closure is given by name. Write step(batch_size, closure=function).")
    count = batch_size.item() if isinstance(batch_size, Tensor) and batch_size.numel() == 1 else batch_size
    if isinstance(count, bool) or not isinstance(count, Real) or not 0 < float(count) < inf:
        raise SettingError(f"step({batch_size!r}): the number of samples is positive and finite.")
    return float(count)


def extent_of(total: Span | Extent | None, steps_per_epoch: int | None) -> Extent:
    """How long the run will be, from `total`; ScheduleError where that is no span of progress."""
    if isinstance(total, Extent):
        return total
    if total is None:
        return Extent()
    if not isinstance(total, Span) or total.unit not in ("steps", "epochs", "samples", "tokens"):
        raise ScheduleError(
            f"total={total!r}: a span in steps, epochs, samples or tokens is needed. Write total=steps("
            f"{total if isinstance(total, int) else 1000})."
        )
    known: dict[str, Any] = {total.unit: total.amount}
    if steps_per_epoch and total.unit == "steps":
        known["epochs"] = total.amount / steps_per_epoch
    elif steps_per_epoch and total.unit == "epochs":
        known["steps"] = total.amount * steps_per_epoch
    return Extent(**known)


def check_not_going_back(listening: Iterable[Schedule]) -> None:
    """Refuse what would go back to the best net, which nobody keeps in a loop of one's own."""
    for made in listening:
        if made.goes_back:
            raise SettingError(
                f"{made!r} goes back to the best net, and a Trainer keeps none. Leave back_to_best= out, or train with "
                "etude.train(..., validation=0.2)."
            )


def check_flags(given: Mapping[str, Any]) -> None:
    """Raise SettingError for an option that is neither True nor False."""
    for name, value in given.items():
        if not isinstance(value, bool):
            raise SettingError(f"{name}={value!r}: True or False is needed.")


def check_seed(seed: int) -> None:
    """Raise SettingError for a seed that is no whole number."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SettingError(f"seed={seed!r}: a whole number is needed.")


def count_of(value: int | None, name: str) -> int | None:
    """A number of something, or None; SettingError for what is no whole number of at least 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise SettingError(f"{name}={value!r}: a whole number of at least 1 is needed.")
    return value
