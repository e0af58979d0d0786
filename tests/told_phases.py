"""Wrong recipes of phases, and what cannot be asked of a run: how each is provoked, and what its message says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import etude
from etude import newbob, phase, phases
from etude.errors import EtudeError, PlanError, ScheduleError
from etude.values.phases import _NoColumn
from etude.values.spans import epochs
from nets import chain

X, Y = torch.randn(8, 3), torch.randn(8, 2)


def run(**options: Any) -> Any:
    return etude.train(chain(), (X, Y), loss="mse", epochs=1, batch_size=8, progress=False, **options)


Make = Callable[[], Any]
PHASES: dict[str, tuple[Make, type[EtudeError], list[str]]] = {
    "column of phases": (
        lambda: phases(phase(1, learning_rate=0.1))["lr"],
        _NoColumn,
        ["The phases do not set 'lr'", "They set learning_rate", 'Nearest: "learning_rate"'],
    ),
    "share of a phase": (
        lambda: phase(25, learning_rate=0.1),
        ScheduleError,
        ["phase(25): a share of the run lies above 0 and up to 1", "Write phase(0.25)"],
    ),
    "phase of nothing": (
        lambda: phase(0.5),
        ScheduleError,
        ["phase(fraction(0.5)): nothing is set", "Write phase(fraction(0.5), learning_rate=1e-3)"],
    ),
    "no phases": (lambda: phases(), ScheduleError, ["phases(): no phase", "phases(phase(0.5, learning_rate=1e-3)"]),
    "no phase": (
        lambda: phases({"learning_rate": 0.1}),  # type: ignore[arg-type]
        ScheduleError,
        ["{'learning_rate': 0.1} is no phase", "Write phase(0.5, learning_rate=1e-3)"],
    ),
    "units of phases": (
        lambda: phases(phase(0.5, learning_rate=0.1), phase(epochs(3), learning_rate=0.01)),
        ScheduleError,
        ["phase 2 lasts epochs(3) and phase 1 fraction(0.5)", "Write all durations in one unit"],
    ),
    "sum of phases": (
        lambda: phases(phase(0.5, learning_rate=0.1), phase(0.4, learning_rate=0.01)),
        ScheduleError,
        ["the shares of the run are 0.5 + 0.4 = 0.9, and have to add up to 1"],
    ),
    "settings of phases": (
        lambda: phases(phase(0.5, learning_rate=0.1), phase(0.5, learning_rat=0.01)),
        ScheduleError,
        ["phase 2 does not set 'learning_rate', and phase 1 sets learning_rate", 'Nearest: "learning_rat"'],
    ),
    "knob that goes back to the best": (
        lambda: run(
            validation=0.25, knobs={"p": [(torch.nn.Dropout(), newbob("val.loss", start=0.5, back_to_best="keep"))]}
        ),
        PlanError,
        ["goes back to the best net", "only schedules of the learning rate", "write it in learning_rate="],
    ),
}
