"""NaN and infinity, put into a run or a loop at one step: nothing of it reaches an array or a memory."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from random import Random
from typing import Any

import torch

from findings import Finding
from poison import Loop, Run, Trial, drawn
from seams import instead, nothing

ASKED = (
    "A value that is not finite, in the data, a target, the loss, a gradient or a buffer, at any step: every array, "
    "every average and the optimizer's memory stay finite and as they were before that step; an error names the step "
    "and what was not finite first; a run that skips the step goes on to its end, and its history shows the value "
    "as it was."
)
SHORT, FULL = 60, 500


def look(count: int, seed: int) -> Iterator[Finding]:
    """Poison so many steps: two in three in runs, the others in loops of one's own."""
    chance = Random(seed)
    # To compile takes seconds.
    compiled = count // 40 if count >= 200 else 0
    loops = count // 3
    yield _tried("runs", [drawn(Run, chance) for _ in range(count - loops - compiled)])
    yield _tried("loops", [drawn(Loop, chance) for _ in range(loops)])
    if compiled:
        yield _tried("compiled runs", [drawn(Run, chance, compiled=True) for _ in range(compiled)])
    # Where nobody looks it has to arrive: that it can.
    yield _arrives([drawn(Run, chance, policy="apply") for _ in range(max(10, count // 20))])


def _tried(what: str, cases: list[Trial]) -> Finding:
    wrong, places = list[str](), Counter[str]()
    for case in cases:
        places[case.case.place] += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _looked(case.wrong)
        wrong += [f"{case.case}: {line}" for line in found]
    return Finding(f"{what}, one step of each", len(cases), tuple(wrong), dict(places))


def _looked(look: Callable[[], list[str]]) -> list[str]:
    try:
        return look()
    except Exception as error:
        return [f"{type(error).__name__}: {str(error)[:300]}"]


def _arrives(cases: list[Trial]) -> Finding:
    wrong = []
    for case in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _looked(lambda case=case: [] if case.arrives() else ["it did not arrive"])
        wrong += [f"{case.case}: {line}" for line in found]
    return Finding('under "apply" it is not looked for, and arrives', len(cases), tuple(wrong))


def planted(seed: int) -> Iterator[Finding]:
    """A library that looks less closely, or puts something else in the place of what it found."""
    for fault, plant in _faults().items():
        tried, wrong = 0, list[str]()
        for more in range(10):
            with plant():
                found = list(look(36, seed + more))
            wrong += [line for finding in found for line in finding.wrong]
            tried += sum(finding.tried for finding in found)
            if wrong:
                break
        told = {"seen": len(wrong), "first": wrong[0][:80]} if wrong else {}
        yield Finding(fault, tried, () if wrong else (f"{fault}: not noticed",), told)


def _faults() -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """What to plant, by name."""
    from etude.run import history
    from etude.step import averaging, backward, broken, kept, refusals, stepper

    return {
        "the loss is not looked at": lambda: instead(backward, "isfinite", lambda _: True),
        "gradients are not looked at": lambda: instead(stepper, "all_finite", lambda _: True),
        "buffers are not put back": lambda: instead(kept.Kept, "restore", nothing),
        "memory is written before the look": lambda: instead(
            stepper.Stepper, "attempt", _writing(stepper.Stepper.attempt)
        ),
        "arrays are shrunk before the look": lambda: instead(
            stepper.Stepper, "attempt", _shrinking(stepper.Stepper.attempt)
        ),
        "averages take what is not finite": lambda: instead(averaging.Averages, "update", _taking()),
        "the history has 0 in the place of NaN": lambda: instead(
            history, "_read_scalars", _zeros(history._read_scalars)
        ),
        "the history passes skipped steps over": lambda: instead(history.History, "see", _passing(history.History.see)),
        "an error names the step before": lambda: instead(broken.Broken, "error", _early(broken.Broken.error)),
        "an error names every array": lambda: instead(refusals, "names_not_finite", lambda names, _: tuple(names)),
    }


def _writing(attempt: Callable[..., bool]) -> Callable[..., bool]:
    """A step that leaves a trace in the memory when it is refused."""

    def written(self: Any, *given: Any, **more: Any) -> bool:
        from etude.errors import NonFiniteError

        try:
            made = attempt(self, *given, **more)
        except NonFiniteError:
            _spoil(self)
            raise
        if not made:
            _spoil(self)
        return made

    return written


def _spoil(stepper: Any) -> None:
    for kept in stepper.state()["arrays"].values():
        for value in kept.values():
            if hasattr(value, "mul_") and value.is_floating_point():
                value.mul_(1.5)
                return


def _shrinking(attempt: Callable[..., bool]) -> Callable[..., bool]:
    def shrunk(self: Any, *given: Any, **more: Any) -> bool:
        for array in self.arrays:
            array.data.mul_(0.999)
        return attempt(self, *given, **more)

    return shrunk


def _taking() -> Callable[..., None]:
    def taken(self: Any, *_: Any) -> None:
        for one in self.each.values():
            for array in filter(torch.is_floating_point, one.arrays.values()):
                array.add_(math.nan)

    return taken


def _zeros(read: Callable[..., list[float]]) -> Callable[..., list[float]]:
    return lambda scalars: [value if math.isfinite(value) else 0.0 for value in read(scalars)]


def _passing(see: Callable[..., None]) -> Callable[..., None]:
    return lambda self, event: None if type(event).__name__ == "Skipped" else see(self, event)


def _early(made: Callable[..., Exception]) -> Callable[..., Exception]:
    return lambda self, number, before: made(self, number - 1, before)
