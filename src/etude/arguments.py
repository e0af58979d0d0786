"""Arguments that are wrong: names that a call does not have, and several faults told at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from etude.errors import EtudeError, SettingError
from etude.hints import is_slip, not_there

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
C = TypeVar("C", bound=type)


def named(call: Callable[P, R]) -> Callable[P, R]:
    """The same function; called with arguments that it does not have, it raises SettingError, which offers the right
    ones, instead of TypeError.
    """

    @wraps(call)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        try:
            return call(*args, **options)
        except TypeError:
            text = _misfit(call, args, options)
            if not text:
                raise
            raise SettingError(text) from None

    return checked


def named_class(kind: C) -> C:
    """The same of a class, whose constructor it changes."""
    setattr(kind, "__init__", named(kind.__init__))  # type: ignore[misc]  # noqa: B010
    return kind


def _misfit(call: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> str:
    """What is wrong with the arguments of a call; "" where it can be called with them."""
    signature = inspect.signature(call)
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        said = str(error)
    else:
        return ""
    title, _, method = call.__qualname__.rpartition(".")
    title = title if method == "__init__" else call.__name__
    given = [p for p in signature.parameters.values() if p.name != "self"]
    known = [p.name for p in given if p.kind is not p.VAR_KEYWORD]
    strangers = [name for name in options if name not in known]
    if len(known) < len(given):
        # Any name is taken: only one that is very like another is out of place.
        strangers = [name for name in strangers if is_slip(name, known)]
    told = not_there(strangers, known, "argument") or f"{said[0].upper()}{said[1:]}."
    return f"{title}(): {told} Arguments: {', '.join(known)}."


class Faults:
    """Takes what checks raise, so that all that is wrong is told at once.

    faults = Faults()
    epochs = faults.take(check, "epochs", epochs)  # what `check` returns, while nothing is wrong
    faults.tell()
    """

    def __init__(self) -> None:
        self._found: list[EtudeError] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def take(self, check: Callable[..., T], *given: Any, **options: Any) -> T:
        """What `check(*given, **options)` returns; None if it raises an error of this library, which is kept."""
        try:
            return check(*given, **options)
        except EtudeError as error:
            known = set(map(str, self._found))
            self._found += [each for each in error.faults or (error,) if str(each) not in known]
            return cast("T", None)

    def tell(self) -> None:
        """Raise what was found, if there is anything: one error alone as it is, several as one that lists them.

        Raises:
            EtudeError: of the class that all of them have, or SettingError.
        """
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            kinds = {type(error) for error in self._found}
            kind = kinds.pop() if len(kinds) == 1 else SettingError
            error = kind("\n".join([f"{len(self._found)} things are wrong.", *map(str, self._found)]))
            error.faults = tuple(self._found)
            raise error


@contextmanager
def told_of(place: str) -> Iterator[None]:
    """Within it errors say first which call they are about: `Update('critic'): ...`."""
    try:
        yield
    except EtudeError as error:
        if "__init__" in vars(type(error)):
            raise  # it is made of other things than a message
        told = type(error)(f"{place}: {error}")
        told.faults = tuple(type(each)(f"{place}: {each}") for each in error.faults)
        raise told from error
