"""Wrong uses of metrics, probes and looks: how each is provoked, its error, and what the message says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import etude
from etude import Evaluate, Probe, epochs, minutes
from etude.errors import EtudeError, PartError, PlanError, SettingError
from etude.run.metrics import Metrics
from nets import chain

X, Y = torch.randn(8, 3), torch.randn(8, 2)
KINDS = torch.randint(0, 2, (8,))


def run(net: nn.Module | None = None, target: Tensor = Y, **options: Any) -> Any:
    given = {"loss": "mse", "epochs": 1, "batch_size": 8, "progress": False, **options}
    return etude.train(chain() if net is None else net, (X, target), **given)


def look(metrics: Any, target: Tensor = Y, **options: Any) -> Any:
    """A run with a look at validation data."""
    loss = "mse" if target.is_floating_point() else "cross_entropy"
    return run(target=target, loss=loss, validation=Evaluate((X, target), metrics, **options))


class Idle(nn.Module):
    """Has a layer that is not called in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.other = nn.Linear(3, 2), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.used(x)
        return self.other(y) if self.training else y


class Several(nn.Module):
    """Inside it a module gives a text."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.other = nn.Linear(3, 2), Named()

    def forward(self, x: Tensor) -> Tensor:
        self.other(x)
        y: Tensor = self.used(x)
        return y


class Named(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "x"


class Late:
    """A metric that fails in the second look."""

    higher_is_better = True

    def __init__(self) -> None:
        self.looks = 0

    def reset(self) -> None:
        self.looks += 1

    def update(self, output: Any, target: Any) -> None:
        pass

    def compute(self) -> float:
        if self.looks > 1:
            raise ZeroDivisionError("no sample")
        return 0.5


def failing(output: Tensor, target: Tensor) -> Tensor:
    raise ValueError("sizes differ")


Make = Callable[[], Any]
MEASURES: dict[str, tuple[Make, type[EtudeError], list[str]]] = {
    # looks
    "other data without names": (
        lambda: look("mae", also=[(X, Y)]),
        SettingError,
        ["data by name are needed, not list", 'Write also={"test": (x, y)}'],
    ),
    "a fraction beside": (
        lambda: look("mae", also={"test": 0.1}),
        SettingError,
        ["Evaluate(also={'test': 0.1})", "for the first argument alone"],
    ),
    "other data called as a score": (
        lambda: look("mae", also={"mae": (X, Y)}),
        SettingError,
        ["Evaluate(also={'mae': ...})", "'mae' is a score of the first data", "a name of their own"],
    ),
    # metrics
    "metric by name": (
        lambda: Metrics("acuracy"),
        SettingError,
        ["There is no metric 'acuracy'", "Known: accuracy", 'Nearest: "accuracy"'],
    ),
    "metric of several outputs": (
        lambda: Metrics("accuracy").update({"digit": X, "size": X}, Y),
        SettingError,
        ["the net's output has 'digit', 'size'", "none of them is called 'accuracy'", "'digit.accuracy': 'accuracy'"],
    ),
    "two metrics of one name": (
        lambda: Metrics(["mse", "mse"]),
        SettingError,
        ["two have one name: mse, mse", "Give a dict of names"],
    ),
    "metric that fails": (
        lambda: look(failing),
        SettingError,
        ["The metric 'failing' failed: ValueError: sizes differ", "It was given (output, target) of a batch"],
    ),
    "metric class": (
        lambda: Metrics(nn.MSELoss),
        SettingError,
        ["metrics=MSELoss: a class", "Write MSELoss()"],
    ),
    "no metric": (lambda: Metrics(3), SettingError, ["metrics: 3 is none", 'Write "accuracy", a function']),  # type: ignore[arg-type]
    "probe of a gradient as a metric": (
        lambda: Metrics(Probe("0", of="gradient")),
        SettingError,
        ["nothing moves in a look", "Write probes=[Probe('0', of='gradient')]"],
    ),
    "probe with a cadence as a metric": (
        lambda: Metrics(Probe("0", every=epochs(1))),
        SettingError,
        ["it is measured at each look", "Evaluate(every=...)", "Leave every out"],
    ),
    # looks
    "cadence of looks": (
        lambda: Evaluate(0.2, every=3),  # type: ignore[arg-type]
        SettingError,
        ["Evaluate(every=3)", "write every(epochs(1)) or every(steps(500))"],
    ),
    "batches of looks": (
        lambda: Evaluate(0.2, batch_size=0),
        SettingError,
        ["Evaluate(batch_size=0): a whole number of at least 1"],
    ),
    "best of looks": (
        lambda: Evaluate(0.2, best=3),  # type: ignore[arg-type]
        SettingError,
        ["Evaluate(best=3)", 'write best="accuracy" or best=("f1", "max")'],
    ),
    "direction of the best": (
        lambda: look("accuracy", KINDS, best=("accuracy", "up")),
        SettingError,
        ["best=('accuracy', 'up')", 'the direction is "min" or "max"', """Write best=('accuracy', "max")"""],
    ),
    "best by a probe": (
        lambda: look(Probe("0"), best="0.rms"),
        SettingError,
        ["best='0.rms': whether more is better is not known", """Write best=('0.rms', "max")"""],
    ),
    "best by no score": (
        lambda: look("mse", best="acuracy"),
        SettingError,
        ["best='acuracy': no such score", "Scores: loss, mse"],
    ),
    "best by what has no direction": (
        lambda: look({"own": lambda output, target: output.mean()}, best="own"),
        SettingError,
        ["best='own': whether more is better is not known", """Write best=('own', "max")"""],
    ),
    "best by a table": (
        lambda: look("confusion", KINDS, best=("confusion", "max")),
        SettingError,
        ["best='confusion': it is several numbers, and one is needed", "Scores: loss"],
    ),
    "best by a metric that fails late": (
        lambda: run(epochs=2, validation=Evaluate((X, Y), {"late": Late()}, best="late")),
        SettingError,
        ["The metric 'late' failed: ZeroDivisionError: no sample", "Its value decides about the run"],
    ),
    "metric with the name of a loss": (
        lambda: look({"loss": "mse"}),
        SettingError,
        ["'loss' is the name of a loss", "Give another: metrics={'loss_score': ...}"],
    ),
    "output that is not there in a look": (
        lambda: run(Idle(), validation=Evaluate((X, Y), Probe("other"))),
        SettingError,
        ["other.rms: the net did not call the module in evaluation", "Name another"],
    ),
    # probes
    "probe of nothing": (
        lambda: Probe("0", "rsm"),
        SettingError,
        ["Probe(part('0')): 'rsm' is measured of nothing", "Known: rms", 'Nearest: "rms"'],
    ),
    "place of a probe": (
        lambda: Probe("0", of="grad"),
        SettingError,
        ["of='grad' is no place to look at", "Known: output, array, gradient, update", 'Nearest: "gradient"'],
    ),
    "each of a probe": (lambda: Probe("0", each=1), SettingError, ["each=1: True or False is needed"]),  # type: ignore[arg-type]
    "name of a probe": (lambda: Probe("0", name=""), SettingError, ["name='': a text is needed, or leave it out"]),
    "cadence of a probe": (
        lambda: Probe("0", every=50),  # type: ignore[arg-type]
        SettingError,
        ["every=50: write every=steps(50) or every=epochs(1)"],
    ),
    "probe by the clock": (
        lambda: Probe("0", every=minutes(1)),
        SettingError,
        ["every=every(seconds(60)): time by the clock", "Write every=steps(50)"],
    ),
    "output of an array": (
        lambda: run(probes=[Probe("0.weight")]),
        PartError,
        ["part('0.weight') names arrays, and outputs are those of modules", 'Name a module, or write of="array"'],
    ),
    "array of an activation": (
        lambda: run(probes=[Probe("1", of="array")]),
        PartError,
        ["part('1') has no array in this net", "Name a part that has one"],
    ),
    "no probe": (
        lambda: run(probes=["0"]),
        SettingError,
        ["probes: '0' is no probe", "Write Probe('0')"],
    ),
    "two probes of one name": (
        lambda: run(probes=[Probe("0"), Probe("0")]),
        SettingError,
        ["two are called '0.rms'", "Probe(..., name=...)"],
    ),
    "a probe whose function fails": (
        lambda: run(probes=[Probe("0", lambda x: x[99])]),
        SettingError,
        ["Probe('0', <lambda>): its function failed on a tensor of shape (8, 5)", "IndexError"],
    ),
    "a probe of what is not there": (
        lambda: run(probes=[Probe("01")]),
        PartError,
        ["Probe('01'): part('01') matches nothing"],
    ),
    "function of a probe": (
        lambda: run(probes=[Probe("0", lambda x: x)]),
        SettingError,
        ["gave a tensor of shape (8, 5): one number is needed", "Write what=lambda x: x.abs().amax()"],
    ),
    "output that is no tensor": (
        lambda: run(Several(), probes=[Probe("other")]),
        SettingError,
        ["other.rms: its module gives a str, no tensor", "Name another"],
    ),
    "probe of a compiled step": (
        lambda: run(compile=True, probes=[Probe("0")]),
        PlanError,
        ["Probe('0') looks into the net", 'of="gradient" or of="array"', "metrics=[Probe('0')]"],
    ),
    "probe of a compiled net": (
        lambda: run(torch.compile(chain()), probes=[Probe("0")]),
        PlanError,
        ["a program made by torch.compile does not show it", "Give the net as it was before torch.compile"],
    ),
    "gradients of a closure": (
        lambda: run(optimizer="lbfgs", probes=[Probe("0", of="gradient")]),
        PlanError,
        ["computes several gradients a step", 'Write of="update"'],
    ),
}
