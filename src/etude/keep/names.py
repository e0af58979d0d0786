"""What a checkpoint in a folder is called: when its run began, which run of its process that was, and how far it is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import total_ordering
from math import copysign, isinf
from typing import Any

from etude.errors import StateError

SUFFIX = ".safetensors"
"""How the name of a checkpoint ends."""

_START = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d"
_SCORE = r"nan|-?inf|-?\d\.\d{3}e[+-]\d{2,3}"
_NAME = re.compile(
    rf"(?P<start>{_START})_(?P<counter>\d+)_(?P<epoch>\d+)_(?P<step>\d+)"
    rf"_(?P<loss>{_SCORE})(?:_(?P<val>{_SCORE}))?(?:-(?P<again>\d+))?{re.escape(SUFFIX)}",
    re.ASCII,
)


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """The name of a checkpoint in a folder: `start_counter_epoch_step_loss[_val].safetensors`.

        2021-06-21T10-15-30_1_0004_00001876_1.234e-01_2.300e-01.safetensors

    Names are equal where their texts are, and are in the order in which the files were saved. Texts are in that order
    too, up to 9 runs of a process, 9999 epochs and 99,999,999 steps.

    Attributes:
        start: when the run began, in UTC, without the colons that some file systems refuse: "2021-06-21T10-15-30".
        counter: which run of its process it was, from 1; runs that save nothing are counted too.
        epoch: the epoch that the last step belongs to, from 1; 0 before the first step.
        step: steps made.
        loss: the mean loss of the last epoch that is complete; before there is one, of this epoch so far.
        val: the last validation loss: NaN where there are validation data that nobody has looked at yet, None where
            there are none.
        again: 2 and more where files of that name were there already.

    Raises:
        StateError: a start of another form, a count below 0, or `again` below 1: no file would be found by that name.
    """

    start: str
    counter: int
    epoch: int
    step: int
    loss: float
    val: float | None = None
    again: int = 1

    def __post_init__(self) -> None:
        # A start may come from a file: what is no time must not reach a path.
        if not isinstance(self.start, str) or not re.fullmatch(_START, self.start, re.ASCII):
            raise StateError(f"{self.start!r} is no start of a run. Write it as '2021-06-21T10-15-30'.")
        least = {"counter": 0, "epoch": 0, "step": 0, "again": 1}
        for name, low in least.items():
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < low:
                raise StateError(f"Name({name}={count!r}): a whole number of at least {low} is needed.")

    def text(self) -> str:
        """The name of the file."""
        scores = [self.loss] if self.val is None else [self.loss, self.val]
        said = "_".join(map(_score, scores))
        again = "" if self.again == 1 else f"-{self.again}"
        return f"{self.start}_{self.counter}_{self.epoch:04d}_{self.step:08d}_{said}{again}{SUFFIX}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """The name that has this text; None where it is the text of none. Losses have the digits that are there."""
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        val = None if found["val"] is None else float(found["val"])
        counter, epoch, step = (int(found[name]) for name in ("counter", "epoch", "step"))
        again = max(int(found["again"] or 1), 1)
        name = cls(found["start"], counter, epoch, step, float(found["loss"]), val, again)
        # "_00004_" and "-1" are not how a number is written here.
        return name if name.text() == text else None

    def __eq__(self, other: object) -> bool:
        return self.text() == other.text() if isinstance(other, Name) else NotImplemented

    def __lt__(self, other: Name) -> bool:
        return self.moment() < other.moment() if isinstance(other, Name) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text())

    def moment(self) -> tuple[str, int, int, int, str]:
        """What sorts names by when their files were saved; the text is last."""
        return self.start, self.counter, self.step, self.again, self.text()


def _score(score: float) -> str:
    text = f"{score:.3e}"
    # The largest numbers there are would be rounded up to what is none.
    return text if isinf(float(text)) == isinf(score) else f"{copysign(1.797e308, score):.3e}"


def is_run(start: Any, counter: Any) -> bool:
    """Whether these may stand at the beginning of a name; they may come from a file."""
    fits = isinstance(start, str) and re.fullmatch(_START, start, re.ASCII) is not None
    return fits and isinstance(counter, int) and not isinstance(counter, bool) and counter >= 0


def start_now(clock: Callable[[], float] = time.time) -> str:
    """The time now in UTC, as names begin: "2021-06-21T10-15-30".

    Args:
        clock: gives the seconds since the epoch of the system.
    """
    return time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(clock()))
