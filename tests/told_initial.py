"""Wrong uses of first values and of files to load: how each is provoked, its error, and what the message says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from etude import INHERIT, initial, linear, times
from etude.errors import EtudeError, PartError, RuleError, SettingError, StateError
from etude.initial import Fresh, Load, initialize
from nets import chain, tied

_FOLDER = tempfile.TemporaryDirectory()


def net() -> nn.Module:
    """body (two layers) and head."""
    body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return nn.ModuleDict({"body": body, "head": nn.Linear(4, 2)})


def file(**arrays: Tensor) -> str:
    """A file with these arrays; __ stands for a dot."""
    name = "-".join(f"{key}{'x'.join(map(str, array.shape))}" for key, array in arrays.items())
    path = Path(_FOLDER.name) / f"{name}.pt"
    torch.save({key.replace("__", "."): array for key, array in arrays.items()}, path)
    return str(path)


HEAD = {"head__weight": torch.ones(2, 4), "head__bias": torch.ones(2)}


def load(of_net: nn.Module | None = None, /, arrays: Any = None, **options: Any) -> Any:
    """Load a file, of the head alone, into a net."""
    given = {"missing": "fresh", **options}
    return initialize(
        net() if of_net is None else of_net, [Load(file(**(HEAD if arrays is None else arrays)), **given)]
    )


class Stuck(nn.Module):
    """A parametrisation that can be given a value once, as it is put on."""

    def __init__(self) -> None:
        super().__init__()
        self.given = False

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()

    def right_inverse(self, x: Tensor) -> Tensor:
        if self.given:
            raise ValueError("a logarithm of what is below 0")
        self.given = True
        return x


def parametrized() -> nn.Module:
    made = nn.Linear(3, 2)
    parametrize.register_parametrization(made, "weight", Stuck())
    return made


def broken(array: Tensor) -> Tensor:
    raise ValueError("no such table")


def failing(name: str) -> str:
    raise KeyError(name)


Make = Callable[[], Any]
INITIAL: dict[str, tuple[Make, type[EtudeError], list[str]]] = {
    # what is made
    "first values by a function that fails": (
        lambda: initialize(net(), {"head.bias": broken}),
        SettingError,
        ["broken of 'head.bias', of shape (2,)", "ValueError: no such table", "part('*.weight') & part(nn.Linear)"],
    ),
    "first values of another shape": (
        lambda: initialize(net(), {"head.bias": lambda array: torch.ones(3)}),
        SettingError,
        ["'head.bias', of shape (2,)", "it gave shape (3,)", "a tensor of (2,) or None is needed"],
    ),
    "a number that the type has not": (
        lambda: initialize(net().half(), {"head.weight": 1e5}),
        SettingError,
        ["constant(100000) of part('head.weight') cannot make 'head.weight'", "torch.float16", "1e+05 are not finite"],
    ),
    "a function that gives NaN": (
        lambda: initialize(net(), {"head.bias": lambda array: array * torch.tensor([1.0, float("nan")])}),
        SettingError,
        ["of part('head.bias') gives 'head.bias', of shape (2,), NaN at (1,)", "Nothing was changed", "finite numbers"],
    ),
    "zeros without a direction": (
        lambda: initialize(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), 0),
        SettingError,
        ["'weight' is made by WeightNorm", "of constant(0) numbers that are not finite", "Give it other values"],
    ),
    "first values of no matrix": (
        lambda: initialize(net(), {"head.bias": "orthogonal"}),
        SettingError,
        ["orthogonal() of part('head.bias') cannot make 'head.bias'", "(2,)", "{'head.bias': 0, ...}"],
    ),
    "first values through a parametrisation": (
        lambda: initialize(parametrized(), "orthogonal"),
        SettingError,
        ["'weight' is made by Stuck", "ValueError: a logarithm", "Leave it out, and set it in the program"],
    ),
    "first values, option": (
        lambda: initial.normal(0.1, truncated=1),  # type: ignore[arg-type]
        SettingError,
        ["normal(0.1)", "truncated=1", "Write True or False"],
    ),
    "first values, bounds": (
        lambda: initial.uniform(1, -1),
        SettingError,
        ["uniform(1, -1): low is above high", "Write uniform(-1, 1)"],
    ),
    "first values, share": (
        lambda: initial.sparse(90),
        SettingError,
        ["sparse(90): a share is from 0 to 1", "Write sparse(0.9)"],
    ),
    "first values, mode": (
        lambda: initial.variance_scaling(1.0, "fanin"),
        SettingError,
        ["mode='fanin' is not known", "fan_in, fan_out, fan_avg", 'Nearest: "fan_in"'],
    ),
    "first values, number": (
        lambda: initial.normal(-0.1),
        SettingError,
        ["normal(-0.1): a number of at least 0 is needed, not -0.1"],
    ),
    # what stands for an initialiser
    "initialiser that needs a number": (
        lambda: initialize(net(), "sparse"),
        SettingError,
        ["'sparse' needs a number", "Write initial.sparse(0.9)"],
    ),
    "initialiser with arguments in its name": (
        lambda: initialize(net(), "uniform(-1, 1)"),
        SettingError,
        ["'uniform(-1, 1)' is a name with arguments", 'Nearest: "uniform"', "such as initial.uniform(-0.1, 0.1)"],
    ),
    "initialiser that is a file": (
        lambda: initialize(net(), "bert.safetensors"),
        SettingError,
        ["'bert.safetensors' looks like a file", "Write Load('bert.safetensors')"],
    ),
    "initialiser by name": (
        lambda: initialize(net(), "ortogonal"),
        SettingError,
        ["no initialiser 'ortogonal'", "There are: zeros, ones", 'Nearest: "orthogonal"'],
    ),
    "initialiser that is a schedule": (
        lambda: initialize(net(), {"head": linear(0, 1)}),
        SettingError,
        ["linear(0, 1) is a schedule", "gets its first values once", "Write a number or a name"],
    ),
    "blocks": (
        lambda: initial.blocks(0, "orthogonal"),
        SettingError,
        ["blocks(0)", "a whole number of at least 1", "Write blocks(3, 'orthogonal')"],
    ),
    "blocks of a number": (
        lambda: initial.transposed(0.5),
        SettingError,
        ["transposed(): 0.5 does not go by what the axes mean", "Leave transposed out"],
    ),
    # entries
    "no first values": (
        lambda: initialize(net(), {}),
        SettingError,
        ["initialize={} says nothing", "{'*.weight': 'orthogonal'}"],
    ),
    "no entry": (
        lambda: initialize(net(), ["orthogonal"]),
        SettingError,
        ["'orthogonal' in a list is no entry", "a pair such as ('encoder', 'orthogonal')"],
    ),
    "first values of None": (
        lambda: initialize(net(), {"head": None}),
        SettingError,
        ["'head': None says nothing", "Write Fresh()"],
    ),
    "first values of no part": (
        lambda: initialize(net(), {"haed": "orthogonal"}),
        PartError,
        ["the net has no 'haed'", 'Nearest: "head"'],
    ),
    "first values of an activation": (
        lambda: initialize(chain(), {1: "orthogonal"}),
        PartError,
        ["part(1)", "selects no arrays", "Name a layer that has some"],
    ),
    "first values that never act": (
        lambda: initialize(net(), [({"body", "head"} and "head", 0), Fresh("head")]),
        RuleError,
        ["Fresh(part('head')) never decides", "(part('head'), constant(0))", "Put it before them"],
    ),
    "first values of lazy layers": (
        lambda: initialize(nn.LazyLinear(2), "orthogonal"),
        StateError,
        ["'weight', 'bias' have no shape as yet", "Call the net once before"],
    ),
    "first values without memory": (
        lambda: initialize(nn.Linear(3, 2, device="meta"), "orthogonal"),
        StateError,
        ["'weight', 'bias' have no memory", "net.to_empty(device='cpu')"],
    ),
    "first values of no net": (
        lambda: initialize({"head": 1}, "orthogonal"),  # type: ignore[arg-type]
        SettingError,
        ["a net is needed", "Write initialize(net, 'orthogonal')"],
    ),
    "seed of first values": (
        lambda: initialize(net(), "orthogonal", seed=-1),
        SettingError,
        ["seed=-1", "a whole number of at least 0"],
    ),
    "origin of no array": (
        lambda: initialize(net(), {"head": INHERIT})["head.wieght"],
        PartError,
        ["origins['head.wieght']: no array has that name", 'Nearest: "head.weight"'],
    ),
    "first values times what": (
        lambda: initialize(net(), {"head": times(linear(0, 1))}),
        SettingError,
        ["times(linear(0, 1))", "a finite number is needed"],
    ),
    # files
    "file to load": (lambda: Load(3), SettingError, ["Load(3): the path of a file", "'weights.safetensors'"]),  # type: ignore[arg-type]
    "prefix to load": (lambda: Load("a.pt", prefix=3), SettingError, ["prefix=3 is no text", "prefix='encoder'"]),  # type: ignore[arg-type]
    "shapes to load": (
        lambda: Load("a.pt", shapes="strickt"),
        SettingError,
        ["shapes='strickt' is not known", "Write 'strict' or 'grow'", 'Nearest: "strict"'],
    ),
    "renaming": (
        lambda: Load("a.pt", rename=[("a", "b")]),  # type: ignore[arg-type]
        SettingError,
        ["rename=[('a', 'b')] is neither a dict nor a function", "{'name in the net': 'name in the file'}"],
    ),
    "renaming to a number": (
        lambda: Load("a.pt", rename={"a": 3}),  # type: ignore[dict-item]
        SettingError,
        ["rename={'a': 3}: names are text", "{'name in the net': 'name in the file'}"],
    ),
    "file of another net": (
        lambda: load(arrays={"other": torch.ones(2)}),
        StateError,
        ["has no array of the net", "The net has 'body.0.bias'", "The file has 'other'", "Write rename="],
    ),
    "file from a wrapper": (
        lambda: load(arrays={"module__head__bias": torch.ones(2)}),
        StateError,
        ["has no array of the net", "begin with 'module': write inside='module'"],
    ),
    "file of a part": (
        lambda: load(arrays={"bias": torch.ones(2)}),
        StateError,
        ["has what the net has under 'head': write prefix='head'"],
    ),
    "file for no part": (
        lambda: load(only="haed"),
        PartError,
        ["only=part('haed')", "the net has no 'haed'", 'Nearest: "head"'],
    ),
    "file for a part elsewhere": (
        lambda: load(only="head", prefix="body"),
        RuleError,
        ["is for no array: none of part('head') begins with 'body.'", "Leave out"],
    ),
    "inside of a file": (
        lambda: load(inside="haed"),
        StateError,
        ["no name in the file begins with 'haed'", 'Nearest: "head"', "The file has 'head.weight'"],
    ),
    "prefix in a net": (
        lambda: load(prefix="haed"),
        PartError,
        ["no array of the net begins with 'haed'", 'Nearest: "head"'],
    ),
    "renaming what the net lacks": (
        lambda: load(rename={"haed": "head"}),
        PartError,
        ["the net has no 'haed'", "rename", 'Nearest: "head"'],
    ),
    "renaming to what the file lacks": (
        lambda: load(rename={"head": "haed"}),
        StateError,
        ["the file has no 'haed'", "The file has 'head.weight', 'head.bias'"],
    ),
    "renaming that fails": (
        lambda: load(rename=failing),
        SettingError,
        ["rename of 'body.0.weight'", "KeyError", "Return the name in the file, None, or a tensor"],
    ),
    "renaming to what is no name": (
        lambda: load(rename=lambda name: 3),
        SettingError,
        ["rename of 'body.0.weight' gave 3", "Return the name in the file, None, or a tensor"],
    ),
    "array of a file": (
        lambda: load(rename=lambda name, arrays: arrays["haed.bias"]),
        StateError,
        ["the file has no 'haed.bias'", 'Nearest: "head.bias"'],
    ),
    "one array, two in the file": (
        lambda: load(tied(), arrays={"emb__weight": torch.ones(3, 3), "out__weight": torch.zeros(3, 3)}),
        StateError,
        ["'emb.weight' is one array in the net", "are different", "rename={'emb.weight': 'emb.weight'}"],
    ),
    "file that lacks arrays": (
        lambda: load(missing="error"),
        StateError,
        [
            "neither the file nor another entry has 'body.0.weight' (nearest: \"head.weight\")",
            "Write Fresh('body')",
            "missing='fresh'",
        ],
    ),
    "file of other shapes": (
        lambda: load(arrays={"head__weight": torch.ones(2, 3)}),
        StateError,
        ["'head.weight' has the shape (2, 4) and in the file (2, 3)", "Write shapes='grow'"],
    ),
}
