"""Imports run downward only. Read from the syntax trees, so that nothing is imported to find out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "etude"

LAYERS = {
    "values": 0,
    "bind": 1,
    "step": 2,
    "data": 2,
    "layers": 2,
    "spread": 2,
    "draw": 2,
    "keep": 3,
    "initial": 3,
    "run": 3,
    "listen": 4,
    "front": 4,
    "losses": 4,
    "optim": 4,
    "experiment": 4,
    "demo": 4,
    "asked": 4,
    "outcome": 4,
    "options": 4,
    "returnn": 4,
    "telling": 4,
    "cli": 4,
    "__main__": 4,
}
"""The layer of each folder or module at the top of the package."""

FOR_ALL = {"arguments", "errors", "hints", "needs", "_version"}
"""What every layer may import; these import nothing of the package but each other."""

SIDEWAYS = {
    ("data", "draw"),
    ("initial", "keep"),
    ("run", "initial"),
    ("run", "keep"),
    ("front", "listen"),
    ("experiment", "front"),
    ("demo", "front"),
    ("demo", "experiment"),
    ("asked", "experiment"),
    ("outcome", "asked"),
    ("outcome", "listen"),
    ("options", "experiment"),
    ("options", "outcome"),
    ("telling", "listen"),
    ("cli", "front"),
    ("cli", "listen"),
    ("cli", "asked"),
    ("cli", "demo"),
    ("cli", "experiment"),
    ("cli", "options"),
    ("cli", "outcome"),
    ("cli", "telling"),
    ("__main__", "cli"),
}
"""What may import what within a layer, besides itself."""

DYNAMIC = {
    "needs.py": "the optional packages",
    "experiment.py": "an experiment file of the user",
}
"""The modules that may import by a name that is computed, and what."""

BY_NAME = {
    "__import__",
    "import_module",
    "reload",
    "find_spec",
    "load_module",
    "exec_module",
    "spec_from_file_location",
}
"""Functions that import, however they are reached."""


class Found(ast.NodeVisitor):
    """What a module imports of the package, and by which dynamic means.

    Attributes:
        imports: line and dotted name below `etude` of every import, inside functions and type checks too.
        dynamic: line and text of every use of a function that imports by name.
        strings: line and text of every string that is a dotted name of the package.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.imports: list[tuple[int, str]] = []
        self.dynamic: list[tuple[int, str]] = []
        self.strings: list[tuple[int, str]] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(node.lineno, alias.name)
            if alias.name.split(".")[0] == "importlib":
                self.dynamic.append((node.lineno, alias.name))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            above = self.name.split(".")[: -node.level]
            base = ".".join(["etude", *above, *([node.module] if node.module else [])])
        else:
            base = node.module or ""
        for alias in node.names:
            # `from etude import values` and `from etude.values import part` may both name a module.
            self._add(node.lineno, f"{base}.{alias.name}")
            if base.split(".")[0] == "importlib":
                self.dynamic.append((node.lineno, f"{base}.{alias.name}"))

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in BY_NAME:
            self.dynamic.append((node.lineno, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in BY_NAME or ast.unparse(node) == "sys.modules":
            self.dynamic.append((node.lineno, ast.unparse(node)))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node.value.startswith("etude.") and " " not in node.value:
            self.strings.append((node.lineno, node.value))
        if node.value in BY_NAME:
            self.dynamic.append((node.lineno, repr(node.value)))

    def _add(self, line: int, name: str) -> None:
        if name.split(".")[0] == "etude":
            self.imports.append((line, name.removeprefix("etude").removeprefix(".")))


def modules(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """The path of every module below the package, and its text."""
    for path in sorted(root.rglob("*.py")):
        yield path.relative_to(root).as_posix(), path.read_text()


def look(path: str, text: str) -> Found:
    found = Found(path.removesuffix(".py").replace("/", "."))
    found.visit(ast.parse(text))
    return found


def faults(path: str, text: str) -> list[str]:
    """Every import that is not downward, and every one that is hidden."""
    found, top = look(path, text), path.split("/")[0].removesuffix(".py")
    told = [f"{path}:{line} imports {name}: {why}" for line, name in found.imports if (why := _wrong(top, name))]
    if path not in DYNAMIC:
        told += [f"{path}:{line} imports by name: {how}" for line, how in found.dynamic]
    told += [f"{path}:{line} names a module in a string: {name}" for line, name in found.strings]
    return told


def _wrong(top: str, name: str) -> str:
    """Why a module under `top` may not import `name` (both below the package); nothing if it may."""
    target = name.split(".")[0]
    if top == "__init__" or target in FOR_ALL or target == top:
        return ""
    if top in FOR_ALL:
        return "what all may import imports nothing"
    if target not in LAYERS:
        return "it is in no layer" if target else "the package itself is above all layers"
    if top not in LAYERS:
        return f"{top} is in no layer"
    if LAYERS[target] > LAYERS[top]:
        return f"upward, from layer {LAYERS[top]} to layer {LAYERS[target]}"
    if LAYERS[target] == LAYERS[top] and (top, target) not in SIDEWAYS:
        return f"sideways, in layer {LAYERS[top]}"
    return ""


@pytest.mark.parametrize(("path", "text"), list(modules()), ids=[path for path, _ in modules()])
def test_imports_run_downward(path: str, text: str) -> None:
    assert faults(path, text) == []


def test_every_folder_has_a_layer() -> None:
    tops = {path.split("/")[0].removesuffix(".py") for path, _ in modules()}
    assert tops - {"__init__"} <= set(LAYERS) | FOR_ALL


def test_what_all_may_import_imports_little_of_the_package() -> None:
    for path, text in modules():
        if path.removesuffix(".py") in FOR_ALL:
            assert {name.split(".")[0] for _, name in look(path, text).imports} <= {"errors", "hints"}


def test_only_layer_two_spread_may_know_torch_distributed() -> None:
    for path, text in modules():
        distributed = [
            node.lineno
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom) and "torch.distributed" in ast.unparse(node)
        ]
        assert not distributed or path.startswith("spread/"), f"{path}:{distributed}"


def test_there_is_no_cycle_among_modules() -> None:
    """Imports at the top of modules; those inside functions and for type checks come later."""
    names = {path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path, _ in modules()}
    graph: dict[str, set[str]] = {}
    for path, text in modules():
        own = path.removesuffix(".py").replace("/", ".")
        if own == "__init__":
            continue
        found = Found(own)
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found.visit(node)
        graph[own] = {target for _, name in found.imports if (target := _module(name, names)) and target != own}
    seen: dict[str, int] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"cycle: {' -> '.join((*above, name))}"
        if name not in seen:
            for target in sorted(graph.get(name, ())):
                visit(target, (*above, name))
            seen[name] = 1

    for name in graph:
        visit(name, ())


def _module(name: str, names: set[str]) -> str:
    return name if name in names else name.rpartition(".")[0] if name.rpartition(".")[0] in names else ""


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("values/part.py", "from etude.bind.table import Table", "upward, from layer 0 to layer 1"),
        ("values/part.py", "import etude.run.run", "upward, from layer 0 to layer 3"),
        ("values/part.py", "from etude import step", "upward, from layer 0 to layer 2"),
        ("values/part.py", "import etude", "the package itself is above all layers"),
        ("values/part.py", "from etude import Trainer", "it is in no layer"),
        ("values/part.py", "from ..bind import table", "upward"),
        ("values/part.py", "from .. import bind", "upward"),
        ("values/part.py", "def f():\n    from etude.step.work import Work", "upward, from layer 0 to layer 2"),
        ("bind/table.py", "if TYPE_CHECKING:\n    from etude.step.work import Work", "upward, from layer 1 to layer 2"),
        ("step/work.py", "from etude.data.flow import Flow", "sideways, in layer 2"),
        ("data/flow.py", "from etude.step.reading import Reader", "sideways, in layer 2"),
        ("step/optim/own.py", "from etude.spread.mesh import Mesh", "sideways, in layer 2"),
        ("run/run.py", "from etude.listen.bar import Bar", "upward, from layer 3 to layer 4"),
        ("listen/bar.py", "from etude.front import train", "sideways, in layer 4"),
        ("listen/bar.py", "from etude.cli import main", "sideways, in layer 4"),
        ("errors.py", "from etude.values.part import Part", "what all may import imports nothing"),
        ("new/thing.py", "from etude.values.part import Part", "new is in no layer"),
        ("run/run.py", "from importlib import import_module", "imports by name: importlib.import_module"),
        ("run/run.py", "import importlib", "imports by name: importlib"),
        ("run/run.py", "import importlib.util as u", "imports by name: importlib.util"),
        ("run/run.py", "x = __import__('etude.listen')", "imports by name: __import__"),
        ("run/run.py", "x = importlib.import_module(name)", "imports by name: importlib.import_module"),
        ("run/run.py", "x = getattr(importlib, 'import_module')", "imports by name: 'import_module'"),
        ("run/run.py", "x = sys.modules['etude']", "imports by name: sys.modules"),
        ("run/run.py", "x = 'etude.listen.bar'", "names a module in a string: etude.listen.bar"),
        ("needs.py", "import_module('etude.listen.bar')", "names a module in a string: etude.listen.bar"),
    ],
)
def test_what_is_not_downward_is_found(path: str, text: str, fault: str) -> None:
    assert any(fault in told for told in faults(path, text))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("run/run.py", "from etude.step.work import Work\nfrom etude.keep import files\nfrom . import plan"),
        ("step/work.py", "from etude.errors import SettingError\nfrom etude.step.optim.own import OwnOptimizer"),
        ("step/optim/own.py", "from ..loss import terms\nfrom ...values.part import part"),
        ("cli.py", "import etude.front\nfrom etude.listen.bar import Bar"),
        ("__init__.py", "from etude.run.run import Run"),
        ("values/part.py", "import torch\n'an etude. of one word'"),
    ],
)
def test_what_is_downward_is_fine(path: str, text: str) -> None:
    assert faults(path, text) == []
