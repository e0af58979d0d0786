"""Parts, schedules, spans and rules as text, and back.

`write(value)` is the Python expression that makes the value; `read(text)` makes it again. The reader walks the syntax
tree and knows the public constructors, literals and operators of these values, and nothing else: text from a file can
describe a value, and cannot run anything.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from torch import nn

from etude.errors import EtudeError, SettingError, nearest
from etude.values import cadence, curves, decay, part, reactive, rules, schedule, spans, stopping
from etude.values.cadence import Cadence
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import Part
from etude.values.schedule import Schedule
from etude.values.spans import Span
from etude.values.stopping import Stop

_PUBLIC: tuple[Callable[..., Any], ...] = (
    *(spans.steps, spans.epochs, spans.samples, spans.tokens, spans.fraction),
    *(spans.seconds, spans.minutes, spans.hours, cadence.every),
    *(schedule.constant, schedule.schedule, schedule.cycle, schedule.repeat, schedule.pieces),
    *(curves.linear, curves.cosine, curves.polynomial, curves.exponential, curves.one_cycle),
    *(curves.inverse_sqrt, curves.step_decay, curves.multi_step, curves.cyclic, curves.warm_restarts),
    *(curves.warmup, reactive.when, reactive.plateau, reactive.newbob, reactive.following),
    *(part.part, part.where, rules.times, rules.rules),
    *(stopping.no_improvement, stopping.reached, stopping.limit, stopping.stopping),
)
_CONSTRUCTORS = {made.__name__: made for made in _PUBLIC}
_VALUES: dict[str, object] = {
    "FROZEN": FROZEN,
    "INHERIT": INHERIT,
    "everything": part.everything,
    "no_decay": decay.no_decay,
    "inf": float("inf"),
}
_METHODS = ("then", "until", "within", "clamp")
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
}
_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}


def write(value: object) -> str:
    """The expression that makes `value`: a part, schedule, span, cadence, rules, or a literal made of such.

    Functions are written by name, types of modules as `nn.LayerNorm` or by name; `read` is then given the names.

    Raises:
        SettingError: something in it has no text, such as a lambda, a module, an array or a scheduler of torch.
    """
    text = _text(value)
    try:
        ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SettingError(
            f"{text} has no text form: a lambda, a module, an array or a scheduler of torch cannot be written down. "
            "Give a function a name (def), name the part of the net instead of the object, and write a scheduler as "
            "one of the curves."
        ) from error
    return text


def read(text: str, names: Mapping[str, object] | None = None) -> Any:
    """The value that `text` describes.

    Args:
        text: one expression of the public constructors, literals, `FROZEN`, `INHERIT`, `everything`, `nn.<type>`,
            `re.compile(...)`, the operators `+ - * / | & ~`, indices, and the methods then, until, within, clamp.
        names: functions and types of modules that the text mentions by name. They are looked up, never called.

    Raises:
        SettingError: anything else in the text; the message shows the piece.
        EtudeError: what a constructor raises about its arguments.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _Reader(names or {}).value(tree.body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        if isinstance(error, EtudeError):
            raise
        what = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise SettingError(f"{_shown(text)} cannot be read: {what}. Write one expression, as write() gives.") from error


class _Reader:
    """One reading: a method for each form that may stand in the text."""

    def __init__(self, names: Mapping[str, object]) -> None:
        self.names = names

    def value(self, node: ast.expr) -> Any:
        form = _FORMS.get(type(node))
        if form is None:
            raise _refused(node, "that form is not known here")
        return form(self, node)

    def literal(self, node: ast.Constant) -> Any:
        if node.value is None or isinstance(node.value, bool | int | float | str):
            return node.value
        raise _refused(node, "numbers, text, True, False and None are the literals")

    def name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            return self.names[node.id]
        if node.id in _CONSTRUCTORS:
            raise _refused(node, f"{node.id} is a call and needs its brackets, {node.id}(...)")
        if node.id in _VALUES:
            return _VALUES[node.id]
        known = [*self.names, *_VALUES, *_CONSTRUCTORS]
        near = nearest(node.id, known)
        raise _refused(node, f"the name is not known; read(text, names={{{node.id!r}: ...}}) gives it", near)

    def attribute(self, node: ast.Attribute) -> Any:
        home = node.value.id if isinstance(node.value, ast.Name) else ""
        found = getattr({"nn": nn, "re": re}.get(home), node.attr, None)
        if isinstance(found, re.RegexFlag) or (isinstance(found, type) and issubclass(found, nn.Module)):
            return found
        raise _refused(node, "only types of modules are read this way, nn.LayerNorm")

    def call(self, node: ast.Call) -> Any:
        made = self.called(node)
        given = [self.value(argument) for argument in node.args]
        if any(keyword.arg is None for keyword in node.keywords):
            raise _refused(node, "** is not known here")
        named = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        try:
            return made(*given, **named)
        except TypeError as error:
            raise _refused(node, str(error)) from error

    def called(self, node: ast.Call) -> Callable[..., Any]:
        what = node.func
        if isinstance(what, ast.Name) and what.id not in self.names and what.id in _CONSTRUCTORS:
            return _CONSTRUCTORS[what.id]
        if isinstance(what, ast.Attribute):
            if ast.unparse(what) == "re.compile":
                return re.compile
            owner = self.value(what.value)
            if isinstance(owner, Schedule) and what.attr in _METHODS:
                method: Callable[..., Any] = getattr(owner, what.attr)
                return method
        raise _refused(node, "only constructors are called", nearest(ast.unparse(what), _CONSTRUCTORS))

    def binary(self, node: ast.BinOp) -> Any:
        apply = _OPERATORS.get(type(node.op))
        left, right = self.value(node.left), self.value(node.right)
        numbers = isinstance(left, Real) and isinstance(right, Real)
        if apply is None or not (numbers or isinstance(left, _ALGEBRA) or isinstance(right, _ALGEBRA)):
            raise _refused(node, "that operator is not known here")
        return apply(left, right)

    def unary(self, node: ast.UnaryOp) -> Any:
        apply, operand = _SIGNS.get(type(node.op)), self.value(node.operand)
        if apply is None or not isinstance(operand, Real | Schedule | Part):
            raise _refused(node, "that operator is not known here")
        return apply(operand)

    def subscript(self, node: ast.Subscript) -> Any:
        owner = self.value(node.value)
        if not isinstance(owner, Part):
            raise _refused(node, "only parts are indexed")
        return owner[self.value(node.slice)]

    def slice(self, node: ast.Slice) -> slice:
        return slice(*(None if end is None else self.value(end) for end in (node.lower, node.upper, node.step)))

    def tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.value(element) for element in node.elts)

    def list(self, node: ast.List) -> list[Any]:
        return [self.value(element) for element in node.elts]

    def set(self, node: ast.Set) -> set[Any]:
        return {self.value(element) for element in node.elts}

    def dict(self, node: ast.Dict) -> dict[Any, Any]:
        pairs = [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None]
        if len(pairs) < len(node.keys):
            raise _refused(node, "** is not known here")
        return {self.value(key): self.value(value) for key, value in pairs}


_ALGEBRA = (Schedule, Part, Span, Cadence, Stop)
_FORMS: dict[type[ast.expr], Callable[[_Reader, Any], Any]] = {
    ast.Constant: _Reader.literal,
    ast.Name: _Reader.name,
    ast.Attribute: _Reader.attribute,
    ast.Call: _Reader.call,
    ast.BinOp: _Reader.binary,
    ast.UnaryOp: _Reader.unary,
    ast.Subscript: _Reader.subscript,
    ast.Slice: _Reader.slice,
    ast.Tuple: _Reader.tuple,
    ast.List: _Reader.list,
    ast.Set: _Reader.set,
    ast.Dict: _Reader.dict,
}


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, set | frozenset) and value:
        return "{" + ", ".join(sorted(map(_text, value))) + "}"
    if isinstance(value, type):
        kind = value.__name__
        return f"nn.{kind}" if getattr(nn, kind, None) is value else kind
    name: object = getattr(value, "__name__", None) if callable(value) else None
    return name if isinstance(name, str) else repr(value)


def _refused(node: ast.AST, why: str, near: str = "") -> SettingError:
    return SettingError(f"{_shown(ast.unparse(node))} cannot be read: {why}.{near}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
