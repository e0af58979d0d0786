"""The public names, by hand; each says what it is; and what importing them brings along."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import etude

NAMES = (
    "FROZEN",
    "GAN",
    "INHERIT",
    "Bar",
    "CheckpointError",
    "Checkpoints",
    "Cursor",
    "Data",
    "DataError",
    "Directory",
    "EtudeError",
    "Evaluate",
    "Extent",
    "File",
    "Fresh",
    "Interrupted",
    "JsonLines",
    "Load",
    "MissingPackageError",
    "NonFiniteError",
    "OutOfMemoryError",
    "Part",
    "PartError",
    "Plan",
    "PlanError",
    "Probe",
    "Progress",
    "Result",
    "RuleError",
    "Rules",
    "Run",
    "Schedule",
    "ScheduleError",
    "SettingError",
    "Span",
    "StaleGradientError",
    "StateError",
    "Trainer",
    "Update",
    "__version__",
    "best",
    "constant",
    "cosine",
    "cycle",
    "cyclic",
    "data",
    "decay",
    "ema",
    "epochs",
    "events",
    "every",
    "everything",
    "exponential",
    "following",
    "fraction",
    "hours",
    "initial",
    "initialize",
    "inverse_sqrt",
    "last",
    "layers",
    "learning_rate_multipliers",
    "limit",
    "linear",
    "load_net",
    "losses",
    "minutes",
    "multi_step",
    "newbob",
    "no_decay",
    "no_improvement",
    "one_cycle",
    "optim",
    "part",
    "phase",
    "phases",
    "pieces",
    "plateau",
    "polynomial",
    "reached",
    "read",
    "repeat",
    "returnn",
    "roll_back",
    "rules",
    "rules_of",
    "samples",
    "schedule",
    "seconds",
    "set_rules",
    "skip",
    "step_decay",
    "steps",
    "swa",
    "thinning",
    "times",
    "tokens",
    "train",
    "warm_restarts",
    "warmup",
    "when",
    "where",
    "write",
)
"""About 60 is what a reader can keep in mind: a new name needs a reason, and better yet the place of an old one."""

MODULES = {"data", "events", "initial", "layers", "losses", "optim", "returnn"}

HEAVY = (
    "matplotlib",
    "rich",
    "torch._dynamo",
    "torch._inductor",
    "torchmetrics",
    "datasets",
    "sklearn",
    "pandas",
    "PIL",
)
"""Packages that `import etude` must not bring along; they are imported where they are used."""


def test_the_names_are_these() -> None:
    assert tuple(etude.__all__) == NAMES
    assert len(set(NAMES)) == len(NAMES) <= 103


def test_the_names_are_all_that_is_there() -> None:
    there = {name for name, value in vars(etude).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert there == set(NAMES) - {"__version__"} - MODULES
    assert all(isinstance(getattr(etude, name), ModuleType) for name in MODULES)


def test_the_list_is_written_by_hand() -> None:
    body = ast.parse(Path(str(etude.__file__)).read_text()).body
    (listed,) = [n.value for n in body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    assert ast.literal_eval(listed) == etude.__all__
    assert not any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in body)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_every_name_says_what_it_is(name: str) -> None:
    value = getattr(etude, name)
    said = value if inspect.isclass(value) or inspect.isfunction(value) or name in MODULES else type(value)
    text = vars(said).get("__doc__") if inspect.isclass(said) else said.__doc__
    assert text, f"{name} has no docstring of its own"
    assert not text.startswith(f"{name}("), f"{name} has only what dataclass wrote"
    first = text.strip().splitlines()[0]
    assert first.endswith((".", ":")) or len(text.strip().splitlines()) > 1, first


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isclass(getattr(etude, name, None))])
def test_every_public_method_says_what_it_does(name: str) -> None:
    kind = getattr(etude, name)
    for key, value in vars(kind).items():
        method = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if key[0] != "_" and inspect.isfunction(method):
            above = any(key in vars(base) for base in kind.__mro__[1:])
            assert method.__doc__ or above, f"{name}.{key} has no docstring"


def brought_along(code: str) -> set[str]:
    """The modules that a fresh interpreter has after `code`."""
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    where = {"PYTHONPATH": str(Path(str(etude.__file__)).parents[1]), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=where)
    return set(done.stdout.split())


def test_importing_brings_nothing_heavy_along() -> None:
    mine = brought_along("import etude") - brought_along("import torch, numpy")
    assert {name for name in mine for package in HEAVY if name == package or name.startswith(f"{package}.")} == set()
    others = {name.split(".")[0] for name in mine if not name.startswith(("etude", "torch", "numpy", "_"))}
    assert others <= set(sys.stdlib_module_names)
    assert len({name for name in mine if name.startswith("torch.")}) < 10
