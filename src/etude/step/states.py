"""What a trainer keeps for later, in one form: plain values and tensors, keyed by names; and how it is looked at.

Settings and rules are kept as text, so that a difference between the file and the program can be seen, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any

from torch import Tensor

from etude.errors import SettingError, StateError
from etude.values.progress import Extent, Progress
from etude.values.rules import Rules, rules
from etude.values.schedule import Schedule, schedule
from etude.values.text import read, write

FORMAT = 2
KEYS = frozenset({"format", "optimizer", "arrays", "progress", "averages"})
KEEP = ("saved", "new")


def text_of(value: Schedule | Rules) -> str | None:
    """A setting or rules as text; None where they have none, because they are a function without a name."""
    try:
        return write(value)
    except SettingError:
        return None


def settings_in(state: Mapping[str, Any], known: Iterable[str]) -> dict[str, Schedule]:
    """The settings of a state that are known here; those that only the program can name are left out."""
    made = {name: _read(state["settings"].get(name)) for name in known}
    return {name: schedule(value) for name, value in made.items() if value is not None}


def rules_in(state: Mapping[str, Any]) -> dict[str, Rules]:
    """The rules of a state, likewise."""
    made = {setting: _read(text) for setting, text in state["rules"].items()}
    return {setting: rules(value, setting=setting) for setting, value in made.items() if isinstance(value, Rules)}


def thawed_in(state: Any) -> tuple[str, ...]:
    """Names of the arrays that were thawed by hand; none where this is no state."""
    found = state.get("thawed") if isinstance(state, Mapping) else None
    return tuple(found) if found is not None and is_names(found) else ()


def memory_of(memory: Mapping[Schedule, Any]) -> dict[str, Any]:
    """What schedules that listen remember, by their text; one without a text by its place among them."""
    return {_key(of, place): kept for place, (of, kept) in enumerate(memory.items())}


def memory_in(state: Mapping[str, Any], memory: Mapping[Schedule, Any]) -> dict[Schedule, Any]:
    """The same out of a state, for the schedules that listen here; one that is new begins anew.

    Raises:
        StateError: what was kept is no memory of the schedule.
    """
    made = {}
    for place, (of, kept) in enumerate(memory.items()):
        made[of] = as_memory(of, state["memory"].get(_key(of, place), kept))
    return made


def as_memory(of: Schedule, found: Any) -> Any:
    """What a state says that a schedule remembers, as the schedule takes it.

    Raises:
        StateError: it is no memory of the schedule.
    """
    if not _is_like(found, of.start()):
        raise StateError(f"The state remembers {found!r} for the schedule {of!r}, which is no memory of it")
    return as_tuples(found)


def _is_like(found: Any, start: Any) -> bool:
    """Whether a memory has the form of one: tuples as long, numbers or nothing in them."""
    if isinstance(start, tuple):
        same = isinstance(found, tuple | list) and len(found) == len(start)
        return same and all(_is_like(own, first) for own, first in zip(found, start, strict=True))
    return found is None or isinstance(found, int | float | tuple | list)


def as_tuples(found: Any) -> Any:
    """A memory with tuples for its lists, as they come out of a file."""
    return tuple(as_tuples(own) for own in found) if isinstance(found, tuple | list) else found


def _key(of: Schedule, place: int) -> str:
    return text_of(of) or f"schedule {place}"


def _read(text: str | None) -> Any:
    try:
        return None if text is None else read(text)
    except SettingError:
        return None


def clock_of(progress: Progress) -> dict[str, float]:
    """The clock as plain numbers."""
    return {"step": progress.step, "epoch": progress.epoch, "samples": progress.samples, "tokens": progress.tokens}


def check(state: Any, optimizer: str, arrays: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Raise StateError, listing every difference, unless it is a state of this optimizer for these arrays."""
    if not isinstance(state, Mapping) or state.get("format") != FORMAT or not state.keys() >= KEYS:
        raise StateError("This is no state of a Trainer (of this version). Give what state_dict() returned.")
    names = tuple(names)
    check_arrays(state, optimizer, names)
    own = state["arrays"]
    for key, fits in _FORMS.items():
        if not fits(state.get(key)):
            raise StateError(
                f"The state has no {_WORDS.get(key, key)}: {state.get(key)!r}. Give what state_dict() returned. "
                "Nothing was loaded."
            )
    for name, gradient in state["gradients"].items():
        shape = tuple(arrays[name].shape) if name in own else None
        if not isinstance(gradient, Tensor) or tuple(gradient.shape) != shape:
            raise StateError(f"The accumulated gradient of {name!r} does not fit an array. Nothing was loaded.")


def check_arrays(state: Mapping[str, Any], optimizer: str, names: Iterable[str]) -> None:
    """Raise StateError, listing every difference, unless a state has the memory of this optimizer for these arrays."""
    found = []
    if state["optimizer"] != optimizer:
        found.append(f"The state is of the optimizer {state['optimizer']!r}, the trainer has {optimizer!r}.")
    own, names = state["arrays"], tuple(names)
    if not isinstance(own, Mapping) or not all(isinstance(kept, Mapping) for kept in own.values()):
        raise StateError("The state has no memory of arrays by name. Give what state_dict() returned.")
    lacks = [name for name in names if name not in own]
    more = [name for name in own if name not in names]
    if lacks or more:
        found.append("The state is of other arrays.")
    if lacks:
        found.append(f"It lacks {listed(lacks)}.")
    if more:
        found.append(f"It has {listed(more)}, which the trainer does not step.")
    if found:
        raise StateError(f"{' '.join(found)} Nothing was loaded.")


def clock_in(state: Mapping[str, Any], extent: Extent) -> Progress:
    """The clock out of its plain numbers, in a run of this length."""
    return Progress(state["step"], state["epoch"], state["samples"], state["tokens"], extent)


def is_clock(value: Any) -> bool:
    """Whether it is what `clock_of` gives."""
    units = ("step", "epoch", "samples", "tokens")
    return isinstance(value, Mapping) and all(isinstance(value.get(unit), int | float) for unit in units)


def _is_text(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(own, str | None) for own in (*value, *value.values()))


def is_names(value: Any) -> bool:
    """Whether it is a list of names."""
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def is_count(value: Any) -> bool:
    """Whether it is a whole number of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_numbers(*names: str) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        found = [value.get(name) for name in names] if isinstance(value, Mapping) else [None]
        return all(isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < inf for n in found)

    return fits


def _is_window(value: Any) -> bool:
    fits = _is_numbers("count", "samples")(value)
    return fits and isinstance(value["count"], int) and (value["count"] > 0) == (value["samples"] > 0)


_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "progress": is_clock,
    "settings": _is_text,
    "rules": _is_text,
    "said": is_names,
    "held": is_names,
    "thawed": is_names,
    "memory": lambda value: isinstance(value, Mapping),
    "scale": lambda value: _is_numbers("value", "good", "dynamic")(value) and value["value"] > 0,
    "refused": lambda value: value is None or is_count(value),  # older states do not say
    "window": _is_window,
    "gradients": lambda value: isinstance(value, Mapping),
}
_WORDS = {
    "progress": "clock",
    "scale": "loss scale",
    "refused": "count of refused steps",
    "window": "window of accumulation",
}


def check_keep(keep: str | None) -> None:
    """Raise SettingError unless `keep` says whose settings hold, or nothing."""
    if keep is not None and keep not in KEEP:
        raise SettingError(
            f'keep={keep!r}: "saved" (the settings, rules and freezes of the state) or "new" (those of the trainer) '
            "is needed."
        )


def listed(names: Iterable[str]) -> str:
    """Names in quotes, with commas."""
    return ", ".join(repr(name) for name in names)


def some(names: Iterable[str], most: int = 6) -> str:
    """The same of the first few, and how many more there are: a net may have thousands of arrays."""
    names = tuple(names)
    more = len(names) - most
    return listed(names[:most]) + (f" and {more:,} more" if more > 0 else "")
