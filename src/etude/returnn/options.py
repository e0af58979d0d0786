"""The options of RETURNN for learning rates, as schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from etude.arguments import named
from etude.errors import SettingError, nearest
from etude.hints import not_there
from etude.returnn.lines import by_epoch, is_number
from etude.values.newbob import newbob
from etude.values.schedule import Schedule
from etude.values.scores import direction

_CONTROLS = {
    "constant": "constant",
    "newbob": "relative",
    "newbob_rel": "relative",
    "newbob_relative": "relative",
    "newbob_abs": "absolute",
    "newbob_multi_epoch": "multi",
}
_DECAY, _GROWTH = (
    ("learning_rate_decay", "newbob_learning_rate_decay"),
    ("learning_rate_growth", "newbob_learning_rate_growth"),
)
_MEASURE = "learning_rate_control_error_measure"
_HOLD = "learning_rate_control_min_num_epochs_per_new_lr"
_SCALED = "learning_rate_control_relative_error_relative_lr"
_BY_OLD = "newbob_relative_error_div_by_old"
_THRESHOLD, _GROW_THRESHOLD = "newbob_relative_error_threshold", "newbob_relative_error_grow_threshold"
_ABSOLUTE = "newbob_error_threshold"
_WINDOW, _INTERVAL = "newbob_multi_num_epochs", "newbob_multi_update_interval"
_ALWAYS = ("learning_rate", "learning_rate_control", "learning_rates", "min_learning_rate")
_NEWBOB = (*_ALWAYS, *_DECAY, *_GROWTH, _MEASURE, _HOLD)
_TAKES = {
    "constant": _ALWAYS,
    "relative": (*_NEWBOB, _SCALED, _BY_OLD, _THRESHOLD),
    "absolute": (*_NEWBOB, _ABSOLUTE),
    "multi": (*_NEWBOB, _SCALED, _BY_OLD, _THRESHOLD, _GROW_THRESHOLD, _WINDOW, _INTERVAL),
}
"""The options that each control makes use of."""

_ELSEWHERE = {
    "learning_rate_file": "the file is read by rate_file(path), and rate_file(path).schedule() has its rates.",
    "dynamic_learning_rate": "write a function of Progress, as in learning_rate=lambda p: 1e-3 * 0.9 ** p.epoch.",
    "use_learning_rate_control_always": "a schedule holds in every epoch, of pretraining too. Leave it out.",
}
"""Options of RETURNN that are something else here, and what."""
_KNOWN = tuple(dict.fromkeys(name for names in _TAKES.values() for name in names))


@named
def newbob_from(options: Mapping[str, Any], scores: str | Sequence[str] | None = None) -> Schedule:
    """The schedule of learning rates that options of RETURNN describe.

    The rates are the same, but where RETURNN's have a fault: NaN and infinite scores are no improvement, a score of 0
    is a score like any other, `min_learning_rate` bounds every rate, and what can never act is refused.

    Args:
        options: of RETURNN, by its names: learning_rate (needed unless learning_rates has epoch 1), learning_rates,
            learning_rate_control ("constant", "newbob", "newbob_abs", "newbob_multi_epoch", ...) and what belongs to
            it. Factors may be any number above 0, or functions.
        scores: the name of the score that rules, or of all that are measured. Of several, the option
            learning_rate_control_error_measure says which, else it is that of the validation data, if there is one
            such. Where RETURNN's name is not among them, ours for it is looked for: "dev_loss_ce" is "val.ce",
            "dev_score" is "val.loss", "dev_error" is "val.error_rate", "train_loss_ce" is "epoch.ce". None: the
            measure alone says it, and is translated so.

    Returns:
        for "constant" a schedule of the rates alone; for the others a `newbob` with the rate itself as its value.

    Raises:
        SettingError: an unknown option or control (the nearest is named), an option that this control makes no use
            of, a rate that is missing, or scores among which there is a choice.
        ScheduleError: a value that `newbob` refuses, such as a `min_learning_rate` above the rate.
    """
    control = _control(options)
    first, pinned = _rates(options)
    low = options.get("min_learning_rate", 0.0)
    if control == "constant":
        return _constant(first, pinned, low)
    given: dict[str, Any] = {"start": first, "low": low, "pinned": pinned}
    for name, (bare, prefixed) in (("decay", _DECAY), ("growth", _GROWTH)):
        if bare in options or prefixed in options:
            given[name] = options.get(bare, options.get(prefixed))
    given["hold"] = options.get(_HOLD, 0)
    chosen = _score(options, scores)
    ways = {direction(name) for name in chosen}
    mode = ways.pop() if len(ways) == 1 else None
    return newbob(chosen, mode or "min", **given, **_improvement(control, options, "growth" in given))


def _improvement(control: str, options: Mapping[str, Any], grows: bool) -> dict[str, Any]:
    """What is enough of an improvement, as the control measures it."""
    if control == "absolute":
        return {"relative": False, "min_improvement": _threshold(options, _ABSOLUTE)}
    least = _threshold(options, _THRESHOLD)
    found = {
        "min_improvement": least,
        "relative_to": "old" if options.get(_BY_OLD) else "new",
        "scaled_by_value": bool(options.get(_SCALED, False)),
    }
    if control == "multi":
        window = options.get(_WINDOW, 5)
        found |= {"window": window, "every": options.get(_INTERVAL, window)}
        if grows or _GROW_THRESHOLD in options:
            found["grow_improvement"] = _threshold(options, _GROW_THRESHOLD, -least)
    return found


def _threshold(options: Mapping[str, Any], name: str, usual: float = -0.01) -> float:
    """A threshold of RETURNN, which is a change for the worse, as an improvement."""
    value = options.get(name, usual)
    if not is_number(value):
        raise SettingError(f"{name}={value!r}: a number is needed. Write -0.01.")
    return float(-value)


def _control(options: Mapping[str, Any]) -> str:
    if not isinstance(options, Mapping):
        raise SettingError(
            f"newbob_from({options!r}): a dict of RETURNN's options is needed. "
            "Write newbob_from({'learning_rate': 1e-3, 'learning_rate_control': 'newbob'}, 'val.loss')."
        )
    if strangers := [name for name in options if name not in _KNOWN]:
        raise SettingError(" ".join(map(_stranger, strangers)))
    asked = options.get("learning_rate_control", "constant")
    if not isinstance(asked, str) or asked not in _CONTROLS:
        raise SettingError(
            f"learning_rate_control={asked!r}: there is no such control. There are {', '.join(map(repr, _CONTROLS))}."
            f"{nearest(asked, _CONTROLS)}"
        )
    control = _CONTROLS[asked]
    if idle := [name for name in options if name not in _TAKES[control]]:
        raise SettingError(
            f"{', '.join(idle)}: of no use to learning_rate_control={asked!r}. Leave it out, or choose another. "
            f"This one takes {', '.join(_TAKES[control])}."
        )
    return control


def _stranger(name: Any) -> str:
    """What to say of an option that no schedule is made of."""
    if name in _ELSEWHERE:
        return f"{name!r} is no option from which a schedule is made: {_ELSEWHERE[name]}"
    return not_there([name], _KNOWN, "option of RETURNN for learning rates")


def _rates(options: Mapping[str, Any]) -> tuple[Any, dict[int, Any]]:
    """The first rate, and those of certain epochs."""
    given = options.get("learning_rates") or {}
    if not isinstance(given, Mapping | list | tuple):
        raise SettingError(f"learning_rates={given!r}: a list from epoch 1, or a dict from epoch to rate, is needed.")
    pinned = dict(given) if isinstance(given, Mapping) else dict(enumerate(given, 1))
    for epoch, rate in pinned.items():
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1 or not is_number(rate):
            raise SettingError(
                f"learning_rates={{{epoch!r}: {rate!r}}}: epochs are whole numbers from 1, and rates are numbers."
            )
    first = options.get("learning_rate", pinned.get(1))
    if first is None:
        raise SettingError(
            "learning_rate is missing, and RETURNN's default, 1.0, suits hardly any net. Write learning_rate=1e-3."
        )
    return first, pinned


def _constant(first: float, pinned: Mapping[int, float], low: float) -> Schedule:
    """The rates of epochs, each until the next; `low` bounds them all."""
    rates = {1: first, **pinned}
    for name, value in (
        ("min_learning_rate", low),
        *((f"the rate of epoch {epoch}", rate) for epoch, rate in rates.items()),
    ):
        if not is_number(value) or not isfinite(value) or value < 0:
            raise SettingError(f"{name} is {value!r}: a finite number of at least 0 is needed.")
    return by_epoch({epoch: max(rate, low) for epoch, rate in rates.items()})


def _score(options: Mapping[str, Any], scores: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of the score that rules: the first that is measured counts."""
    there = None if scores is None else [scores] if isinstance(scores, str) else list(scores)
    asked = options.get(_MEASURE)
    wanted = [asked] if isinstance(asked, str) else list(asked or ())
    if not wanted:
        return (_only(there),)
    if there is None:
        return tuple(dict.fromkeys(map(_ours, wanted)))
    found = [each for name in wanted for each in dict.fromkeys((name, f"{name}_output", _ours(name))) if each in there]
    if not found:
        raise SettingError(
            f"{_MEASURE}={asked!r}: no such score is measured. Measured are {', '.join(map(repr, there))}."
            f"{nearest(wanted[0], there)}"
        )
    return tuple(found)


def _only(there: Sequence[str] | None) -> str:
    """The one score that can be meant."""
    if not there:
        raise SettingError(
            f"No score is said to rule the learning rate. Write newbob_from(options, 'val.loss'), or {_MEASURE}."
        )
    validation = [name for name in there if name.startswith(("dev_", "val."))]
    meant = validation or list(there)
    if len(meant) > 1:
        raise SettingError(
            f"Which of {', '.join(map(repr, meant))} rules the learning rate is not said (RETURNN takes the first in "
            f"the alphabet). Write {_MEASURE}={meant[0]!r}."
        )
    return meant[0]


def _ours(name: str) -> str:
    """The name of a score of RETURNN as a run of this library tells it."""
    for prefix, ours in (("dev_loss_", "val."), ("train_loss_", "epoch.")):
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    whole = {"score": "loss", "error": "error_rate"}
    for prefix, ours in (("dev_", "val."), ("train_", "epoch.")):
        if name.removeprefix(prefix).removesuffix("_output") in whole and name.startswith(prefix):
            return ours + whole[name.removeprefix(prefix).removesuffix("_output")]
    return name
