"""Which net is the best so far, and when to give up waiting for a better one."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

import torch
from torch import Tensor

from etude.run.check import Checked
from etude.run.events import Evaluated
from etude.step.states import clock_in, clock_of
from etude.values.progress import Progress


class Best:
    """Looks at the net when it is due, keeps a copy of the best, and counts looks without improvement.

    Attributes:
        score: the best score so far, None before the first look.
        progress: when it was reached.
    """

    def __init__(self, checked: Checked) -> None:
        self.score: float | None = None
        self.progress: Progress | None = None
        self._checked = checked
        self._evaluator = checked.evaluator
        self._kept: dict[str, Tensor] | None = None
        self._waiting = 0
        self._judged: float | None = None
        self._final: dict[str, Tensor] | None = None
        self._last: float | None = None
        self._averages: dict[str, dict[str, Tensor]] = {}

    @property
    def never_looked(self) -> bool:
        """Whether there are validation data that nobody has looked at."""
        return self._evaluator is not None and self._last is None

    def due(self, before: Progress, after: Progress, elapsed: float) -> bool:
        """Whether the validation data are to be looked at now, `elapsed` seconds after the run began."""
        if self._evaluator is None:
            return False
        due = self._evaluator.cadence.due(before, after, elapsed, self._last)
        if due:
            self._last = elapsed
        return due

    def look(self, progress: Progress) -> Evaluated:
        """Look at the validation data, with the net or the average that the plan says."""
        assert self._evaluator is not None
        self._last = self._last or 0.0
        with self._checked.looked_at():
            scores = self._evaluator.scores(progress)
            score = scores[self._evaluator.best_by]
            better = (self.score is None or self._improves(score, self.score, 0.0)) and not isnan(score)
            if better:
                self.score, self.progress = score, progress
                self._keep()
        measured = {f"val.{name}": score for name, score in scores.items()}
        for work in self._checked.works:
            work.stepper.see(measured)
        self._checked.averages.see(measured)
        self._judge(score)
        return Evaluated(progress, scores, better)

    def epoch(self, means: dict[str, float]) -> None:
        """An epoch ended: without validation data its training loss is what patience looks at."""
        if self._evaluator is None and "loss" in means:
            self._judge(means["loss"])

    def _judge(self, score: float) -> None:
        first = self._judged is None and not isnan(score)
        if first or (self._judged is not None and self._improves(score, self._judged, self._checked.plan.min_delta)):
            self._judged, self._waiting = score, 0
        else:
            self._waiting += 1

    def _improves(self, score: float, than: float, by: float) -> bool:
        """Whether `score` is better by at least `by`; equal is never better, NaN neither."""
        gain = score - than if self._evaluator is not None and self._evaluator.larger else than - score
        return gain > 0 and gain >= by

    def out_of_patience(self) -> str:
        """ "patience" when more looks in a row than the plan's patience brought no improvement."""
        patience = self._checked.plan.patience
        return "patience" if patience is not None and self._waiting > patience else ""

    def message(self, reason: str) -> str:
        """Why the run ended, in words."""
        if reason == "patience":
            name = self._evaluator.best_by if self._evaluator is not None else "training loss"
            best = "none was a number" if self._judged is None else f"the best was {self._judged:.4g}"
            return f"{name} did not improve for {self._waiting} looks; {best}"
        if reason == "time":
            return f"the time limit of {self._checked.plan.time_limit!r} was reached"
        return "all planned steps were made"

    def _arrays(self) -> dict[str, Tensor]:
        """Every parameter and buffer, also those that a state_dict leaves out."""
        net = self._checked.net
        return {name: array.detach() for name, array in (*net.named_parameters(), *net.named_buffers())}

    def _keep(self) -> None:
        arrays = self._arrays()
        if self._kept is None:
            self._kept = {name: array.clone() for name, array in arrays.items()}
            return
        for name, kept in self._kept.items():
            kept.copy_(arrays[name])

    def state(self) -> dict[str, Any]:
        """What a later run needs to go on; the arrays of the best net are not copied."""
        return {
            "score": self.score,
            "progress": None if self.progress is None else clock_of(self.progress),
            "waiting": self._waiting,
            "judged": self._judged,
            "last": self._last,
            "arrays": dict(self._kept or {}),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        extent, progress = self._checked.extent, state["progress"]
        self.score, self._waiting = state["score"], state["waiting"]
        self._judged, self._last = state["judged"], state["last"]
        self.progress = None if progress is None else clock_in(progress, extent)
        like = self._arrays()
        self._kept = {
            name: kept.to(like[name].device, copy=True) for name, kept in state["arrays"].items() if name in like
        } or None

    def restore(self) -> None:
        """Put the best arrays into the net; the last ones are kept for `final`, and the averages as they are."""
        # An average that has not begun is the net itself, as it is after the last step.
        each = self._checked.averages.each
        self._averages = {
            name: one.arrays if one.count else {n: array.clone() for n, array in one.arrays.items()}
            for name, one in each.items()
        }
        if self._kept is None:
            return
        arrays = self._arrays()
        if all(torch.equal(arrays[name], kept) for name, kept in self._kept.items()):
            return
        self._final = {name: array.clone() for name, array in arrays.items()}
        for name, kept in self._kept.items():
            arrays[name].copy_(kept)

    @property
    def averages(self) -> dict[str, dict[str, Tensor]]:
        """Each average after the last step, by name of the array."""
        return self._averages

    @property
    def final(self) -> dict[str, Tensor] | None:
        """The arrays after the last step, where they are not those of the net that is returned."""
        return self._final
