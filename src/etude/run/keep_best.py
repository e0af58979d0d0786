"""Which net is the best so far, when to go back to it, and when to give up waiting for a better one."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

import torch
from torch import Tensor

from etude.run.checked import Checked
from etude.run.events import Evaluated
from etude.step.optim.half import MASTER
from etude.step.states import clock_in, clock_of
from etude.step.work import Work
from etude.values.progress import Progress
from etude.values.stopping import NoImprovement


class Best:
    """Looks at the net when it is due, keeps a copy of the best, and counts looks without improvement.

    Attributes:
        score: the best score so far, None before the first look.
        progress: when it was reached.
        tables: what of that look is kept whole, such as a confusion, by name; of the last while none was a number.
        owed: whether a look that was due has failed: it is made when the run is gone on with.
    """

    def __init__(self, checked: Checked) -> None:
        self.score: float | None = None
        self.progress: Progress | None = None
        self.tables: dict[str, Tensor] = {}
        self.owed = False
        self._checked = checked
        self._evaluator = checked.evaluator
        self._kept: dict[str, Tensor] | None = None
        self._knobs: dict[str, Any] = {}
        self._patience = _patience(checked)
        self._waited = self._patience.start()
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
        """Look at the validation data, with the net or the average that the plan says.

        Raises:
            SettingError: a metric fails on which something depends; nothing has been told then, and the look is owed.
        """
        assert self._evaluator is not None
        self._last, self.owed = self._last or 0.0, True
        with self._checked.looked_at():
            scores = self._evaluator.scores(progress)
            self.owed = False
            score = scores[self._evaluator.best_by]
            better = (self.score is None or self._improves(score, self.score)) and not isnan(score)
            if better:
                self.score, self.progress = score, progress
                self._keep()
        tables = self._evaluator.tables
        if better or self.score is None:
            self.tables = tables
        measured = {f"val.{name}": score for name, score in scores.items()}
        self._waited = self._patience.see(self._waited, measured, progress)
        self.tell(measured, progress)
        return Evaluated(progress, scores, better, tables)

    def epoch(self, means: dict[str, float]) -> None:
        """An epoch ended: without validation data its training loss is what patience looks at."""
        self._waited = self._patience.see(
            self._waited, {f"epoch.{name}": mean for name, mean in means.items()}, Progress()
        )

    def tell(self, measured: Mapping[str, float], progress: Progress) -> None:
        """Tell schedules of settings and averages what was measured; where one asks for it, go back to the best net."""
        asked = [told for work in self._checked.works for told in _told(work, measured, progress)]
        self._checked.averages.see(measured, progress)
        if asked and self._kept is not None:
            self._go_back("clear" in asked)

    @torch.no_grad()
    def _go_back(self, clear: bool) -> None:
        """The arrays are those of the best net again; the optimizers forget what they know of them, or keep it.

        Averages go on as they are. Where the net is looked at with one of them, the best net is that average.
        """
        assert self._kept is not None
        arrays = self._arrays()
        for name, kept in self._kept.items():
            arrays[name].copy_(kept)
        for work in self._checked.works:
            memory = work.stepper.state()["arrays"]
            known = {name: {} if clear else _without_master(own) for name, own in memory.items()}
            work.go_back(known, work.loss_states())
        if self._checked.knobs is not None:
            # Buffers that are knobs went back too.
            self._checked.knobs.again()

    def _improves(self, score: float, than: float) -> bool:
        """Whether a score is better than the best; equal is never better, NaN neither."""
        larger = self._evaluator is not None and self._evaluator.larger
        return score > than if larger else score < than

    def out_of_patience(self) -> str:
        """ "patience" when more looks in a row than the plan's patience brought no improvement."""
        return "patience" if self._checked.plan.patience is not None and self._lost() else ""

    def _lost(self) -> str:
        return self._patience.stop(Progress(), self._waited, 0.0)

    def message(self, reason: str) -> str:
        """Why the run ended, in words."""
        if reason == "patience":
            name = "training loss" if self._evaluator is None else self._evaluator.best_by
            return self._lost().replace(self._patience.score, name, 1)
        if reason == "time":
            return f"the time limit of {self._checked.plan.time_limit!r} was reached"
        return "all planned steps were made"

    def _arrays(self) -> dict[str, Tensor]:
        """Every parameter and buffer, also those that a state_dict leaves out."""
        net = self._checked.net
        return {name: array.detach() for name, array in (*net.named_parameters(), *net.named_buffers())}

    def _keep(self) -> None:
        if self._checked.knobs is not None:
            self._knobs = self._checked.knobs.state()
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
            "waiting": self._waited[1],
            "judged": self._waited[0],
            "last": self._last,
            "owed": self.owed,
            "split": 0 if self._evaluator is None else self._evaluator.state(),
            "tables": dict(self.tables),
            "knobs": self._knobs,
            "arrays": dict(self._kept or {}),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        extent, progress = self._checked.extent, state["progress"]
        self.score, self._last = state["score"], state["last"]
        self._waited = (state["judged"], state["waiting"])
        self._knobs = dict(state.get("knobs", {}))
        if self._evaluator is not None:
            # An older state does not say it: what the proof has found stays.
            self._evaluator.load(state.get("split", self._evaluator.state()))
        self.owed, self.tables = state.get("owed", False), dict(state.get("tables", {}))
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
        if not all(torch.equal(arrays[name], kept) for name, kept in self._kept.items()):
            # Before knobs are turned back: some of them may be buffers.
            self._final = {name: array.clone() for name, array in arrays.items()}
        if self._knobs and self._checked.knobs is not None:
            # What the best score was measured with.
            self._checked.knobs.load(self._knobs)
        for name, kept in self._kept.items() if self._final is not None else ():
            arrays[name].copy_(kept)

    @property
    def averages(self) -> dict[str, dict[str, Tensor]]:
        """Each average after the last step, by name of the array."""
        return self._averages

    @property
    def final(self) -> dict[str, Tensor] | None:
        """The arrays after the last step, where they are not those of the net that is returned."""
        return self._final


def _patience(checked: Checked) -> NoImprovement:
    """The condition that `patience` stands for; without it looks are counted all the same, and nobody asks."""
    plan, evaluator = checked.plan, checked.evaluator
    score = "epoch.loss" if evaluator is None else f"val.{evaluator.best_by}"
    mode = "max" if evaluator is not None and evaluator.larger else "min"
    return NoImprovement(score, plan.patience or 0, float(plan.min_delta), False, None, mode)


def _told(work: Work, measured: Mapping[str, float], progress: Progress) -> list[str]:
    """Tell the schedules of an update, and of its loss, what was measured.

    Returns:
        What they ask to become of the optimizer's memory.
    """
    before = work.stepper.memory
    work.see(measured, progress)
    after = work.stepper.memory
    return [asked for of in after if of.goes_back and (asked := of.asks_for_best(before.get(of), after[of]))]


def _without_master(own: Mapping[str, Any]) -> dict[str, Any]:
    """The memory of an array whose values were changed: its copy in full precision is made anew from them."""
    return {key: kept for key, kept in own.items() if key != MASTER}
