"""Wrong uses of settings of gradients: how each is provoked, its error, and what the message says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from etude import everything, part, steps, warmup
from etude.errors import EtudeError, RuleError, SettingError, StateError
from etude.step.trainer import Trainer
from etude.values.schedule import schedule


def pair() -> nn.ParameterDict:
    """Two equal arrays, and one of another shape."""
    shapes = {"a": (2, 2), "b": (2, 2), "c": (3,)}
    return nn.ParameterDict({name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()})


def tied(net: nn.Module | None = None, **more: Any) -> Trainer:
    made = pair() if net is None else net
    return Trainer(made, **{"optimizer": "adamw", "tie": {part("a") | "b": True}, **more})


def differ() -> None:
    net = pair()
    with torch.no_grad():
        net["b"].add_(1)
    tied(net)


def apart() -> None:
    trainer = tied(update_schedule=schedule(lambda progress: part("a") if progress.step == 0 else everything))
    for array in trainer.table.tree.arrays.values():
        array.grad = torch.ones_like(array)
    trainer.step()


def carried() -> None:
    trainer = Trainer(pair(), carry="sum", update_schedule=["a", "b", "c"])
    trainer.load_state_dict({**trainer.state_dict(), "carried": {"a": {"sum": torch.ones(1), "steps": 1}}})


Case = tuple[Callable[[], object], type[EtudeError], list[str]]
GRADIENTS: dict[str, Case] = {
    "tie everything": (lambda: tied(tie=True), SettingError, ["a rule says which arrays are one", "Write tie="]),
    "tie one": (lambda: tied(tie={"a": True}), SettingError, ["'a' alone", "Name the arrays"]),
    "tie shapes": (lambda: tied(tie={everything: True}), SettingError, ["different shapes", "'c' (3,)"]),
    "tie settings": (
        lambda: tied(weight_decay={"a": 0.5}),
        SettingError,
        ["'a' and 'b' differ in weight_decay", "give both the same weight_decay"],
    ),
    "tie optimizers": (
        lambda: tied(optimizer={"a": "adam", everything: "adamw"}),
        SettingError,
        ["'a' and 'b' differ in"],
    ),
    "tie schedule": (
        lambda: tied(update_schedule=["a", "b", "c"]),
        SettingError,
        ["part('a') of the update schedule has only 'a'", "put all of them into it"],
    ),
    "tie turn": (apart, SettingError, ["'a' would move and 'b' would not", "move and rest together"]),
    "tie unlike": (differ, SettingError, ["'a' and 'b'", "differ in their numbers", "Make them equal first"]),
    "tie draws": (
        lambda: tied(optimizer="sgld", learning_rate=0.1),
        SettingError,
        ["tie= and sgld", "chance of its own", "Leave out one"],
    ),
    "carry alone": (
        lambda: Trainer(pair(), carry="sum"),
        SettingError,
        ["there is no update schedule", "or leave carry out"],
    ),
    "carry word": (
        lambda: Trainer(pair(), carry="sums", update_schedule=["a", "b"]),
        SettingError,
        ["carry='sums'", '"sum" or "mean"', "Nearest"],
    ),
    "carried state": (carried, StateError, ["carried gradients", "'a' is no tensor of shape (2, 2)", "Nothing was"]),
    "decayed twice": (
        lambda: Trainer(pair(), l2=0.1, weight_decay=0.1, strict=True),
        RuleError,
        ["weight_decay= and l2=", "Leave one of them out"],
    ),
    "part before setting": (
        lambda: Trainer(pair(), rules={"a": {"weight_decay": 0}}),
        SettingError,
        ["the part stands before the setting", "Write rules={'weight_decay': {'a': 0}}"],
    ),
    "rate by name": (
        lambda: Trainer(pair(), learning_rate="cosine"),
        SettingError,
        ["learning_rate='cosine': a finite number is needed, or a schedule", "learning_rate=cosine(3e-4, 0)"],
    ),
    "rate in quotes": (
        lambda: Trainer(pair(), learning_rate="1e-3"),
        SettingError,
        ["Write learning_rate=0.001, without quotes"],
    ),
    "score without a name": (
        lambda: Trainer(pair()).see(0.3),  # type: ignore[arg-type]
        SettingError,
        ["see(0.3): a dict of scores by name is needed", "Write see({'val.loss': 0.3})"],
    ),
    "rate of 1": (
        lambda: Trainer(pair(), learning_rate=warmup(steps(3)), strict=True),
        RuleError,
        ["is warmup(steps(3)), a factor alone", "Write learning_rate=3e-4 * warmup(steps(3))"],
    ),
    "setting twice": (
        lambda: Trainer(pair(), clip_norm={"a": 1.0}, rules={"clip_norm": {"b": 1.0}}),
        SettingError,
        ["clip_norm= is given by part", "all in one of them"],
    ),
}
