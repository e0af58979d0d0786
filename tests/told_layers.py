"""Wrong uses of layers and of perturbed arrays: how each is provoked, its error, and what the message says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from etude import layers, linear
from etude.errors import EtudeError, SettingError
from etude.step.trainer import Trainer
from nets import chain, give_gradients

X, Y = torch.randn(8, 3), torch.randn(8, 2)
SOUND = torch.randn(2, 9, 4)


def deep(branch: Any = None, **options: Any) -> layers.StochasticDepth:
    return layers.StochasticDepth(nn.Linear(3, 3) if branch is None else branch, **options)


def spec(*given: Any, **options: Any) -> layers.SpecAugment:
    return layers.SpecAugment(*given, **options)


def noisy(net: nn.Module | None = None, **options: Any) -> Trainer:
    return Trainer(chain() if net is None else net, **(options or {"weight_noise": 0.1}))


def within() -> None:
    made = noisy()
    with made.perturbed(), made.perturbed():
        pass


def step_within() -> None:
    made = noisy()
    with made.perturbed():
        made.step()


def without() -> None:
    net = chain()
    made = noisy(net)
    give_gradients(net, 0)
    made.step()


def lazy() -> None:
    with noisy(nn.LazyLinear(2)).perturbed():
        pass


Make = Callable[[], Any]
LAYERS: dict[str, tuple[Make, type[EtudeError], list[str]]] = {
    # chances
    "a chance that changes": (
        lambda: layers.Dropout(linear(0, 0.1)),  # type: ignore[arg-type]
        SettingError,
        ["Dropout: p=linear(0, 0.1): a number is needed", "knobs={'p': linear(0, 0.1)}"],
    ),
    "a share that changes": (
        lambda: spec(max_fraction=linear(0, 0.3)),
        SettingError,
        ["max_fraction=linear(0, 0.3): a number is needed", "knobs={'max_time_fraction': linear(0, 0.3)}"],
    ),
    "three shares": (
        lambda: spec(max_fraction=(0.1, 0.2, 0.3)),
        SettingError,
        ["max_fraction=(0.1, 0.2, 0.3): a number from 0 to 1 is needed"],
    ),
    "chance to drop": (
        lambda: layers.Dropout(10),
        SettingError,
        ["Dropout: p=10: the chance to drop is a number from 0 to 1", "Write p=0.1 for 10 percent"],
    ),
    "axes of dropout": (
        lambda: layers.Dropout(0.1, shared="time"),  # type: ignore[arg-type]
        SettingError,
        ["shared='time': the numbers of axes", "Write shared=1 for the time of (batch, time, features)"],
    ),
    "axis of dropout twice": (
        lambda: layers.Dropout(0.1, shared=(1, 1)),
        SettingError,
        ["shared=(1, 1): an axis is named twice", "Write shared=(1,)"],
    ),
    "axis that is not there": (
        lambda: layers.Dropout(0.1, shared=2)(X),
        SettingError,
        ["Dropout(0.1, shared=(2,))", "the shape (8, 3), and no axis 2", "Write shared= from 0 to 1"],
    ),
    # stochastic depth
    "branch": (
        lambda: deep("block"),
        SettingError,
        ["StochasticDepth('block'): the branch is a module", "x + drop_path(y, p, self.training)"],
    ),
    "branch of another shape": (
        lambda: deep(nn.Linear(3, 2))(X),
        SettingError,
        ["the branch gave the shape (8, 2) for an input of the shape (8, 3)", "Use a branch that keeps the shape"],
    ),
    "mode of depth": (
        lambda: deep(mode="rows"),
        SettingError,
        ["mode='rows': 'row' or 'batch' is needed", 'Nearest: "row"'],
    ),
    "depth by schedule": (
        lambda: layers.linear_depth(deep(), linear(0, 1)),  # type: ignore[arg-type]
        SettingError,
        ["last=linear(0, 1): a number is needed", 'knobs={"p": {StochasticDepth: times(linear(0, 1))}}'],
    ),
    "depth of a net without": (
        lambda: layers.linear_depth(chain(), 0.5),
        SettingError,
        ["the Sequential has no StochasticDepth in it", "[block.drop for block in net.blocks]"],
    ),
    "depth of nothing": (
        lambda: layers.linear_depth([], 0.5),
        SettingError,
        ["linear_depth([]): there is nothing to set", "Give a net, or modules"],
    ),
    "depth of a layer without p": (
        lambda: layers.linear_depth([nn.Tanh()], 0.5),
        SettingError,
        ["a Tanh has no attribute p that is a number", "Give a net, or modules that have one"],
    ),
    # masked spectrograms
    "shape of a spectrogram": (
        lambda: spec()(X),
        SettingError,
        ["the input has the shape (8, 3); (batch, time, features) is needed", "Write x[None] for one sequence"],
    ),
    "lengths of spectrograms": (
        lambda: spec()(SOUND, [9]),
        SettingError,
        ["lengths of the shape (1,)", "for a batch of 2: one whole number for each sequence"],
    ),
    "longer than the spectrogram": (
        lambda: spec()(SOUND, [9, 36]),
        SettingError,
        ["lengths from 9 to 36 for 9 frames", "Give them in frames of this input"],
    ),
    "numbers of masks": (
        lambda: spec((3, 2)),
        SettingError,
        ["time_masks=(3, 2): the least number is above the largest", "Write time_masks=(2, 3)"],
    ),
    "number of masks": (
        lambda: spec(2),
        SettingError,
        ["time_masks=2: a pair of whole numbers is needed, as in time_masks=(0, 2)"],
    ),
    "width of masks": (
        lambda: spec(time_width=0),
        SettingError,
        ["time_width=0: a whole number of at least 1"],
    ),
    "share of masks": (
        lambda: spec(max_fraction=50),
        SettingError,
        ["max_fraction=50: a number from 0 to 1 is needed"],
    ),
    "value of masks": (
        lambda: spec(value="mean"),
        SettingError,
        ["value='mean': a finite number is needed"],
    ),
    # perturbed arrays
    "perturbed within": (within, SettingError, ["perturbed already", "Use it once, around forward and backward"]),
    "step within": (
        step_within,
        SettingError,
        ["step(): the arrays are perturbed", "Call it after `with trainer.perturbed():`"],
    ),
    "step of what was not perturbed": (
        without,
        SettingError,
        ["weight_noise perturbs '0.weight'", "made without it", "Write with trainer.perturbed()"],
    ),
    "perturbed without a shape": (
        lazy,
        SettingError,
        ["'weight', 'bias' cannot be perturbed: no shape yet", "Call the net once before the first step"],
    ),
}
