"""Scores: which one is listened to, which way it improves, and what counts as better."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeAlias, final

from etude.errors import ScheduleError, nearest

LESS = ("loss", "error", "error_rate", "mse", "mae", "perplexity", "no_path")
"""What the name of a score ends with where less is better."""

MORE = ("accuracy", "f1", "precision", "recall", "r2", "top_1", "top_2", "top_3", "top_5", "top_10")
"""What the name of a score ends with where more is better."""


def direction(name: str) -> str | None:
    """ "min" or "max", as the end of the name of a score says; None where it says neither."""
    low = name.lower()
    return "min" if low.endswith(LESS) else "max" if low.endswith(MORE) else None


def better(seen: float, best: float | None, mode: str, margin: float = 0.0, relative: bool = False) -> bool:
    """Whether a score is better than the best so far by at least a margin.

    NaN and infinities never are, and equal is not either. The first finite score is.

    Args:
        seen: the score. best: the best before it, None where there is none.
        mode: "min" or "max". margin: a difference, or where `relative` a share of the absolute value of the best.
    """
    if best is None or not isfinite(seen):
        return isfinite(seen)
    gain = best - seen if mode == "min" else seen - best
    return gain > 0 and gain >= (margin * abs(best) if relative else margin)


ScoreLike: TypeAlias = "str | Sequence[str] | Callable[[dict[str, float]], float]"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Score:
    """The score that something listens to: the first of some names that was measured, or a function of them all.

    Prints as the first argument of the call that takes it; made by `score`.
    """

    names: tuple[str, ...]
    function: Callable[[dict[str, float]], float] | None = None

    def of(self, metrics: Mapping[str, float | None]) -> tuple[int, float | None] | None:
        """Which of the names was measured, by its place, and the score.

        None where nothing of it was told; None for the score where it was told as None: not measured at this look.
        """
        if self.function is not None:
            return self._reckoned(metrics, self.function)
        told = [(place, metrics[name]) for place, name in enumerate(self.names) if name in metrics]
        for place, value in told:
            if value is not None:
                return place, float(value)
        return told[0] if told else None

    def _reckoned(self, metrics: Mapping[str, Any], function: Callable[..., Any]) -> tuple[int, float | None] | None:
        if any(name not in metrics for name in self.names):
            return None
        told = {name: metrics[name] for name in self.names}
        return (0, None) if None in told.values() else (0, _called(function, told, repr(self)))

    def unheard(self, told: Collection[str]) -> frozenset[str]:
        """The names that are missing among those told: of names to choose from one is enough."""
        missing = frozenset(self.names) - frozenset(told)
        enough = self.function is None and len(missing) < len(self.names)
        return frozenset() if enough else missing

    @property
    def also(self) -> str:
        """What the text of the call says besides the first argument."""
        return f", names={self.names!r}" if self.function is not None else ""

    def __repr__(self) -> str:
        if self.function is not None:
            return str(getattr(self.function, "__name__", repr(self.function)))
        return repr(self.names[0] if len(self.names) == 1 else self.names)


def score(literal: object, names: object, call: str) -> Score:
    """The score that a literal stands for.

    Args:
        literal: a name, names in the order in which they are looked for, or a function of a dict of scores.
        names: of a function: the names of the scores that it is given. call: what asks, such as "plateau".

    Raises:
        ScheduleError: no name, the same one twice, names without a function, or a function that gives no number.
    """
    said = f"{call}({literal!r})"
    if callable(literal) and not isinstance(literal, type):
        given = _names(names)
        if not given:
            raise ScheduleError(
                f"{said}: the names of the scores that the function is given are needed. "
                f"Write {call}(function, 'min', names=('val.loss', 'val.error_rate'))."
            )
        made = Score(given, literal)
        _called(literal, dict.fromkeys(given, 0.5), f"{call}({made!r}{made.also})")
        return made
    found = _names(literal)
    if not found:
        raise ScheduleError(f"{said}: the name of a score is needed. Write {call}('val.loss').")
    if len(set(found)) < len(found):
        raise ScheduleError(f"{said}: a name stands there twice. Write each once.")
    if names:
        raise ScheduleError(f"{said}: names={names!r} is for a function of scores. Write {call}({names!r}).")
    return Score(found)


def directed(of: Score, mode: object, call: str) -> str:
    """ "min" or "max": which way a score improves, as said, or as the ends of its names say.

    Raises:
        ScheduleError: it is said neither way, or the names say different ones.
    """
    said = f"{call}({of!r}{of.also})"
    if mode is not None:
        return choice(mode, ("min", "max"), "mode", f"{call}({of!r}, {mode!r})")
    found = set() if of.function is not None else {direction(name) for name in of.names}
    if len(found) == 1 and (only := found.pop()) is not None:
        return only
    if of.function is not None:
        raise ScheduleError(f"{said}: less or more of a function's score is better: write mode='min' or mode='max'.")
    near = nearest(of.names[0], _alike(of.names[0])) if len(of.names) == 1 else ""
    raise ScheduleError(
        f"{said}: the name does not say whether less or more is better; names that end in {', '.join(LESS + MORE)} "
        f"do.{near} Write {call}({of!r}, mode='min') or mode='max'."
    )


def choice(given: object, choices: tuple[str, ...], name: str, said: str) -> str:
    """`given`, if it is one of the choices.

    Raises:
        ScheduleError: it is not; the nearest is named.
    """
    if isinstance(given, str) and given in choices:
        return given
    raise ScheduleError(f"{said}: {name} is one of {', '.join(map(repr, choices))}.{nearest(str(given), choices)}")


def best_asked(given: object, said: str) -> str | bool:
    """What `back_to_best` may be: False, "clear" or "keep"; ScheduleError for anything else."""
    if given is False or (isinstance(given, str) and given in ("clear", "keep")):
        return given
    raise ScheduleError(
        f"{said}: back_to_best={given!r} does not say what becomes of the optimizer's memory. "
        "Write back_to_best='clear' or back_to_best='keep', or False."
    )


def looks(count: object, least: int, name: str, said: str) -> int:
    """A number of looks; ScheduleError where it is no whole number of at least `least`."""
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ScheduleError(f"{said}: {name} is a whole number of looks, at least {least}. Write {name}=3.")
    return count


def _called(function: Callable[..., Any], told: Mapping[str, float], said: str) -> float:
    """What the user's function makes of scores; ScheduleError where that is no number."""
    try:
        made = function(told)
        return float(made)
    except Exception as error:
        what = f"{type(error).__name__}: {error}".rstrip(".")
        raise ScheduleError(
            f"{said}: the function of scores made no number of {dict(told)!r}: {what}. "
            "It is given a dict with the scores in names=."
        ) from error


def _names(literal: object) -> tuple[str, ...]:
    """The names in a literal; nothing where something else is among them."""
    found = (literal,) if isinstance(literal, str) else literal
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) and name for name in found):
        return ()
    return tuple(found)


def _alike(name: str) -> list[str]:
    """Names of scores that end in what says its direction."""
    before, dot, _ = name.rpartition(".")
    return [f"{before}{dot}{end}" for end in LESS + MORE]
