"""Events of an invented run, for the tests of what listens to runs."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from etude.run.events import Began, Ended, EpochEnded, Evaluated, Event, Settled, Stepped
from etude.values.progress import Extent, Progress

BATCH = 32


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def reads_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets the number of losses of every read of the device from now on."""
    counts: list[int] = []
    stack = torch.stack

    def counting(losses: list[torch.Tensor]) -> torch.Tensor:
        counts.append(len(losses))
        return stack(losses)

    monkeypatch.setattr(torch, "stack", counting)
    return counts


def at(step: int, per_epoch: int = 10, extent: Extent | None = None) -> Progress:
    """The clock after `step` steps."""
    return Progress(step, step / per_epoch, step * BATCH, 0, extent or Extent())


def stepped(progress: Progress, seconds: float = 0.0, updates: Sequence[str] = ("loss",), **losses: float) -> Stepped:
    """A step with these losses (default: the loss 1)."""
    read = {name: torch.tensor(value) for name, value in (losses or {"loss": 1.0}).items()}
    return Stepped(progress, read, BATCH, 1e-3, tuple(updates), seconds)


def a_run(
    epochs: int = 2,
    per_epoch: int = 10,
    step_seconds: float = 0.01,
    extent: Extent | None = None,
    summary: Mapping[str, Any] | None = None,
    validate: bool = True,
    nan_from: int | None = None,
) -> Iterator[Event]:
    """A whole run: the loss of step s is 1 / s, the validation loss of epoch e is 1 / e."""
    known = Extent(steps=epochs * per_epoch, epochs=epochs) if extent is None else extent
    yield Began(at(0, per_epoch, known), summary or {})
    for step in range(1, epochs * per_epoch + 1):
        now = at(step, per_epoch, known)
        value = math.nan if nan_from is not None and step >= nan_from else 1 / step
        yield stepped(now, step * step_seconds, loss=value)
        if step % per_epoch == 0:
            epoch = step // per_epoch
            losses = [1 / (step - back) for back in range(per_epoch)]
            yield EpochEnded(now, epoch, {"loss": sum(losses) / per_epoch})
            if validate:
                yield Evaluated(now, {"loss": 1 / epoch, "accuracy": 1 - 0.5 / epoch}, True)
        yield Settled(now)
    yield Ended(at(epochs * per_epoch, per_epoch, known), "finished", "all planned steps were made")
