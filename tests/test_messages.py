"""Every error that parts, rules, tables and steps raise says what was asked, what is there and what to write.

Each case makes one error and names what its message has to contain. The last test reads the syntax trees of these
modules and fails where a `raise` is reached by no case: a new message needs a case here.
"""

from __future__ import annotations

import ast
import copy
import re
import sys
import types
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as peers

import etude
from etude.bind.left import set_rules
from etude.bind.resolve import resolve
from etude.errors import (
    DataError,
    EtudeError,
    NonFiniteError,
    PartError,
    PlanError,
    RuleError,
    ScheduleError,
    SettingError,
    StaleGradientError,
    StateError,
)
from etude.step.gan import GAN
from etude.step.loss import Losses, terms
from etude.step.optim.registry import by_name, register
from etude.step.optim.rule import Setting, UpdateRule
from etude.step.precision import check_precision
from etude.step.programs import _explained, _tracing
from etude.step.reading import Reader
from etude.step.together import Together
from etude.step.torch_schedules import from_torch, to_torch
from etude.step.trainer import Trainer
from etude.step.update import Update
from etude.values.part import Repeat, everything, part, where
from etude.values.progress import Progress
from etude.values.reactive import plateau
from etude.values.rules import rules, times
from etude.values.schedule import cycle, schedule
from etude.values.spans import steps
from etude.values.tree import Tree
from nets import chain, data, give_gradients, graph, tied
from told_averages import AVERAGES
from told_broken_numbers import BROKEN_NUMBERS
from told_gradients import GRADIENTS
from told_initial import INITIAL
from told_knobs import KNOBS
from told_layers import LAYERS
from told_listening import LISTENING
from told_losses import LOSSES
from told_measures import MEASURES
from told_phases import PHASES
from told_returnn import RETURNN

SRC = Path(__file__).parents[1] / "src" / "etude"
LOOKED_AT = [
    *(SRC / "values" / f"{name}.py" for name in ("part", "rules", "tree", "changes", "conditions", "following")),
    *(SRC / "values" / f"{name}.py" for name in ("newbob", "phases", "plateau", "scores", "stopping")),
    *(SRC / "run" / f"{name}.py" for name in ("evaluate", "metrics", "outputs", "probe", "probes", "statistics")),
    *sorted(
        file for folder in ("bind", "initial", "layers", "returnn", "step") for file in (SRC / folder).rglob("*.py")
    ),
]

X, Y = torch.randn(8, 3), torch.randn(8, 2)


def net() -> nn.Module:
    """head and body (two layers and a norm)."""
    body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
    return nn.ModuleDict({"head": nn.Linear(4, 2), "body": body})


def of(literal: Any) -> Any:
    return part(literal).of(net())


def never(name: str, array: Tensor) -> bool:
    return False


def scheduler(groups: Any = None, stepped: int = 0) -> peers.LRScheduler:
    """A scheduler of torch, of an optimizer that has made some steps."""
    optimizer = torch.optim.SGD(net().parameters() if groups is None else groups, lr=0.1)
    made = peers.StepLR(optimizer, 3)
    for _ in range(stepped):
        optimizer.step()
        made.step()
    return made


def trainer(optimizer: Any = "adamw", of_net: nn.Module | None = None, **options: Any) -> Trainer:
    return Trainer(chain() if of_net is None else of_net, optimizer, **options)


def stepped(count: float = 1, fill: float | None = None, **options: Any) -> Trainer:
    """A trainer that has made a step, with gradients for the next."""
    made = chain()
    own = Trainer(made, **options)
    give_gradients(made, 0)
    own.step()
    own.zero_grad()
    give_gradients(made, 1)
    if fill is not None:
        made[0].weight.grad.fill_(fill)
    own.step(count)
    return own


def mixed() -> None:
    made = chain()
    own = Trainer(made)
    for _ in range(2):
        (made[2](made[1](made[0](X))) - Y).square().sum().backward()
        own.step(8)


def in_turn() -> None:
    made = chain()
    first, second = Trainer(made), Trainer(made)
    give_gradients(made, 0)
    first.step()
    second.step()


def cleared() -> None:
    made = chain()
    own = Trainer(made, accumulate=2)
    give_gradients(made, 0)
    own.step()
    give_gradients(made, 1)
    own.step()


def several_processes() -> None:
    """As torch says it where processes are joined."""
    import torch.distributed as joined

    said = joined.is_initialized, joined.get_world_size
    try:
        joined.is_initialized, joined.get_world_size = lambda: True, lambda group=None: 2
        trainer().allreduce_grads()
    finally:
        joined.is_initialized, joined.get_world_size = said


def remembered(kept: Any) -> None:
    own = trainer(learning_rate=plateau("val.loss"))
    state = own.state_dict()
    own.load_state_dict({**state, "memory": dict.fromkeys(state["memory"], kept)})


def loaded(change: Callable[[dict[str, Any]], Any]) -> None:
    own = trainer()
    own.load_state_dict(change(copy.deepcopy(own.state_dict())))


def memory(**kept: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, "arrays": {**state["arrays"], "2.bias": kept}}


def foreign(key: str, value: Any) -> None:
    made = chain()
    own = Trainer(made, "torch.adamw")
    give_gradients(made, 0)
    own.step()
    state = copy.deepcopy(own.state_dict())
    state["arrays"]["0.weight"][key] = value
    own.load_state_dict(state)


def measured(loss: Any, values: Any = (X, Y), of_net: nn.Module | None = None) -> Any:
    made, module = Losses(terms(loss)), of_net or nn.Linear(3, 2)
    return made.measure(module, Reader(module), values, made.weights(etude.Progress()))


def held_against(loss: Any, target: Tensor) -> None:
    module = nn.Linear(3, 2)
    Losses(terms(loss)).check_output(module, Reader(module), (X, target), (X, target))


class Beside(nn.Module):
    """Has a layer that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.other = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.used(x)
        return y


class Heads(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"kind": x, "size": x}


def game(**options: Any) -> GAN:
    return GAN(nn.Linear(2, 1), nn.Linear(1, 1), **options)


def run(**options: Any) -> Any:
    given = {"loss": "mse", "steps": 2, "batch_size": 8, "progress": False, **options}
    made = given.pop("net", None) or chain()
    return etude.train(made, given.pop("data", (X, Y)), **given)


def old_torch() -> None:
    import torch._dynamo as dynamo

    own = dynamo.config
    try:
        dynamo.config = types.SimpleNamespace()
        with _tracing():
            pass
    finally:
        dynamo.config = own


def not_one_program() -> None:
    import torch._dynamo as dynamo

    def program(*given: Any) -> Any:
        raise dynamo.exc.Unsupported("generator in forward\nmore")

    _explained(program, None, torch.ones(1), None)


def many_shapes() -> None:
    import torch._dynamo as dynamo

    def program(*given: Any) -> Any:
        raise dynamo.exc.FailOnRecompileLimitHit("limit")

    _explained(program, None)


def hooked() -> nn.Module:
    net = chain()
    next(net.parameters()).register_hook(lambda gradient: gradient * 2)  # type: ignore[no-untyped-call]
    return net


class Plain(torch.optim.Optimizer):
    """Cannot climb."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> None:
        pass


def groups(*given: Any, **options: Any) -> Trainer:
    made = chain()
    optimizer = torch.optim.SGD([{"params": made[n].parameters(), **more} for n, more in given], lr=0.1, **options)
    return Trainer(made, optimizer)


class Listener(nn.Module):
    """Takes streams of sequences, and what is known of them."""

    def forward(self, x: Tensor, z: Tensor, mask: Tensor) -> Tensor:
        return x


def of_streams(**values: Tensor) -> Any:
    """Read a batch of sequences, each stream with lengths."""
    lengths = {f"{name}_lengths": torch.tensor([2]) for name in values if not name.endswith("_offsets")}
    return Reader(Listener())({**values, **lengths})


def micro_batches(counts: list[float]) -> None:
    """Measure a micro-batch of one element, of which this was told beforehand."""
    measured = Losses(terms("mse")).measure_each(
        nn.Identity(), Reader(nn.Identity()), (torch.ones(1), torch.ones(1)), (1.0,)
    )
    Together(["loss"], [1.0], 1, [counts]).share(measured[0])


class Demanding(Plain):
    """Its step cannot do without a closure."""

    def step(self, closure: Any) -> None:  # type: ignore[override]
        closure()


class Rateless(torch.optim.Optimizer):
    """Calls its rate something else."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"speed": 0.1})


class Tiger(UpdateRule):
    """A rule of the user's own."""

    name = "tiger"
    settings = {"momentum": Setting(0.9, 0.0, 1.0)}  # noqa: RUF012
    memories = ("mean",)

    def formula(self, *given: Any) -> None:
        """Nothing moves."""


class Wrong(Tiger):
    """Has a default for a setting that is not there."""

    def own_defaults(self, name: str, array: Tensor) -> dict[str, Any]:
        return {"momentun": 0.5}


def written_over() -> None:
    made = chain()
    own = Trainer(made, "rmsprop", learning_rate=0.1)
    give_gradients(made, 0)
    own.step()
    own.optimizer.optimizer.param_groups[0]["lr"] = 0.5  # type: ignore[union-attr]
    give_gradients(made, 1)
    own.step()


def stated(made: Any, /, **kept: Any) -> None:
    """Load a state in which the last array has this memory."""
    own = trainer(made)
    own.load_state_dict(memory(**kept)(copy.deepcopy(own.state_dict())))


def of_package(name: str) -> None:
    """An optimizer of a package that has one class."""
    made, before = types.ModuleType("schedulefree"), dict(sys.modules)
    made.AdamWScheduleFree = type("AdamWScheduleFree", (torch.optim.AdamW,), {})  # type: ignore[attr-defined]
    sys.modules["schedulefree"] = made
    try:
        by_name(f"schedulefree.{name}")
    finally:
        sys.modules.pop("schedulefree")
        sys.modules.update(before)


Make = Callable[[], Any]
CASES: dict[str, tuple[Make, type[EtudeError], list[str]]] = {
    # parts: what was asked, the level reached, what is there, the nearest
    "name": (
        lambda: of("haed"),
        PartError,
        ["part('haed')", "the net has no 'haed'", "There: 'head', 'body'", '"head"'],
    ),
    "name below": (lambda: of("body.7"), PartError, ["'body' has no '7'", "There: '0', '1', '2'"]),
    "name elsewhere": (lambda: of("running_mean"), PartError, ["the net has no", "write part('*.running_mean')"]),
    "name in an array": (
        lambda: of(("head", "weight", "x")),
        PartError,
        ["'head.weight' has no 'x'", "There: nothing"],
    ),
    "pattern": (lambda: of("*.wieght"), PartError, ["part('*.wieght')", "no path fits", "head", "Nearest"]),
    "regular expression": (lambda: of(re.compile("x+")), PartError, ["re.compile('x+')", "no path fits"]),
    "type": (
        lambda: of(nn.Conv2d),
        PartError,
        ["part(nn.Conv2d)", "no module is a Conv2d", "There: BatchNorm1d, Linear"],
    ),
    "layer": (lambda: of(9), PartError, ["part(9)", "the net has 2 layers (child modules), counted from 0"]),
    "layer inside": (lambda: of(("body", -9)), PartError, ["'body' has 3 layers"]),
    "span of layers": (lambda: of(slice(5, 9)), PartError, ["everything[5:9]", "the net has 2 layers"]),
    "no span": (lambda: part(slice("a", "b")), PartError, ["slice('a', 'b', None)", "part('layers')[2:6]"]),
    "inside nothing": (
        lambda: of((part("head") & "body") / "x"),
        PartError,
        ["part('head') & part('body') is empty here"],
    ),
    "predicate": (
        lambda: of(never),
        PartError,
        ["where(never)", "false for every array", "'head.weight'", "It gets a name and an array"],
    ),
    "object": (
        lambda: of(nn.Linear(2, 2)),
        PartError,
        ["<Linear at", "this very object is not in the net", "Name the part"],
    ),
    "no part": (lambda: part(3.5), PartError, ["part(3.5): a float stands for no part", "Write a name, a pattern"]),
    "a list": (lambda: part(["a"]), PartError, ["A list is a sequence of steps. A path is a tuple, ('layers', 0)"]),
    "a type of something else": (lambda: part(int), PartError, ["Only types of modules"]),
    "an empty name": (lambda: part(""), PartError, ["part('')", "Write a name as in the net's state_dict"]),
    "no predicate": (lambda: where("a"), PartError, ["where('a'): a function of (name, array)", "Write part('a')"]),
    "repetition": (lambda: part("a") * 0, PartError, ["part('a') * 0", "at least 1", "Write part('a') * 5"]),
    "repetition of a value": (lambda: Repeat(1, -1), PartError, ["1 * -1", "a whole number of times"]),
    "iteration": (lambda: list(part("a")), PartError, ["part('a') cannot be iterated", "Ask .of(net)"]),
    # rules
    "no rules": (
        lambda: rules("a", setting="p"),
        RuleError,
        ["the rules for 'p' are 'a'", 'Write {"encoder": times(0.1)}'],
    ),
    "no rate": (
        lambda: rules({"a": "x"}, relative=True),
        RuleError,
        ["the rule 'a': 'x' for 'learning_rate'", "a finite number is needed", "Write FROZEN (or 0)"],
    ),
    "a rate of parts": (
        lambda: rules({"a": cycle("b", part("c"))}, relative=True),
        RuleError,
        ["a rate is a number, not a part"],
    ),
    "frozen decay": (
        lambda: rules({"a": None}, setting="weight_decay"),
        RuleError,
        [
            "the rule 'a': None for 'weight_decay'",
            "only a learning rate can be FROZEN",
            "Write a value of weight_decay",
        ],
    ),
    "no factor": (lambda: times("x"), RuleError, ["times('x')", "a finite number is needed", "times(0.1) to slow it"]),
    "a factor of bools": (
        lambda: times(cycle(True, False)),
        RuleError,
        ["times(cycle(True, False))", "a schedule of bools"],
    ),
    # tables
    "dead rule": (
        lambda: trainer(learning_rate_multipliers={"0.wieght": 1}),
        PartError,
        ["In the rule part('0.wieght'): times(1) for learning_rate", "'0' has no 'wieght'", '"weight"'],
    ),
    "rule of an activation": (
        lambda: trainer(learning_rate_multipliers={1: 1}),
        PartError,
        ["The rule part(1): times(1)", "selects no arrays", "It stands for '1' (Tanh)", "such as '0.weight'"],
    ),
    "rule of an empty part": (
        lambda: trainer(learning_rate_multipliers={part(0) & 2: 1}),
        PartError,
        ["part(0) & part(2)", "It is empty in this net", "Write parts that have arrays in common"],
    ),
    "covered rule": (
        lambda: trainer(learning_rate_multipliers=[(everything, 1), (0, 2)], strict=True),
        RuleError,
        ["can never decide", "earlier ones cover them", "part(0): times(2)"],
    ),
    "unknown setting": (
        lambda: resolve(Tree(chain()), {"learning_rate": schedule(1)}, {"learning_rat": rules({0: 1})}),
        RuleError,
        ["rules for 'learning_rat'", "Settings: learning_rate", 'Nearest: "learning_rate"'],
    ),
    "scheduled part": (
        lambda: trainer(update_schedule=["x"]),
        PartError,
        ["In the update schedule: part('x')", "the net has no 'x'", "There: '0', '1', '2'"],
    ),
    "scheduled activation": (
        lambda: trainer(update_schedule=[1]),
        PartError,
        ["In the update schedule: part(1)", "(Tanh)"],
    ),
    "computed part": (
        lambda: trainer(update_schedule=schedule(lambda progress: "x")),
        PartError,
        ["The update schedule schedule(<lambda>) gave 'x'", "the net has no 'x'"],
    ),
    "part without arrays": (
        lambda: trainer(part=1),
        PartError,
        ["part(1) has nothing to train", "(Tanh)", "such as '0.weight'"],
    ),
    "why": (
        lambda: trainer().table.why("0.wieght"),
        PartError,
        ["why('0.wieght')", "There are: '0.weight'", '"0.weight"'],
    ),
    "why of a layer": (lambda: trainer().table.why("0"), PartError, ["It stands for several: ask why('0.weight')"]),
    # rules left on modules
    "left twice": (
        lambda: set_rules(nn.Linear(2, 2), learning_rate=1, learning_rate_multipliers=1),
        RuleError,
        ["learning_rate and learning_rate_multipliers", "write one of them"],
    ),
    "left for nothing": (
        lambda: set_rules(nn.Linear(2, 2), learning_rate={"x": 1}),
        PartError,
        ["no 'x'", "There: 'weight'"],
    ),
    "left and gone": (
        lambda: _gone(),
        PartError,
        ["In the rules left on '0'", "part(2) matches nothing", "'0' has 2 layers"],
    ),
    # settings and optimizers
    "setting of a number": (
        lambda: Setting(0.5).check("p", "x"),
        SettingError,
        ["p='x'", "a finite number", "default is 0.5"],
    ),
    "setting of a bool": (
        lambda: Setting(False).check("p", 1),
        SettingError,
        ["p=1", "True or False", "default is False"],
    ),
    "setting out of bounds": (
        lambda: Setting(0.5, 0, 1).check("p", 1),
        SettingError,
        ["p=1", "allowed is [0, 1)", "The default is 0.5"],
    ),
    "optimizer by name": (lambda: by_name("adamm"), SettingError, ["'adamm'", "Known: sgd, adam, adamw", '"adam"']),
    "no optimizer": (lambda: trainer(3), SettingError, ["optimizer=3", "a class of torch.optim", 'optimizer="adamw"']),
    "unknown option": (
        lambda: trainer(momentun=1),
        SettingError,
        ["adamw has no setting 'momentun'", "Settings: learning_rate"],
    ),
    "unknown option of torch": (
        lambda: trainer("rmsprop", alpa=1),
        SettingError,
        ["RMSprop has no option 'alpa'", "It has: lr, alpha", 'Nearest: "alpha"'],
    ),
    "unknown options": (
        lambda: trainer(momentun=1, acumulate=2),
        SettingError,
        [
            "adamw has no setting 'momentun'",
            "Options of Trainer: net, optimizer",
            "'acumulate'",
            'Nearest: "accumulate"',
        ],
    ),
    "flag of a trainer": (lambda: trainer(share="yes"), SettingError, ["share='yes'", "True or False is needed"]),
    "seed of a trainer": (lambda: trainer(seed="3"), SettingError, ["seed='3'", "a whole number is needed"]),
    "flag of an update": (
        lambda: Update("critic", "mse", own_batch=1),
        SettingError,
        ["Update('critic', own_batch=1)", "True or False is needed"],
    ),
    "no loss in an update": (
        lambda: Update("critic"),
        SettingError,
        ["Update('critic'): no loss is given", 'Write loss="mse"'],
    ),
    "a misspelt loss of an update": (
        lambda: Update("critic", lost="mse"),
        SettingError,
        ["2 things are wrong", "no loss is given", "'lost'", 'Nearest: "loss"'],
    ),
    "unknown option of an update": (
        lambda: Update("critic", "mse", lerning_rate=1),
        SettingError,
        [
            "Update('critic'): adamw has no setting 'lerning_rate'",
            "Options of Update: name",
            'Nearest: "learning_rate"',
        ],
    ),
    "unknown option of a partial": (
        lambda: trainer(partial(torch.optim.RMSprop, alpa=1)),
        SettingError,
        ["RMSprop has no option 'alpa'", "It has: lr, alpha", 'Nearest: "alpha"'],
    ),
    "lr of torch": (lambda: trainer("rmsprop", lr=1), SettingError, ["RMSprop", "given as learning_rate="]),
    "option of torch of another kind": (
        lambda: trainer("rmsprop", rules={"weight_decay": {"0": "1"}}),
        SettingError,
        ["the rule part('0') for weight_decay='1': a finite number is needed. The default is 0"],
    ),
    "bad option of torch": (
        lambda: trainer("rmsprop", alpha=-1),
        SettingError,
        ["RMSprop cannot be made", "alpha", "Invalid alpha value: -1", "Change them, or give an instance"],
    ),
    "factory": (
        lambda: trainer(lambda params: 3),
        SettingError,
        ["returned int", "Write lambda params: torch.optim.SGD"],
    ),
    "closure": (
        lambda: trainer(Demanding),
        SettingError,
        ["Demanding computes the loss itself", "needs a closure", '"adamw"'],
    ),
    "no rate in a group": (
        lambda: trainer(Rateless),
        SettingError,
        ["Rateless has no learning rate `lr`", "params", "Use an optimizer of torch's shape"],
    ),
    "Muon's vectors": (
        lambda: trainer(torch.optim.Muon),
        SettingError,
        ["Muon moves matrices only", "'0.bias', '2.bias' are none", 'Write optimizer="muon"'],
    ),
    "no matrix": (lambda: trainer("muon", nn.LayerNorm(2)), SettingError, ["no trainable matrix", '"adamw"']),
    "no shape for Muon": (
        lambda: trainer("muon", nn.LazyLinear(2)),
        SettingError,
        ["'weight' has no shape yet", "Call the net once first"],
    ),
    "no shape for a rule": (
        lambda: trainer("lars", nn.LazyLinear(2)),
        SettingError,
        ["lars looks at the shapes of arrays", "'weight' has none yet", "Call the net once first"],
    ),
    "a rate by somebody else": (
        written_over,
        SettingError,
        ["the trainer wrote 0.1 there and finds 0.5", "learning_rate=a schedule", "etude.optim.from_torch(...)"],
    ),
    "default of a rule": (
        lambda: trainer(Wrong),
        SettingError,
        ["The defaults of tiger have 'momentun'", 'Nearest: "momentum"'],
    ),
    "chance of torch": (
        lambda: trainer("rmsprop", chain().bfloat16(), half="stochastic"),
        SettingError,
        ['half="stochastic"', "rounded by chance under the update rules of this library", 'Write half="master"'],
    ),
    # L-BFGS
    "rows of one vector": (
        lambda: trainer("lbfgs", learning_rate_multipliers={0: 0.5}),
        SettingError,
        ["one value of every setting", "'0.weight', '2.weight'", "part=."],
    ),
    "a vector that climbs": (
        lambda: trainer("lbfgs", learning_rate_multipliers=-1),
        SettingError,
        ["L-BFGS cannot", "Make the loss negative"],
    ),
    "half an iteration": (lambda: trainer("lbfgs", max_iter=2.5), SettingError, ["max_iter=2.5", "a whole number"]),
    "line search": (
        lambda: trainer("lbfgs", line_search_fn="wolfe"),
        SettingError,
        ["line_search_fn='wolfe'", '"strong_wolfe" or None'],
    ),
    "half an instance": (
        lambda: trainer(torch.optim.LBFGS([nn.Parameter(torch.ones(1))])),
        SettingError,
        ["The LBFGS given has 1 arrays", "this step moves 4: '0.weight'", 'Give the name "lbfgs"'],
    ),
    "gradients alone": (
        lambda: trainer("lbfgs").optimizer.move(trainer("lbfgs").table.at(Progress()), []),
        SettingError,
        ["L-BFGS computes the loss itself", "Write trainer.step(batch_size, closure=f)"],
    ),
    "one of several": (
        lambda: trainer({0: "lbfgs", everything: "adam"}),
        SettingError,
        ["LBFGS computes the loss itself", "one of several optimizers", "part=."],
    ),
    "memory of no vector": (
        lambda: stated("lbfgs", speed=1),
        StateError,
        ["the memory ['speed'] is none of LBFGS", "prev_flat_grad"],
    ),
    "memory of a vector": (
        lambda: stated(
            "lbfgs",
            **dict.fromkeys(("together", "func_evals", "n_iter", "t", "H_diag", "prev_loss")),
            **dict.fromkeys(("d", "prev_flat_grad"), torch.zeros(3)),
        ),
        StateError,
        ["memory 'd' has shape (3,), the array (2,)"],
    ),
    # optimizers by part
    "no pairs of optimizers": (
        lambda: trainer(["adam"]),
        SettingError,
        ["optimizer=['adam']", "pairs of a part and an optimizer", "everything: "],
    ),
    "an array without": (
        lambda: trainer({0: "adam"}),
        SettingError,
        ["No optimizer is given for '2.weight', '2.bias'", 'Write everything: "adamw" last'],
    ),
    "a rule of another optimizer": (
        lambda: trainer({0: "sgd", everything: "adam"}, rules={"momentum": {2: 0.5}}),
        SettingError,
        ["The rule part(2): 0.5 for momentum", "arrays of adam alone", "Settings: learning_rate, beta1"],
    ),
    "memory of another optimizer": (
        lambda: stated({0: "sgd", everything: "adam"}, optimizer="sgd"),
        StateError,
        ["the memory of '2.bias' is of 'sgd', and 'adam' moves it"],
    ),
    # names of optimizers
    "optimizer of a package": (
        lambda: of_package("adm"),
        SettingError,
        ["There is no optimizer 'adm' in schedulefree", "It has: adamwschedulefree"],
    ),
    "no name": (lambda: register(Tiger, name="a.b"), SettingError, ["'a.b' is no name", 'name="my_rule"']),
    "maximize": (lambda: trainer(maximize=1), SettingError, ["maximize=1: True or False", "a negative multiplier"]),
    "another formula": (
        lambda: Trainer(chain(), type("B", (Tiger,), {"name": "b", "formula": lambda self, array: None})),
        SettingError,
        ["B.formula takes other arguments", "formula(self, array, gradient, memory, count, settings, climb)"],
    ),
    "taken": (
        lambda: register(Tiger, name="lion"),
        SettingError,
        ["the name 'lion' is taken by Lion of etude", "replace=True"],
    ),
    "no formula": (
        lambda: register(type("A", (UpdateRule,), {"name": "a"})),
        SettingError,
        ["register: A cannot be made", "A rule needs `formula`"],
    ),
    "no optimizer class": (lambda: register(nn.Linear), SettingError, ["the class Linear is neither", "Derive from"]),
    "no optimizer at all": (lambda: register(3, name="a"), SettingError, ["3 is no subclass of UpdateRule"]),
    "no memories": (
        lambda: register(type("A", (Tiger,), {"memories": "mean"})),
        SettingError,
        ["A.memories has to be a tuple of names", "It is 'mean'"],
    ),
    "a rate of its own": (
        lambda: register(type("A", (Tiger,), {"settings": {"learning_rate": Setting(1.0)}})),
        SettingError,
        ["'learning_rate', which every rule has", "leave it out"],
    ),
    "a setting of all": (
        lambda: register(type("A", (Tiger,), {"settings": {"l2": Setting(1.0)}})),
        SettingError,
        ["'l2', which every trainer has", "call it something else"],
    ),
    "climbing": (
        lambda: trainer(Plain, learning_rate_multipliers=-1),
        SettingError,
        ["Plain has no option to climb", "make the loss negative"],
    ),
    "instance of less": (
        lambda: groups((0, {})),
        SettingError,
        ["The SGD given does not have '2.weight', '2.bias'", "part=..., or FROZEN for the others"],
    ),
    "instance of more": (
        lambda: Trainer(
            nn.Linear(2, 2), torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1), learning_rate_multipliers=0
        ),
        SettingError,
        ["has 2 arrays that the net does not have", "Give the trainer the net that has them"],
    ),
    "instance of two ways": (
        lambda: groups((0, {"maximize": True}), (2, {})),
        SettingError,
        ["computed in different ways", "'maximize': True", "a group that climbs is a negative multiplier"],
    ),
    "fused gaps": (
        lambda: Trainer([nn.Parameter(torch.zeros(4, 6)[:, ::2])], "torch.adamw", fused=True),
        SettingError,
        ["fused=True: the array '0' has gaps", "Leave fused out, or make the array contiguous"],
    ),
    "betas": (lambda: trainer(betas=0.9), SettingError, ["betas=0.9: a pair is needed", "Write betas=(0.9, 0.999)"]),
    "rules of no setting": (lambda: trainer(rules={"lr": 1}), SettingError, ["rules for 'lr'", "learning_rate="]),
    "rules of everything": (
        lambda: trainer(rules=[("0", 1)]),
        SettingError,
        ["rules=[('0', 1)]", "a dict from settings to rules is needed", "Write"],
    ),
    "rate twice": (
        lambda: trainer(rules={"learning_rate": 1}, learning_rate_multipliers=1),
        SettingError,
        ["both given, and both decide the rate", "as times(r) in the rules"],
    ),
    "nothing to train": (
        lambda: trainer(of_net=nn.Tanh()),
        SettingError,
        ["no trainable arrays", "requires_grad=True"],
    ),
    "epochs": (
        lambda: trainer(learning_rate=etude.pieces(1, (etude.epochs(1), 2)), total=steps(9)),
        ScheduleError,
        ["pieces(1, (epochs(1), 2))", "steps_per_epoch="],
    ),
    # arrays without a net
    "a tensor": (lambda: Trainer(torch.zeros(2)), SettingError, ["Trainer(tensor)", "in a list or a dict"]),
    "no net": (lambda: Trainer(3), SettingError, ["Trainer(int)", "give the net, or its parameters"]),
    "no parameters": (lambda: Trainer([]), SettingError, ["no parameters were given", "used up"]),
    "no parameter": (lambda: Trainer(["x"]), SettingError, ["'0' is a str, not a parameter"]),
    "no leaf": (lambda: Trainer([torch.zeros(2)]), SettingError, ["'0' is not a leaf tensor with requires_grad=True"]),
    # the step
    "batch size": (lambda: trainer().step(0), SettingError, ["step(0)", "positive and finite"]),
    "stale": (
        lambda: trainer().step(),
        StaleGradientError,
        ["Step 1", "'0.weight', '0.bias'", "Nothing was changed", "backward()"],
    ),
    "mixed": (mixed, StaleGradientError, ["Step 2", "added onto old ones", "'0.weight'", "trainer.zero_grad()"]),
    "out of reach": (
        lambda: run(net=Beside()),
        StaleGradientError,
        [
            "Step 1",
            "'loss' does not depend on 'other.weight', 'other.bias'",
            "Nothing was changed",
            "ignore_stale_grad=True",
        ],
    ),
    "out of reach, compiled": (
        lambda: run(net=Beside(), compile=True),
        StaleGradientError,
        ["'loss' does not depend on 'other.weight', 'other.bias'", "ignore_stale_grad=True"],
    ),
    "gradient": (
        lambda: stepped(fill=float("nan"), non_finite="raise"),
        NonFiniteError,
        ["Step 2 is refused", "'0.weight'", "Nothing was changed", "clip_norm=1.0", 'non_finite="skip"'],
    ),
    "lazy": (
        lambda: Trainer(nn.LazyLinear(2)).step(),
        SettingError,
        ["'weight', 'bias' have no shape yet", "Call the net once"],
    ),
    "another trainer": (
        in_turn,
        SettingError,
        [
            "Another trainer moves '0.weight', '0.bias', '2.weight', '2.bias' in turn",
            "Nothing was changed",
            "part=...",
            "other.detach()",
            "share=True",
        ],
    ),
    "accumulate": (
        lambda: trainer(accumulate=1.5),
        SettingError,
        ["accumulate=1.5", "a whole number of at least 1 is needed, or a schedule of such"],
    ),
    "accumulate by a score": (
        lambda: trainer(accumulate=plateau("val.loss")),
        SettingError,
        ["accumulate=plateau('val.loss'", "listens to metrics", "Write a number or a schedule of progress"],
    ),
    "best net by hand": (
        lambda: trainer(learning_rate=0.1 * plateau("val.loss", back_to_best="keep")),
        SettingError,
        ["back_to_best='keep') goes back to the best net", "a Trainer keeps none", "Leave back_to_best= out, or train"],
    ),
    "window cleared": (
        cleared,
        StaleGradientError,
        ["Step 1", "being accumulated are gone, in '0.weight'", "Nothing was changed", "trainer.zero_grad()"],
    ),
    "loss scale": (
        lambda: trainer(loss_scale="static"),
        SettingError,
        ["loss_scale='static'", '"dynamic", a positive number or None'],
    ),
    "half": (
        lambda: trainer(half="masters"),
        SettingError,
        ["half='masters'", "known are master, stochastic, plain", '"master"'],
    ),
    "shrinking by chance": (
        lambda: trainer(of_net=net().to(torch.bfloat16), half="stochastic", shrink=0.1),
        SettingError,
        ['shrink= and half="stochastic"', "rounded away", 'half="master"'],
    ),
    "half of L-BFGS": (
        lambda: trainer("lbfgs", net().to(torch.bfloat16)),
        SettingError,
        ["LBFGS moves arrays in half precision in their own numbers", 'half="plain"', "net.float()"],
    ),
    "shrinking under L-BFGS": (
        lambda: trainer("lbfgs", shrink=0.1),
        SettingError,
        ["shrink= is not for LBFGS", "several times a step", "Leave it out", "l2="],
    ),
    "sparse gradients filled": (
        lambda: trainer("sparseadam", l2=0.1),
        SettingError,
        ["l2= makes gradients dense", "SparseAdam takes sparse ones only", 'optimizer="lazy_adam"'],
    ),
    "sparse gradients that are dense": (
        lambda: stepped(optimizer="sparseadam"),
        SettingError,
        ["SparseAdam takes sparse gradients only", "'0.weight'"],
    ),
    "largest norm": (
        lambda: trainer().clip_grads("x"),  # type: ignore[arg-type]
        SettingError,
        ["clip_grads('x')", "the largest norm is a positive number"],
    ),
    "several processes": (
        several_processes,
        SettingError,
        ["allreduce_grads(): there are 2 processes", "DistributedDataParallel", "call step()"],
    ),
    "no closure": (
        lambda: trainer("lbfgs").step(8),
        SettingError,
        ["LBFGS computes the loss itself", "Write trainer.step(8.0, closure=f)", "returns the summed loss"],
    ),
    "closure of others": (
        lambda: trainer().step(8, closure=lambda: X.sum()),
        SettingError,
        ["closure= is for optimizers that compute the loss several times", "adamw takes one gradient", "Leave it out"],
    ),
    "closure without a loss": (
        lambda: trainer("lbfgs").step(8, closure=lambda: None),  # type: ignore[arg-type, return-value]
        SettingError,
        ["closure() returned NoneType", "the summed loss is needed, a tensor of one number"],
    ),
    "accumulating with a closure": (
        lambda: trainer("lbfgs", accumulate=2),
        SettingError,
        ["LBFGS computes the loss of the whole step itself", "Leave out accumulate= and loss_scale="],
    ),
    "freeze of nothing": (
        lambda: trainer().freeze(part(1)),
        PartError,
        ["part(1) has no array that this trainer moves", "It moves '0.weight', '0.bias', '2.weight', '2.bias'"],
    ),
    "policy": (lambda: trainer(non_finite="stop"), SettingError, ["non_finite='stop'", '"raise", "skip" or None']),
    "steps per epoch": (lambda: trainer(steps_per_epoch=0), SettingError, ["steps_per_epoch=0", "at least 1"]),
    "total": (lambda: trainer(total=10), ScheduleError, ["total=10", "Write total=steps(10)"]),
    "scheduled rate": (
        lambda: trainer(learning_rate=cycle(1, 2)).set_learning_rate(3),
        ScheduleError,
        ["set_learning_rate(3)", "follows the schedule cycle(1, 2)", "Write learning_rate=3 where the trainer is made"],
    ),
    "scheduled rate on the way": (
        lambda: _stepped(trainer(learning_rate=cycle(1, 2))).set_learning_rate(3),
        ScheduleError,
        ["set_learning_rate(3)", "follows the schedule cycle(1, 2)", "pieces(cycle(1, 2), (steps(1), 3))"],
    ),
    "function as a count": (
        lambda: trainer().step(lambda: 1),
        SettingError,
        ["Write step(batch_size, closure=function)"],
    ),
    "parameter groups": (
        lambda: Trainer([{"params": [], "lr": 0.1}]),
        SettingError,
        ["parameter groups", "Give the net"],
    ),
    "negative rate": (
        lambda: trainer(learning_rate=-0.1),
        SettingError,
        ["learning_rate=-0.1", "not negative", "learning_rate_multipliers=-1"],
    ),
    "rate": (
        lambda: trainer().set_learning_rate(float("nan")),
        SettingError,
        ["set_learning_rate", "=nan", "finite number"],
    ),
    # states
    "no state": (
        lambda: loaded(lambda state: {}),
        StateError,
        ["no state of a Trainer", "Give what state_dict() returned"],
    ),
    "state of another": (
        lambda: loaded(lambda state: {**state, "optimizer": "sgd"}),
        StateError,
        ["of the optimizer 'sgd'", "the trainer has 'adamw'"],
    ),
    "state without a clock": (
        lambda: loaded(lambda state: {**state, "progress": 3}),
        StateError,
        ["no clock: 3", "Nothing was loaded"],
    ),
    "state without arrays": (
        lambda: loaded(lambda state: {**state, "arrays": 3}),
        StateError,
        ["no memory of arrays by name", "Give what state_dict() returned"],
    ),
    "state of a memory": (
        lambda: remembered("junk"),
        StateError,
        ["The state remembers 'junk' for the schedule plateau('val.loss'"],
    ),
    "state of a gradient": (
        lambda: loaded(lambda state: {**state, "gradients": {"0.weight": torch.zeros(9)}}),
        StateError,
        ["The accumulated gradient of '0.weight' does not fit", "Nothing was loaded"],
    ),
    "trainer's state of other averages": (
        lambda: trainer(averages=etude.ema()).load_state_dict(trainer(averages=etude.swa(every=steps(1))).state_dict()),
        StateError,
        ["there is no average 'ema' in it", "an average 'swa'", "Nothing was loaded"],
    ),
    "whose settings": (
        lambda: trainer().load_state_dict(trainer().state_dict(), keep="old"),
        SettingError,
        ["keep='old'", '"saved"', '"new"'],
    ),
    "state of others": (
        lambda: loaded(lambda state: {**state, "arrays": {"x": {}}}),
        StateError,
        ["It lacks '0.weight'", "It has 'x'", "Nothing was loaded"],
    ),
    "memory of a shape": (
        lambda: loaded(memory(mean=torch.zeros(9))),
        StateError,
        ["memory 'mean' of '2.bias' has shape (9,), the array (2,)"],
    ),
    "memory of a name": (
        lambda: loaded(memory(speed=torch.zeros(2))),
        StateError,
        ["memory 'speed' of '2.bias' is none of adamw: mean, square"],
    ),
    "memory of a type": (
        lambda: loaded(memory(mean=1.0)),
        StateError,
        ["memory 'mean' of '2.bias' is a float, not a tensor"],
    ),
    "memory of torch": (
        lambda: foreign("exp_avg", torch.zeros(7, 3)),
        StateError,
        ["'exp_avg' has shape (7, 3), the array (5, 3)"],
    ),
    "memory of torch by name": (lambda: foreign("speed", 1), StateError, ["'speed' is none of AdamW", "exp_avg"]),
    # losses
    "loss by name": (
        lambda: terms("cross_entrpy"),
        SettingError,
        ["'cross_entrpy'", "Known: cross_entropy", '"cross_entropy"'],
    ),
    "loss class": (lambda: terms(nn.MSELoss), SettingError, ["loss=MSELoss: a class", "Write MSELoss()"]),
    "no loss": (lambda: terms(3), SettingError, ["loss=3", 'Write loss="cross_entropy"']),
    "no terms": (lambda: terms({}), SettingError, ["loss={}", 'loss={"name": function}']),
    "taken name": (
        lambda: terms({"loss": "mse", "b": "l1"}),
        SettingError,
        ["a term is called 'loss'", "Write another name"],
    ),
    "no pair": (lambda: terms({"a": ("mse",)}), SettingError, ["loss term 'a'", "no pair", """'a': ("mse", 0.5)"""]),
    "no weight": (
        lambda: terms({"a": ("mse", "x")}),
        SettingError,
        ["'a': its weight is 'x'", "finite number", "0.5)"],
    ),
    "reduction": (
        lambda: terms(nn.CrossEntropyLoss(weight=torch.ones(2), reduction="none")),
        SettingError,
        ["'loss'", "class weights", "Leave reduction"],
    ),
    "what a loss gives": (
        lambda: measured(lambda output, target: 3.0),
        SettingError,
        ["'loss' gave a float", "a pair (sum, count)"],
    ),
    "entry of a loss": (
        lambda: measured({"a": lambda net, batch: {"b": X.sum()}, "c": "mse"}),
        SettingError,
        ["'a' gave a dict of 'b'", "Name the terms of the loss as the dict does"],
    ),
    "which output": (
        lambda: measured("mse", of_net=Heads()),
        SettingError,
        ["the net's output has 'kind', 'size'", "none of them is called 'loss'", "loss={'kind': ...}"],
    ),
    "which input": (
        lambda: measured("mse", {"a": X, "b": Y}),
        SettingError,
        ["The data have 'a', 'b'", "forward takes 'input'", "name the inputs as forward does"],
    ),
    "shapes": (lambda: held_against("mse", Y[:, 0]), DataError, ["shape (8, 2)", "the target (8,)", "y[:, None]"]),
    "classes": (
        lambda: held_against("cross_entropy", torch.full((8,), 2)),
        DataError,
        ["has 2 classes, 0 to 1", "the targets have 2 (samples 0, 1", "Classes count from 0"],
    ),
    "precision": (lambda: check_precision("f16"), SettingError, ["precision='f16'", "known are fp32", '"fp16"']),
    # schedulers of torch
    "no scheduler's function": (
        lambda: from_torch(peers.StepLR),
        ScheduleError,
        ["from_torch(<StepLR>): a class is given", "lambda optimizer: StepLR(optimizer, 30), rate=0.1"],
    ),
    "no scheduler": (
        lambda: from_torch(lambda optimizer: 3, 0.1),  # type: ignore[arg-type,return-value]
        ScheduleError,
        ["a scheduler of torch.optim.lr_scheduler is needed, not a int", "rate=0.1"],
    ),
    "no scheduler made": (
        lambda: from_torch(lambda optimizer: peers.StepLR(optimizer, 1 // 0), 0.1),
        ScheduleError,
        ["cannot be made: ZeroDivisionError"],
    ),
    "scheduler elsewhere": (
        lambda: from_torch(lambda optimizer: scheduler(), 0.1),
        ScheduleError,
        ["is of another optimizer than the one that the function was given"],
    ),
    "scheduler of a score": (
        lambda: from_torch(peers.ReduceLROnPlateau(torch.optim.SGD(net().parameters()))),
        ScheduleError,
        ["follows a score", 'Write plateau("val.loss"'],
    ),
    "scheduler stepped": (
        lambda: from_torch(scheduler(stepped=2)),
        ScheduleError,
        ["has been stepped 2 times", "Give one that has not been stepped"],
    ),
    "scheduler of groups": (
        lambda: from_torch(scheduler([{"params": [array]} for array in net().parameters()])),
        ScheduleError,
        ["has 6 groups", "Write a function for each"],
    ),
    "scheduler with two rates": (
        lambda: from_torch(scheduler(), 0.1),
        ScheduleError,
        ["has the rate of its optimizer already", "Leave out rate=0.1"],
    ),
    "scheduler without a rate": (
        lambda: from_torch(lambda optimizer: peers.StepLR(optimizer, 3)),
        ScheduleError,
        ["its rate follows that of its optimizer", "Write from_torch(..., rate=0.1)"],
    ),
    "scheduler with no rate": (
        lambda: from_torch(lambda optimizer: peers.StepLR(optimizer, 3), -1),
        ScheduleError,
        ["rate=-1: a positive number is needed", "Write rate=0.1"],
    ),
    "scheduler's setting": (
        lambda: from_torch(scheduler(), setting="momentun"),
        ScheduleError,
        ["setting='momentun' is not known: 'learning_rate' or 'momentum'", 'Nearest: "momentum"'],
    ),
    "scheduler without momentum": (
        lambda: from_torch(peers.StepLR(torch.optim.Adagrad(net().parameters()), 3), setting="momentum"),
        ScheduleError,
        ["its optimizer has no momentum", "Leave out setting='momentum'"],
    ),
    "scheduler that ends": (
        lambda: from_torch(lambda optimizer: peers.OneCycleLR(optimizer, 0.1, total_steps=5)).at(Progress(9)),
        ScheduleError,
        ["from_torch(<OneCycleLR>): the scheduler has 6 values", "Tried to step", "Write .until(steps(6)).then(value)"],
    ),
    "optimizer to drive": (
        lambda: to_torch(0.1, net()),  # type: ignore[arg-type]
        ScheduleError,
        ["to_torch(constant(0.1)): an optimizer of torch is needed, not a ModuleDict"],
    ),
    "what torch hears": (
        lambda: to_torch(0.1 * plateau("val.loss"), torch.optim.SGD(net().parameters())),
        ScheduleError,
        ["listens to 'val.loss'", "a LambdaLR hears no metrics", "Step with etude.Trainer"],
    ),
    "rates to drive": (
        lambda: to_torch(0.1, torch.optim.SGD(net().parameters(), lr=0.0)),
        ScheduleError,
        ["groups have the rate 0", "write relative=True"],
    ),
    "epochs to drive": (
        lambda: to_torch(0.1, torch.optim.SGD(net().parameters()), steps_per_epoch=0.5),  # type: ignore[arg-type]
        ScheduleError,
        ["steps_per_epoch=0.5: a whole number, at least 1"],
    ),
    # updates and games
    "update by name": (lambda: Update("a.b", "mse"), SettingError, ["Update('a.b')", 'Update("critic", ...)']),
    "update by a taken name": (
        lambda: Update("val", "mse"),
        SettingError,
        ["Update('val')", "series of that name", "such as 'critic'"],
    ),
    "turn of parts": (
        lambda: Update("a", "mse", turn=part("b")),
        SettingError,
        ["turn=part('b')", "are an update_schedule"],
    ),
    "turn": (lambda: Update("a", "mse", turn=1.5), SettingError, ["Update('a', turn=1.5)", "a whole number of times"]),
    "computed turn": (
        lambda: run(loss=None, updates=[Update("a", "mse", turn=lambda progress: "x")]),
        SettingError,
        ["Update('a')", "'x'", "True, False or a whole number"],
    ),
    "game": (lambda: game(loss="jss"), SettingError, ["GAN(loss='jss')", "known are js", '"js"']),
    "latent": (lambda: game(latent=0), SettingError, ["GAN(latent=0)", "Write latent=64"]),
    "sigmoid": (lambda: GAN(nn.Linear(2, 1), nn.Sigmoid()), SettingError, ["ends in a Sigmoid", "Leave it out"]),
    "latents": (lambda: game()(X), SettingError, ["no pairs (sample, latent)", "GAN(..., latent=64)"]),
    # a run at work
    "loss that is not finite": (
        lambda: run(loss=lambda output, target: output.sum() / 0),
        NonFiniteError,
        ["Step 1 is refused", "'loss' is not finite", "overflow", "clip_norm=1.0", 'non_finite="skip"'],
    ),
    "compiled closure": (
        lambda: run(compile=True, optimizer="lbfgs"),
        PlanError,
        ["compile=True", "LBFGS computes them again and again", "Leave compile out"],
    ),
    "compiled hooks": (
        lambda: run(net=hooked(), loss=lambda net, batch: net(batch[0]).sum(), compile=True),
        PlanError,
        ["compile=True: parameters have hooks", "a function of (output, target)", "leave compile out"],
    ),
    "scaled closure": (
        lambda: run(optimizer="lbfgs", precision="fp16"),
        PlanError,
        ["precision='fp16' scales the loss", "LBFGS computes it itself", "Write precision='bf16'"],
    ),
    "out of reach of a closure": (
        lambda: run(net=Beside(), optimizer="lbfgs"),
        StaleGradientError,
        ["Step 1", "'loss' does not depend on 'other.weight', 'other.bias'", "ignore_stale_grad=True"],
    ),
    "compiled by an old torch": (old_torch, PlanError, ["needs torch 2.11", torch.__version__, "Leave compile out"]),
    "too many shapes": (many_shapes, PlanError, ["more than 128 shapes", "buckets=8", "leave compile out"]),
    "not one program": (not_one_program, PlanError, ["one program: generator in forward.", "Leave compile out"]),
}
CASES.update(AVERAGES)
CASES |= {
    "mask of which": (
        lambda: of_streams(x=X[:, None], z=X[:, None]),
        SettingError,
        ["forward takes 'mask'", "several inputs have lengths: x, z", "Write x_mask in forward"],
    ),
    "mask of what is packed": (
        lambda: of_streams(x=X, x_offsets=torch.tensor([0, 8])),
        SettingError,
        ["a mask of 'x', which is packed", "Take x_offsets"],
    ),
    "counts of micro-batches": (
        lambda: micro_batches([2.0]),
        SettingError,
        ["The loss 'loss' is a mean over 1 in micro-batch 0, and over 2 was told", "Give a pair (sum, count) always"],
    ),
}

CASES.update(BROKEN_NUMBERS)
CASES.update(KNOBS)
CASES.update(LOSSES)
CASES.update(GRADIENTS)
for more in (INITIAL, LAYERS, LISTENING, MEASURES, PHASES, RETURNN):
    assert not CASES.keys() & more.keys()
    CASES.update(more)


def _stepped(made: Trainer) -> Trainer:
    for array in made.table.tree.arrays.values():
        array.grad = torch.zeros_like(array)
    made.step()
    return made


def _gone() -> None:
    made = nn.Sequential(chain())
    set_rules(made[0], learning_rate_multipliers={part(2): 0})
    del made[0][2]
    Trainer(made)


@cache
def raised(name: str) -> EtudeError:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            CASES[name][0]()
        except EtudeError as error:
            return error
    raise AssertionError(f"{name}: nothing was raised")


@pytest.mark.parametrize("name", CASES)
def test_a_message_says_what_was_asked_what_is_there_and_what_to_write(name: str) -> None:
    _, kind, said = CASES[name]
    error = raised(name)
    assert type(error) is kind
    for piece in said:
        assert piece in str(error), f"{piece!r} is not in: {error}"


@pytest.mark.parametrize("name", CASES)
def test_a_message_is_a_few_plain_sentences(name: str) -> None:
    text = str(raised(name))
    assert text == text.strip()
    assert text.endswith((".", ")", '"')), text
    assert "  " not in text
    assert ".." not in text.replace("...", "")
    assert len(text) < 700
    assert not re.search(r"etude\.(?!optim\.)\w+\.\w+", text), (
        "the place of a module in the package is nobody's business"
    )


def lines_of(error: BaseException | None) -> set[tuple[str, int]]:
    """File and line of every frame in which an error, or one that led to it, was raised."""
    found: set[tuple[str, int]] = set()
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            found.add((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return found


def raises_in(path: Path) -> list[tuple[int, int, str]]:
    """First line, last line and text of every `raise` of a new error."""
    nodes = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise) and node.exc is not None
    ]
    return [(node.lineno, node.end_lineno or node.lineno, ast.unparse(node)[:80]) for node in nodes]


def test_every_message_has_a_case() -> None:
    reached: dict[str, set[int]] = {}
    for name in CASES:
        for file, line in lines_of(raised(name)):
            reached.setdefault(file, set()).add(line)
    untested = [
        f"{path.relative_to(SRC)}:{first}: {text}"
        for path in LOOKED_AT
        for first, last, text in raises_in(path)
        if not reached.get(str(path), set()) & set(range(first, last + 1))
    ]
    assert untested == []


def test_errors_are_those_of_the_package() -> None:
    """Nothing else is raised on purpose, and nothing is swallowed."""
    kinds = {"PartError", "RuleError", "ScheduleError", "SettingError", "DataError", "PlanError", "StateError"}
    kinds |= {"StaleGradientError", "NonFiniteError", "OutOfMemoryError", "_NoColumn"}
    for path in LOOKED_AT:
        for line, _, text in raises_in(path):
            # A method or function of one's own makes the error: what it makes is raised by some case, and looked at.
            made = re.match(r"raise (self\._)?(\w+)", text)
            assert made is not None
            assert made[1] or made[2] in kinds or made[2].islower(), f"{path}:{line}: {text}"


def test_warnings_name_what_they_are_about() -> None:
    with pytest.warns(UserWarning, match=r"never decides.*cover it: learning_rate: part\(0\): times\(2\)"):
        trainer(learning_rate_multipliers=[(everything, 1), (0, 2)])
    with pytest.warns(UserWarning, match=r"shared array 'emb.weight' \(emb.weight, out.weight\) gets two values"):
        Trainer(tied(), learning_rate_multipliers=[("emb", 1), ("out", 2)])
    with pytest.warns(UserWarning, match=r"In the update schedule: part\('a'\) moves nothing"):
        Trainer(graph(), update_schedule=["a", "b"], learning_rate_multipliers={"a": 0})
    with pytest.warns(UserWarning, match="Rules left on modules are not used: sgd has no setting 'beta1'"):
        Trainer(set_rules(chain(), beta1=0.5), "sgd")
    with pytest.warns(UserWarning, match="Every array is frozen: the net is returned unchanged"):
        run(learning_rate_multipliers=0, data=tuple(torch.cat(side) for side in zip(*data(2), strict=True)))
