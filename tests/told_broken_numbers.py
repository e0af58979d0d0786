"""Errors about broken numbers and memory that ran out, for the tests of messages: what makes each, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import (
    EtudeError,
    NonFiniteError,
    OutOfMemoryError,
    PlanError,
    ScheduleError,
    SettingError,
    StateError,
)
from etude.step.averaging import Averages
from etude.step.policies import Policy, policy, policy_by_hand, roll_back, skip
from etude.step.precision import Precision
from etude.step.snapshots import Snapshots
from etude.step.splitting import check_out_of_memory, halves
from etude.step.trainer import Trainer
from etude.step.update import Update
from etude.step.work import Manner, Work
from etude.values.cadence import every
from etude.values.progress import Extent, Progress
from etude.values.spans import epochs, fraction, minutes, steps
from nets import chain

CLOCK = Progress(extent=Extent(steps=10))


def batch(value: float = 1.0) -> tuple[Tensor, Tensor]:
    return torch.full((4, 3), value), torch.zeros(4, 2)


def work(net: nn.Module, made: Policy, optimizer: str = "adam", compile: bool = False, memory: str = "raise") -> Work:
    """An update at work on a net."""
    update = Update("loss", "mse", optimizer=optimizer)
    plain = Precision("fp32", torch.device("cpu"))
    return Work(update, net, plain, CLOCK.extent, Manner(made, compile=compile, out_of_memory=memory))


def at_work(made: Policy, net: nn.Module | None = None) -> tuple[Work, Snapshots]:
    """The same with the first snapshot of the net."""
    of = chain() if net is None else net
    one = work(of, made)
    kept = Snapshots([one], Averages((), one.stepper.table.tree, CLOCK.extent), of, made)
    kept.begin(CLOCK)
    return one, kept


def once_too_often() -> None:
    one, kept = at_work(roll_back(most=1))
    for number in (1, 2):
        kept.back([(one, one.step(CLOCK, batch(nan)))], number)


def three_in_a_row() -> None:
    one = work(chain(), skip(2))
    for _ in range(3):
        one.step(CLOCK, batch(nan))


def three_by_hand() -> None:
    net = chain()
    trainer = Trainer(net, non_finite=skip(2))
    for _ in range(3):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, nan)
        trainer.step()


def two_by_closure() -> None:
    net = chain()
    trainer = Trainer(net, "lbfgs", non_finite=skip(1))

    def loss() -> Tensor:
        trainer.zero_grad()
        made = net(torch.full((4, 3), nan)).sum()
        made.backward()
        return made

    for _ in range(2):
        trainer.step(1, closure=loss)


def two_gradients(optimizer: str) -> None:
    """The loss is a number, and its gradient is none."""
    one = work(Rooted(), skip(1), optimizer)
    for _ in range(2):
        one.step(CLOCK, batch(0.0))


def of_another_net() -> None:
    _, kept = at_work(roll_back())
    at_work(roll_back(), nn.Linear(3, 2))[1].load(kept.state())


def of_other_updates() -> None:
    _, kept = at_work(roll_back())
    state = kept.state()
    kept.load({**state, "optimizers": {"critic": state["optimizers"]["loss"]}})


class Rooted(nn.Linear):
    """Its output is finite at 0, and has no slope there."""

    def __init__(self) -> None:
        super().__init__(3, 2, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).square().sqrt()


class NoRoom(nn.Linear):
    """A net for which there is no memory at all."""

    def forward(self, input: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")


class OneAtATime(nn.Linear):
    """A net for which there is no memory above one sample; what follows needs more."""

    def forward(self, input: Tensor) -> Tensor:
        if len(input) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(input)


BROKEN_NUMBERS: dict[str, tuple[Callable[[], Any], type[EtudeError], list[str]]] = {
    "unknown policy": (lambda: policy("skp"), SettingError, ["non_finite='skp'", "skip(most=3)", 'Nearest: "skip"']),
    "policy by its function": (
        lambda: policy(skip),  # type: ignore[arg-type]
        SettingError,
        ["non_finite=skip", "the function itself", "Write non_finite=skip(most=3)"],
    ),
    "how many in a row": (lambda: skip(-1), SettingError, ["skip(most=-1)", "a whole number of at least 0"]),
    "how much slower": (
        lambda: roll_back(factor=2.0),
        SettingError,
        ["roll_back(factor=2.0)", "above 0 and is at most 1", "Write roll_back(factor=0.5)"],
    ),
    "several spans between snapshots": (
        lambda: roll_back(every=every(steps(1)) | epochs(1)),
        SettingError,
        ["roll_back(every=", "one span is needed here", "Write every=steps(100)"],
    ),
    "snapshots by the clock": (lambda: roll_back(every=minutes(1)), ScheduleError, ["cannot depend on time"]),
    "a span that nobody can tell": (
        lambda: roll_back(every=fraction(0.1)).check(Extent()),
        ScheduleError,
        ["non_finite=roll_back(factor=0.5, every=fraction(0.1), most=5)", "Or write every=steps(100)"],
    ),
    "policy of a trainer": (lambda: policy_by_hand("skp"), SettingError, ['"raise", "skip" or None', "skip(most=3)"]),
    "going back by hand": (
        lambda: Trainer(chain(), non_finite=roll_back()),
        SettingError,
        ["is for a run", "Plan", "load what trainer.state_dict() gave"],
    ),
    "too many in a row": (
        three_in_a_row,
        NonFiniteError,
        ["Step 1 is refused", "batch[0]", "The 2 steps before it were left out, and skip(most=2) allows no more"],
    ),
    "too many in a row by hand": (
        three_by_hand,
        NonFiniteError,
        ["Step 3 is refused", "The 2 steps before it were left out, and skip(most=2) allows no more"],
    ),
    "too many in a row by closure": (
        two_by_closure,
        NonFiniteError,
        ["Step 2 is refused", "The step before it was left out, and skip(most=1) allows no more"],
    ),
    "too many gradients in a row": (
        lambda: two_gradients("adam"),
        NonFiniteError,
        [
            "the gradients of 'weight' are not finite",
            "The step before it was left out, and skip(most=1) allows no more",
        ],
    ),
    "too many gradients of a closure": (
        lambda: two_gradients("lbfgs"),
        NonFiniteError,
        [
            "the gradients of 'weight' are not finite",
            "The step before it was left out, and skip(most=1) allows no more",
        ],
    ),
    "gone back too often": (
        once_too_often,
        NonFiniteError,
        [
            "Step 2 is refused",
            "went back 1 times before",
            "at 0.5 of what was said",
            "Nothing was changed",
            "clip_norm",
        ],
    ),
    "snapshot of another net": (of_another_net, StateError, ["of another net", "'0.weight'", "Nothing was loaded"]),
    "snapshot of other updates": (of_other_updates, StateError, ["of the updates 'critic'", "Nothing was loaded"]),
    "unknown way with memory": (
        lambda: check_out_of_memory("splt"),
        SettingError,
        ["out_of_memory='splt'", '"raise" or "split"', 'Nearest: "split"'],
    ),
    "compiled and split": (
        lambda: work(chain(), policy("raise"), compile=True, memory="split"),
        PlanError,
        ['out_of_memory="split"', "compile=True makes a program for a whole batch", "Leave one of them out"],
    ),
    "not one row a sample": (
        lambda: halves((torch.zeros(4, 3), torch.zeros(5))),
        SettingError,
        ["cuts a batch between its samples, of which it has 4", "batch[1] is of shape (5,)", "smaller batch_size"],
    ),
    "of the whole batch": (lambda: halves({"x": torch.zeros(4, 3), "epoch": 3}), SettingError, ["epoch is int 3"]),
    "offsets of other sequences": (
        lambda: halves({"x": torch.zeros(6), "x_lengths": torch.tensor([4, 2]), "x_offsets": torch.tensor([0, 4])}),
        SettingError,
        ["x_offsets is of shape (2,) where (3,) is needed"],
    ),
    "no memory for one sample": (
        lambda: work(NoRoom(3, 2), policy("raise"), memory="split").step(CLOCK, batch()),
        OutOfMemoryError,
        ["Step 1", "not enough memory for one sample, batch[0] (1, 3), batch[1] (1, 2)", "torch.utils.checkpoint"],
    ),
    "no memory for two samples of batch norm": (
        lambda: work(nn.Sequential(OneAtATime(3, 2), nn.BatchNorm1d(2)), policy("raise"), "sgd", memory="split").step(
            CLOCK, batch()
        ),
        OutOfMemoryError,
        ["Step 1", "one sample, with which batch norm cannot be trained", "nn.GroupNorm", "{'1': FROZEN}"],
    ),
}
