"""What is done about a loss or gradient that is not finite: said beforehand, and followed step by step.

Whatever is chosen, it is decided before anything has moved: an array, its optimizer memory and the statistics of the
net never see a number that is not finite, except under "apply", which does not look.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeAlias, final

from etude.arguments import named
from etude.errors import NonFiniteError, ScheduleError, SettingError, nearest
from etude.values.cadence import Cadence, Every
from etude.values.progress import Extent, Progress
from etude.values.spans import Span, progress_span, steps

WORDS = ("raise", "skip", "stop", "apply")
"""Policies that are said by one word."""
OF_TRAINER = ("raise", "skip")
"""Those of a loop of one's own."""

_VALUES = "skip(most=3) and roll_back(factor=0.5)"
_HUNDRED = steps(100)
PolicyLike: TypeAlias = "str | Policy"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Policy:
    """What is done; made by a word, `skip` or `roll_back`.

    Attributes:
        kind: "raise", "skip", "stop", "apply" or "roll_back".
        most: how many steps in a row are left out, or how often is gone back in all; None: any number.
        factor: what every learning rate is multiplied by whenever is gone back.
        every: how often a snapshot is taken; None unless is gone back.
    """

    kind: str
    most: int | None = None
    factor: float = 1.0
    every: Span | None = None

    @property
    def looks(self) -> bool:
        """Whether losses and gradients are looked at."""
        return self.kind != "apply"

    @property
    def raises(self) -> bool:
        """Whether the first that is not finite is an error; "stop" makes an end of the run from it."""
        return self.kind in ("raise", "stop")

    @property
    def goes_back(self) -> bool:
        """Whether the run goes back to a snapshot."""
        return self.kind == "roll_back"

    def check(self, extent: Extent) -> None:
        """Raise ScheduleError where a run of this extent cannot tell the span between snapshots."""
        if self.every is not None:
            try:
                Progress(extent=extent).amount(self.every.unit)
            except ScheduleError as error:
                raise ScheduleError(f"non_finite={self!r}: {error} Or write every=steps(100).") from None

    def __repr__(self) -> str:
        if self.goes_back:
            return f"roll_back(factor={self.factor!r}, every={self.every!r}, most={self.most!r})"
        return repr(self.kind) if self.most is None else f"skip(most={self.most!r})"


@named
def skip(most: int | None = None) -> Policy:
    """Leave out a step whose loss or a gradient is not finite, but not too many in a row.

    The batch counts in no score, the clock goes on, and the run says what was left out. One step that is made begins
    the count anew. Steps that a dynamic loss scale leaves out, while it finds its size, are not counted.

    Args:
        most: so many in a row are left out, the next is a NonFiniteError that names the arrays; None: any number.

    Raises:
        SettingError: `most` is no whole number of at least 0.
    """
    return Policy("skip", None if most is None else _whole("skip", most, 0))


@named
def roll_back(factor: float = 0.5, every: Span | Cadence = _HUNDRED, most: int = 5) -> Policy:
    """Go back to how the net was, and go on more slowly, when a loss or a gradient is not finite.

    Arrays, statistics, optimizer memory and averages go back to the last snapshot; the clock and the data go on. It
    needs memory for one more net with its optimizer and averages, on the same device.

    Args:
        factor: from then on every learning rate, multipliers and schedules included, is multiplied by this, above 0 and
            at most 1; twice gone back, by its square.
        every: a span of progress; a snapshot is taken before the first step, and at each multiple of this span.
        most: how often it may happen in a run; the next time is a NonFiniteError that names the arrays.

    Raises:
        SettingError, ScheduleError: one of them is something else.
    """
    right = isinstance(factor, int | float) and not isinstance(factor, bool) and isfinite(factor) and 0 < factor <= 1
    if not right:
        raise SettingError(
            f"roll_back(factor={factor!r}): what learning rates are multiplied by lies above 0 and is at most 1. Write "
            "roll_back(factor=0.5)."
        )
    return Policy("roll_back", _whole("roll_back", most, 1), float(factor), _span(every))


def policy(literal: PolicyLike) -> Policy:
    """The policy that a word, or a value, stands for.

    Raises:
        SettingError: it is none; the nearest is named.
    """
    if isinstance(literal, Policy):
        return literal
    _refuse_function(literal)
    if not isinstance(literal, str) or literal not in WORDS:
        near = nearest(literal, (*WORDS, "roll_back()")) if isinstance(literal, str) else ""
        raise SettingError(f"non_finite={literal!r}: known are {', '.join(WORDS)}, and {_VALUES}.{near}")
    return Policy(literal)


def policy_by_hand(literal: PolicyLike | None) -> Policy:
    """The policy of a trainer in a loop of one's own, where None does not look.

    Raises:
        SettingError: it is none, or one that needs a run.
    """
    if literal is None:
        return Policy("apply")
    _refuse_function(literal)
    if isinstance(literal, Policy) and literal.kind in OF_TRAINER:
        return literal
    if isinstance(literal, Policy) and literal.goes_back:
        raise SettingError(
            f"non_finite={literal!r}: going back is for a run (etude.train, Plan), which keeps snapshots. In a loop of "
            'your own write non_finite="raise", catch NonFiniteError, and load what trainer.state_dict() gave.'
        )
    if literal not in OF_TRAINER:
        near = nearest(literal, OF_TRAINER) if isinstance(literal, str) else ""
        raise SettingError(f'non_finite={literal!r}: "raise", "skip" or None is needed, or skip(most=3).{near}')
    return Policy(str(literal))


@final
class Tolerance:
    """A policy at work: how many steps in a row were refused.

    Args:
        policy: what is done.

    Attributes:
        policy: the same. refused: steps in a row that were left out, those not counted by which a loss scale finds its
            size.
        asked: what the step to come does: "raise", "skip", or None where nobody looks; see `Stepper.attempt`.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._limit = policy.most if policy.kind == "skip" else None
        self._usual = "raise" if policy.raises else "skip" if policy.looks else None
        self._count(0)

    @property
    def spent(self) -> bool:
        """Whether as many steps in a row were left out as may be."""
        return self._limit is not None and self.refused >= self._limit

    def follow(self, made: bool, overflow: bool = False) -> None:
        """Take note of whether a step was made; `overflow`: what refused it was the loss scale, as it should."""
        if made:
            if self.refused:
                self._count(0)
        elif not overflow:
            self._count(self.refused + 1)

    def _count(self, refused: int) -> None:
        self.refused = refused
        self.asked = "raise" if self.spent else self._usual

    def explained(self, error: NonFiniteError) -> NonFiniteError:
        """The error of a step that `asked` refused, which says so where it is one of too many."""
        if not self.refused:
            return error
        before = "The step before it was" if self.refused == 1 else f"The {self.refused} steps before it were"
        text = f"{error} {before} left out, and {self.policy!r} allows no more in a row."
        return NonFiniteError(text, error.names, error.step, error.rows)

    def state(self) -> int:
        """What a later run needs to go on."""
        return self.refused

    def load(self, state: Any) -> None:
        """Take over what `state()` gave."""
        self._count(int(state))


def _refuse_function(literal: object) -> None:
    """`non_finite=skip` without the call is a slip."""
    for function, call in ((skip, "skip(most=3)"), (roll_back, "roll_back(factor=0.5)")):
        if literal is function:
            raise SettingError(f"non_finite={function.__name__}: that is the function itself. Write non_finite={call}.")


def _whole(call: str, most: object, least: int) -> int:
    if isinstance(most, bool) or not isinstance(most, int) or most < least:
        raise SettingError(f"{call}(most={most!r}): a whole number of at least {least} is needed.")
    return most


def _span(every: Span | Cadence) -> Span:
    if isinstance(every, Every) and every.minimum is None:
        every = every.span
    if isinstance(every, Cadence):
        raise SettingError(f"roll_back(every={every!r}): one span is needed here. Write every=steps(100).")
    return progress_span(every, f"roll_back(every={every!r})")
