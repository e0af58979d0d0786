"""Configurations as they are written: calls within calls, whose names and values can be looked at and changed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Word:
    """A name that stands as a value: of a part, a loss, an optimizer, a score."""

    text: str
    kind: str = "part"


@dataclass(frozen=True, slots=True)
class Fresh:
    """Something that is made anew whenever the configuration is: it gets a folder of its own."""

    make: Callable[[Path], Any]


@dataclass(frozen=True, slots=True)
class Call:
    """What is called, with what; `of` is a public name of the library, or one of its operators."""

    of: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a name stands in a configuration.

    Attributes:
        number: which of its names it is, in the order in which they are written. name: the name.
        kind: "option", or what kind of name the value is. inside: the calls and options around it, the outermost first.
        call_number: which of its calls the name is written in.
    """

    number: int
    name: str
    kind: str
    inside: tuple[str, ...]
    call_number: int

    @property
    def call(self) -> str:
        """The call that an option is of, or that a name is given to."""
        return next((name for name in reversed(self.inside) if name.endswith("(")), "").removesuffix("(")


def call(of: str, *args: Any, **options: Any) -> Call:
    """A call, written as it would be."""
    return Call(of, args, options)


def part(text: str) -> Word:
    """The name of a part."""
    return Word(text)


def spots(config: Any) -> list[Spot]:
    """Every name of a configuration."""
    found: list[Spot] = []

    def note(spot: Spot) -> str:
        found.append(spot)
        return spot.name

    renamed(config, note)
    return found


def renamed(config: Any, rename: Callable[[Spot], str]) -> Any:
    """The configuration with other names."""
    return _Renaming(rename).walk(config)


class _Renaming:
    """One walk through a configuration, which counts the names."""

    def __init__(self, rename: Callable[[Spot], str]) -> None:
        self._rename, self._number, self._calls = rename, -1, 0

    def walk(self, value: Any, inside: tuple[str, ...] = (), call: int = 0) -> Any:
        """The value with other names; `inside` and `call` say where it stands."""
        if isinstance(value, Word):
            return replace(value, text=self._name(value.text, value.kind, inside, call))
        if isinstance(value, Call):
            self._calls += 1
            here, number = (*inside, f"{value.of}("), self._calls
            args = tuple(self.walk(each, here, number) for each in value.args)
            options = {
                self._name(key, "option", here, number): self.walk(each, (*here, key), number)
                for key, each in value.options.items()
            }
            return replace(value, args=args, options=options)
        if isinstance(value, dict):
            return {
                self.walk(key, inside, call): self.walk(each, (*inside, _text(key)), call)
                for key, each in value.items()
            }
        if isinstance(value, list | tuple):
            return type(value)(self.walk(each, inside, call) for each in value)
        return value

    def _name(self, name: str, kind: str, inside: tuple[str, ...], call: int) -> str:
        self._number += 1
        return self._rename(Spot(self._number, name, kind, inside, call))


def _text(key: Any) -> str:
    return key.text if isinstance(key, Word) else repr(key)


def with_option(config: Any, of: str, option: str, value: Any) -> Any:
    """The configuration with an option of every call of that name set."""
    if isinstance(config, Call):
        args = tuple(with_option(each, of, option, value) for each in config.args)
        options = {key: with_option(each, of, option, value) for key, each in config.options.items()}
        return Call(config.of, args, {**options, option: value} if config.of == of else options)
    if isinstance(config, dict):
        return {key: with_option(each, of, option, value) for key, each in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(with_option(each, of, option, value) for each in config)
    return config


def calls(config: Any) -> Iterator[Call]:
    """Every call of a configuration, the outermost first."""
    if isinstance(config, Call):
        yield config
        yield from calls([*config.args, *config.options.values()])
    elif isinstance(config, dict):
        yield from calls([*config.keys(), *config.values()])
    elif isinstance(config, list | tuple):
        for each in config:
            yield from calls(each)


def carried_out(config: Any, folder: Path) -> Any:
    """What the configuration makes: its calls called, the inner ones first."""
    if isinstance(config, Word):
        return config.text
    if isinstance(config, Fresh):
        return config.make(folder)
    if isinstance(config, dict):
        return {carried_out(key, folder): carried_out(value, folder) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(carried_out(each, folder) for each in config)
    if not isinstance(config, Call):
        return config
    args = [carried_out(each, folder) for each in config.args]
    options = {key: carried_out(each, folder) for key, each in config.options.items()}
    return _called(config.of)(*args, **options)


_OPERATORS: dict[str, Callable[..., Any]] = {"*": operator.mul, "|": operator.or_, "/": operator.truediv}


def _called(of: str) -> Callable[..., Any]:
    import etude

    return _OPERATORS[of] if of in _OPERATORS else getattr(etude, of)
