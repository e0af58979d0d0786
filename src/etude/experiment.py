"""An experiment file: a Python function with typed arguments that says what is trained, on what, and how.

    def experiment(width: int = 64, rate: float = 1e-3, frozen: bool = False):
        '''A small net on small pictures.

        Args:
            width: channels of the first layer.
        '''
        return net, data, Plan(...)

Its arguments become the options of a command line; their types say what is read, the docstring what is shown.
"""

from __future__ import annotations

import inspect
import math
import sys
import types
import typing
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, _ArgumentGroup
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final, Literal

from torch import nn

from etude.errors import SettingError, nearest
from etude.run.plan import Plan

NAME: Final = "experiment"
_TYPES: Final = "int, float, str, bool, Path, Literal[...], tuple[int, ...], and any of them | None"
_PARTS: Final = ("net", "data", "plan")


@dataclass(frozen=True, slots=True)
class Experiment:
    """What an experiment function returned: a net, data in any form that `train` takes, and a plan."""

    net: nn.Module
    data: Any
    plan: Plan


def load(path: str | Path) -> Callable[..., Any]:
    """The function `experiment` of a Python file; the file is run as a module, with its folder on the path.

    Raises:
        SettingError: there is no such file, or no such function in it.
    """
    path = Path(path)
    if not path.is_file() or path.suffix != ".py":
        there = [str(one) for one in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        what = "is no Python file" if path.is_file() else "is not there"
        raise SettingError(f"The experiment file {str(path)!r} {what}.{nearest(str(path), there)}")
    module = _imported(path.resolve())
    made = getattr(module, NAME, None)
    if not inspect.isfunction(made):
        own = [
            name for name, one in vars(module).items() if inspect.isfunction(one) and one.__module__ == module.__name__
        ]
        raise SettingError(
            f"{path} has no function {NAME!r}. It has: {', '.join(own) or 'no functions'}.{nearest(NAME, own)} "
            f"Write: def {NAME}(width: int = 64): ... return net, data, plan"
        )
    return made


def _imported(path: Path) -> types.ModuleType:
    """The module of a file, under the file's own name, so that worker processes find it too."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    known = sys.modules.get(path.stem)
    taken = known is not None and getattr(known, "__file__", None) != str(path)
    spec = spec_from_file_location(f"experiment_{path.stem}" if taken else path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Experiment:
    """Call an experiment function and look at what it returns: (net, data, plan), or a dict with these keys.

    Raises:
        SettingError: it returned something else.
    """
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    made = function(**given)
    if isinstance(made, Mapping):
        if set(made) != set(_PARTS):
            raise _no_experiment(f"a dict with {', '.join(map(repr, made)) or 'no keys'}")
        made = tuple(made[name] for name in _PARTS)
    if not isinstance(made, tuple) or len(made) != 3:
        inside = f" of {', '.join(type(one).__name__ for one in made)}" if isinstance(made, tuple) else ""
        raise _no_experiment(f"{type(made).__name__}{inside}")
    net, data, plan = made
    if not isinstance(net, nn.Module) or not isinstance(plan, Plan):
        raise _no_experiment(f"tuple of {', '.join(type(one).__name__ for one in made)}")
    return Experiment(net, data, plan)


def _no_experiment(found: str) -> SettingError:
    return SettingError(
        f"{NAME}() returned: {found}. It has to return a net, data and an etude.Plan: "
        "return net, data, plan (or a dict with the keys net, data, plan)."
    )


# --------------------------------------------------------------------------------------- arguments that are kept


def to_plain(value: Any) -> Any:
    """An argument of an experiment function as JSON can hold it."""
    if isinstance(value, tuple | list):
        return [to_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def from_plain(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that `to_plain` made, in the types that an experiment function asks for.

    Raises:
        SettingError: it has no argument of that name, or none that can be this by now.
    """
    known, hints = inspect.signature(function).parameters, _hints(function)
    for name in given:
        if name not in known:
            there = ", ".join(known) or "none"
            raise SettingError(f"{NAME}() has no argument {name!r} any more: {there}.{nearest(name, known)}")
    return {name: _typed(name, _without_none(hints.get(name))[0], value) for name, value in given.items()}


def _typed(name: str, kind: Any, value: Any) -> Any:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(name, inside[0], one) for one in value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and value in ("nan", "inf", "-inf"):
        return float(value)
    if origin is Literal and value is not None:
        by_text = {str(one): one for one in inside}
        if str(value) not in by_text:
            raise SettingError(f"{NAME}(): the argument {name!r} was {value!r}; now it is one of {', '.join(by_text)}.")
        return by_text[str(value)]
    return value


# ------------------------------------------------------------------------------------- arguments become options


def described(function: Callable[..., Any]) -> str:
    """The docstring of an experiment function without its section of arguments."""
    return (inspect.getdoc(function) or "").split("\nArgs:")[0].strip()


def add_options(parser: ArgumentParser, function: Callable[..., Any], reserved: Collection[str]) -> None:
    """Give a parser one option for each argument of an experiment function.

    Args:
        parser: of the command.
        function: the experiment function; text for each option comes from the section "Args:" of its docstring.
        reserved: names that the command keeps for itself.

    Raises:
        SettingError: an argument that cannot be an option: of another type, *args, or with a reserved name.
    """
    texts = _argument_texts(inspect.getdoc(function) or "")
    group = parser.add_argument_group("options of the experiment")
    hints = _hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise SettingError(f"{NAME}(): {parameter} cannot be an option. Give every argument a name and a type.")
        if name in reserved:
            raise SettingError(f"{NAME}(): the argument {name!r} is an option of the command itself. Rename it.")
        _add(group, name, hints.get(name), parameter.default, texts.get(name, ""))
        if parameter.default is not parameter.empty:
            parser.set_defaults(**{name: parameter.default})


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError as error:
        raise SettingError(f"{NAME}(): a type cannot be read: {error}.") from None


def _add(group: _ArgumentGroup, name: str, hint: Any, default: Any, text: str) -> None:
    required = default is inspect.Parameter.empty
    if hint is None and not required and default is not None:
        hint = type(default)
    kind, optional = _without_none(hint)
    words = "; ".join(filter(None, [text.rstrip("."), "required" if required else f"default {_shown(default)}"]))
    options: dict[str, Any] = {"help": words.replace("%", "%%"), "required": required}
    if kind is bool:
        options["action"] = BooleanOptionalAction
    else:
        options |= _reading(name, kind, optional)
    group.add_argument(f"--{name.replace('_', '-')}", dest=name, **options)


def _reading(name: str, kind: Any, optional: bool) -> dict[str, Any]:
    """How the text of an option is read, and what stands for it in the help."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and inside[1:] == (...,):
        return {**_reading(name, inside[0], False), "nargs": "*"}
    if origin is Literal:
        by_text = dict(zip(map(str, inside), inside, strict=True))
        return {
            "type": _Reader(by_text.__getitem__, f"one of {', '.join(by_text)}", optional),
            "metavar": "|".join(by_text),
        }
    if kind not in _READERS:
        raise SettingError(
            f"{NAME}(): the argument {name!r} has the type {_type_name(kind)}, which has no form on a command line. "
            f"Types of options: {_TYPES}."
        )
    read, words, metavar = _READERS[kind]
    return {"type": _Reader(read, words, optional), "metavar": metavar}


class _Reader:
    """Reads one text, or says what was wanted."""

    def __init__(self, read: Callable[[str], Any], wanted: str, optional: bool) -> None:
        self.read, self.wanted, self.optional = read, wanted, optional

    def __call__(self, text: str) -> Any:
        if self.optional and text.lower() == "none":
            return None
        try:
            return self.read(text)
        except (ValueError, KeyError):
            raise ArgumentTypeError(f"{text!r} is not {self.wanted}{' or none' if self.optional else ''}") from None


_READERS: Final[dict[Any, tuple[Callable[[str], Any], str, str]]] = {
    int: (int, "a whole number", "INT"),
    float: (float, "a number", "FLOAT"),
    str: (str, "text", "TEXT"),
    Path: (Path, "a path", "PATH"),
}


def _without_none(hint: Any) -> tuple[Any, bool]:
    """A type without `None`, and whether None was in it."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inside = tuple(one for one in typing.get_args(hint) if one is not type(None))
        if len(inside) == 1:
            return inside[0], True
    return hint, False


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _type_name(kind: Any) -> str:
    return "(not said)" if kind is None else getattr(kind, "__name__", None) or str(kind)


def _argument_texts(doc: str) -> dict[str, str]:
    """What the section "Args:" of a docstring says about each argument."""
    _, _, section = doc.partition("\nArgs:\n")
    texts: dict[str, str] = {}
    last = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        name, colon, text = line.strip().partition(": ")
        if colon and name.isidentifier() and len(line) - len(line.lstrip()) == 4:
            last, texts[name] = name, text
        elif last and line.strip():
            texts[last] += f" {line.strip()}"
    return texts
