"""Wrong uses of knobs and of precisions that change: how each is provoked, its error, and what the message says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import etude
from etude import linear, part, pieces, plateau, steps, times
from etude.bind.knobs import Knobs, read_knobs
from etude.errors import EtudeError, PartError, PlanError, RuleError, SettingError, StateError
from etude.step.lifted import Lifted
from etude.values.progress import Extent, Progress
from etude.values.tree import Tree

EXTENT = Extent(steps=100)
X, Y = torch.randn(8, 3), torch.randn(8, 2)


@dataclass(frozen=True)
class Sealed:
    strength: float = 0.0


class Level:
    def __init__(self) -> None:
        self._level = 0.5
        self.loud = False
        self.table = torch.zeros(3)
        self.nothing = None

    @property
    def level(self) -> float:
        return self._level

    @level.setter
    def level(self, value: float) -> None:
        if value > 2:
            raise ValueError("too much")
        self._level = value


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.LeakyReLU(0.2), nn.Linear(4, 2))


def knobs(literal: Any, **options: Any) -> Knobs:
    return Knobs(Tree(net()), literal, EXTENT, **options)


def lifted(literal: Any) -> Lifted:
    made = net()
    return Lifted(made, Knobs(Tree(made), literal, EXTENT), EXTENT)


def lift_unseen() -> None:
    owner = nn.Module()
    owner.strength = 1.0  # type: ignore[assignment]
    lifted({"strength": {owner: linear(0, 1)}}).look([owner])


def fix_branches() -> None:
    owner = net()
    owner.temperature = 1.0  # type: ignore[assignment]
    made = Lifted(owner, Knobs(Tree(owner), {"temperature": linear(1, 2)}, EXTENT), EXTENT)
    made.fix(PlanError("compile=True: the step cannot be compiled as one program: a branch."))


def trained(precision: Any, **options: Any) -> None:
    etude.train(net(), (X, Y), loss="mse", batch_size=4, precision=precision, progress=False, **options)


def load(state: Any) -> None:
    knobs({"p": times(linear(1, 0))}).load(state)


KNOBS: dict[str, tuple[Callable[[], object], type[EtudeError], list[str]]] = {
    "knobs no dict": (lambda: read_knobs([("p", 1)]), SettingError, ["dict from attribute names", "knobs={'p'"]),
    "knob no name": (lambda: read_knobs({"a b": 1}), SettingError, ["'a b'", "no name of an attribute"]),
    "knob a pair without a list": (
        lambda: read_knobs({"strength": (Sealed(), 0.5)}),
        SettingError,
        ["neither a value nor a list of pairs", "Write {'strength': [(augment, linear(0, 1))]}"],
    ),
    "knob of a dict": (
        lambda: knobs({"strength": [({"strength": 1.0}, 0.5)]}),
        SettingError,
        ["has entries, and a knob is an attribute", "types.SimpleNamespace"],
    ),
    "knob by a path": (
        lambda: read_knobs({"encoder.*.drop.p": 0.1}),
        SettingError,
        ["'encoder.*.drop.p' is a path", "Write knobs={'p': {'encoder.*.drop': ...}}", "{'p': [(object, ...)]}"],
    ),
    "knob training": (lambda: read_knobs({"training": True}), SettingError, ["the mode of a module", "To freeze"]),
    "knob private": (lambda: read_knobs({"_p": 1}), SettingError, ["'_p' is private"]),
    "knob without rules": (lambda: read_knobs({"p": {}}), SettingError, ["'p' has no rules", "nn.Dropout"]),
    "knob no pairs": (
        lambda: read_knobs({"p": [1, 2]}),
        SettingError,
        ["neither a value nor a list of pairs", "Write"],
    ),
    "knob none": (lambda: read_knobs({"p": None}), SettingError, ["'p' is given None", "INHERIT"]),
    "knob part": (lambda: read_knobs({"p": part("a")}), SettingError, ["a number, a bool or a text"]),
    "knob factor": (
        lambda: read_knobs({"p": {"a": times(etude.constant("x"))}}),
        SettingError,
        ["times(constant('x'))", "a factor is a number"],
    ),
    "knob range": (lambda: knobs({"p": 1.5}), SettingError, ["Dropout '1' takes p from 0 to 1, not 1.5"]),
    "knob kind": (lambda: knobs({"loud": {Level(): 1}}), SettingError, ["is the bool False, not 1", "True or False"]),
    "knob sealed": (
        lambda: knobs({"strength": {Sealed(): 1.0}}),
        SettingError,
        ["strength of the object given (Sealed) cannot be written", "frozen=True"],
    ),
    "knob trained": (lambda: knobs({"weight": 0.5}), SettingError, ["is a parameter", "register_buffer"]),
    "knob elements": (lambda: knobs({"table": {Level(): 1.0}}), SettingError, ["has 3 elements", "one number"]),
    "knob nothing": (lambda: knobs({"nothing": {Level(): 1.0}}), SettingError, ["is None", "Give it a number"]),
    "knob built": (lambda: knobs({"in_features": 2}), SettingError, ["in_features of Linear '0'", "was built"]),
    "knob covered": (
        lambda: knobs({"p": {nn.Dropout: 0.1, "1": 0.2}}, strict=True),
        RuleError,
        ["part('1'): 0.2 for 'p' never decides", "cover it"],
    ),
    "knob absent": (lambda: knobs({"q": 0.5}), SettingError, ["none of the 5 modules", "'q'", "'p'"]),
    "knob of an array": (lambda: knobs({"p": {"0.weight": 0.5}}), PartError, ["selects no module", "'0.weight'"]),
    "knob multiplied": (
        lambda: knobs({"loud": {Level(): times(2)}}),
        SettingError,
        ["times(2)", "loud of the object given (Level) is a bool", "cannot be multiplied"],
    ),
    "knob refused": (lambda: knobs({"level": {Level(): linear(0, 3)}}), SettingError, ["refuses 2", "too much"]),
    "knob in the run": (
        lambda: knobs({"p": lambda p: 2.0 if p.step == 0.5 else 0.1}).write(Progress(0.5, extent=EXTENT)),
        SettingError,
        ["knobs: p at step 0.5", "from 0 to 1, not 2.0"],
    ),
    "knob state": (lambda: load({}), StateError, ["no state of knobs", "Give what state() returned"]),
    "knob state of others": (
        lambda: load({"memory": {}, "written": {}, "starts": {"p": [1.0, 2.0]}}),
        StateError,
        ["is for 2 attributes, here are 1"],
    ),
    "knob state of other values": (
        lambda: load({"memory": {}, "written": {"p": 20.0}, "starts": {}}),
        StateError,
        ["of the knob 'p' does not fit", "from 0 to 1"],
    ),
    "knob compiled": (
        lambda: lifted({"negative_slope": linear(0, 0.5)}),
        PlanError,
        ["negative_slope of LeakyReLU '2'", "takes 100 values", "leave compile out"],
    ),
    "knob compiled in a branch": (fix_branches, PlanError, ["a branch", "temperature", "takes 100 values"]),
    "knob compiled of an object": (lift_unseen, PlanError, ["reads knobs", "made anew"]),
    "precision listens": (
        lambda: trained(plateau("val.loss"), epochs=1),
        SettingError,
        ["a precision goes by the clock", "Write precision=pieces"],
    ),
    "precision fp64 for a while": (
        lambda: trained(pieces("fp32", (steps(1), "fp64")), epochs=1),
        SettingError,
        ["fp64 is for a whole run", "or fp32 here"],
    ),
    "precision misspelt in a schedule": (
        lambda: trained(pieces("fp32", (steps(1), "pf16")), epochs=1),
        SettingError,
        ["gives 'pf16'", "known are fp32, fp64, bf16, fp16"],
    ),
}
