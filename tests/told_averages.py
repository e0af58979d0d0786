"""Errors about averages, for the tests of messages: what makes each, its kind, and what it has to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from etude.errors import EtudeError, PartError, ScheduleError, SettingError, StateError
from etude.step.averages import Average, ema, swa
from etude.step.averaging import Averages, put
from etude.values.cadence import every
from etude.values.progress import Extent, Progress
from etude.values.schedule import pieces, schedule
from etude.values.spans import epochs, seconds, steps
from etude.values.tree import Tree
from nets import chain


def at_work(*averages: Average, net: nn.Module | None = None, taken: int = 1) -> Averages:
    """Averages of a net, after some steps."""
    made = Averages(averages, Tree(chain() if net is None else net))
    for step in range(taken):
        made.update(Progress(step), Progress(step + 1))
    return made


def nested() -> None:
    averages = at_work(ema(), ema(name="slow"))
    with averages.use("ema"), averages.use("slow"):
        raise AssertionError("two at once")


def step_within() -> None:
    averages = at_work(ema())
    with averages.use("ema"):
        averages.update(Progress(1), Progress(2))


def written_within() -> None:
    net = chain()
    with at_work(ema(), net=net).use("ema"), torch.no_grad():
        net[0].weight.add_(1)


def removed() -> None:
    net = chain()
    averages = at_work(ema(), net=net)
    net[2].bias = None
    averages.update(Progress(1), Progress(2))


def exchanged() -> None:
    net = chain()
    averages = at_work(ema(), net=net)
    net[0].weight = nn.Parameter(torch.zeros(7, 3))
    averages.update(Progress(1), Progress(2))


def sparse() -> None:
    net = nn.Linear(2, 2)
    net.weight = nn.Parameter(torch.eye(2).to_sparse())
    at_work(ema(), net=net)


def loaded(change: Callable[[dict[str, Any]], Any]) -> None:
    averages = at_work(ema())
    averages.load(change(averages.state()))


def changed(**pieces_: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, "each": {"ema": {**state["each"]["ema"], **pieces_}}}


AVERAGES: dict[str, tuple[Callable[[], Any], type[EtudeError], list[str]]] = {
    "decay of an average": (lambda: ema(1.5), SettingError, ["ema(1.5)", "from 0 to 1", "Write ema(0.999)"]),
    "decay that is none": (lambda: ema("slow"), SettingError, ["ema('slow')", "a number from 0 to 1"]),
    "decay that leaves its bounds": (
        lambda: Averages(ema(pieces(0.5, (steps(5), 2.0))), Tree(chain()), Extent(steps=10)),
        ScheduleError,
        ["ema(pieces(0.5, (steps(5), 2.0)))", "the decay is 2.0 at step", "between 0 and 1"],
    ),
    "warm-up of an average": (lambda: ema(warm_up=3), SettingError, ["ema(warm_up=3)", "True or False"]),
    "name of an average": (lambda: swa(name="a.b"), SettingError, ["swa(name='a.b')", "Write name='swa'"]),
    "average of never": (
        lambda: ema(when=False),
        SettingError,
        ["ema(when=False)", "Write when=pieces(False, (steps(100), True))", "never begins"],
    ),
    "average of a number": (lambda: ema(when=0.5), SettingError, ["ema(when=0.5)", "a schedule of True and False"]),
    "average at no time": (
        lambda: at_work(ema(when=schedule(lambda progress: "x"))),
        ScheduleError,
        ["when is 'x' at step 0", "True or False is needed"],
    ),
    "buffers of an average": (
        lambda: ema(buffers="avarage"),
        SettingError,
        ["ema(buffers='avarage')", '"average" or "copy"', 'Nearest: "average"'],
    ),
    "cadence of an average": (lambda: swa(every=5), ScheduleError, ["swa(every=5)", "Write steps(5)"]),
    "cadence by the clock": (lambda: swa(every=seconds(5)), ScheduleError, ["swa(every=seconds(5))", "resume exactly"]),
    "several cadences": (
        lambda: swa(every=every(epochs(1)) | every(steps(5))),
        SettingError,
        ["swa(every=every(epochs(1)) | every(steps(5)))", "one span is needed", "Write every=epochs(1)"],
    ),
    "cadence with a minimum": (
        lambda: swa(every=every(epochs(1), seconds(5))),
        SettingError,
        ["no minimum of time", "Write epochs(1)"],
    ),
    "epochs of an average": (
        lambda: Averages(swa(), Tree(chain()), uncounted=("epochs", "tokens")),
        ScheduleError,
        ["swa(): every=epochs(1)", "epochs is not known here", "Or write every=steps(100)"],
    ),
    "averages that are none": (
        lambda: at_work(0.999),  # type: ignore[arg-type]
        SettingError,
        ["averages=(0.999,)", "Write averages=(ema(0.999),)"],
    ),
    "averages of one name": (
        lambda: at_work(ema(0.9), ema(0.99)),
        SettingError,
        ["averages=(ema(0.9), ema(0.99))", "'ema' is the name of two", "ema(0.99, name='fast')"],
    ),
    "average of no part": (
        lambda: at_work(ema(part="0.wieght")),
        PartError,
        ["part('0.wieght') matches nothing", 'Nearest: "weight"'],
    ),
    "average of nothing": (
        lambda: at_work(ema(part=1)),
        SettingError,
        ["ema(0.999, part(1))", "part(1) has no arrays"],
    ),
    "average of sparse arrays": (
        sparse,
        SettingError,
        ["'weight' are sparse", "part=everything - 'weight'"],
    ),
    "average by name": (
        lambda: at_work(ema(), swa(every=steps(1))).of("emma"),
        SettingError,
        ["No average is called 'emma'", 'Nearest: "ema"', "Averages: ema, swa"],
    ),
    "average by name where there is none": (
        lambda: at_work().of("ema"),
        SettingError,
        ["No average is called 'ema'", "Write averages=(ema(0.999),)"],
    ),
    "two averages in use": (
        nested,
        SettingError,
        ["use('slow')", "the net has the arrays of the average 'ema' now", "after the with block"],
    ),
    "step with an average in use": (step_within, SettingError, ["update()", "after the with block"]),
    "written to an average in use": (
        written_within,
        SettingError,
        ["Within the average 'ema'", "after the with block"],
    ),
    "array gone from under an average": (
        removed,
        StateError,
        ["The average 'ema' is of '2.bias', which the net no longer has", "Make another"],
    ),
    "array of another shape under an average": (
        exchanged,
        StateError,
        ["The average 'ema' of '0.weight' has shape (5, 3), the array now (7, 3)", "Make another"],
    ),
    "average into another net": (
        lambda: put({"0.weight": torch.zeros(5, 3), "0.scale": torch.zeros(1), "0.bias": torch.zeros(9)}, chain()),
        StateError,
        ["no arrays of these names and shapes: '0.scale', '0.bias'", "Nothing was changed"],
    ),
    "no state of averages": (
        lambda: loaded(lambda state: {}),
        StateError,
        ["it is nothing that state() returned", "Nothing was loaded"],
    ),
    "state of other averages": (
        lambda: loaded(lambda state: {**state, "each": {"swa": state["each"]["ema"]}}),
        StateError,
        ["there is no average 'ema' in it", "it has an average 'swa', which is not here", "Nothing was loaded"],
    ),
    "state of an average that is none": (
        lambda: loaded(lambda state: {**state, "each": {"ema": 3}}),
        StateError,
        ["the average 'ema' is 3, which is none"],
    ),
    "state of another kind of average": (
        lambda: loaded(changed(kind="swa")),
        StateError,
        ["the average 'ema' is of swa, here of ema"],
    ),
    "state of an average of others": (
        lambda: loaded(changed(arrays={"0.weight": torch.zeros(2), "x": torch.zeros(1)})),
        StateError,
        [
            "the average 'ema' lacks '0.bias', '2.weight', '2.bias'",
            "has 'x', of which it is not here",
            "'0.weight' has shape (2,), the array (5, 3)",
        ],
    ),
}
