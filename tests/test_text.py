"""Text and back: everything that can be written is read as it was, and nothing else is read at all."""

from __future__ import annotations

import re
from typing import Any

import pytest
from torch import Tensor, nn

from etude.errors import EtudeError, PartError, ScheduleError, SettingError
from etude.values.cadence import every
from etude.values.curves import cosine, cyclic, linear, multi_step, one_cycle, warm_restarts, warmup
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import everything, part, where
from etude.values.reactive import plateau, when
from etude.values.rules import rules, times
from etude.values.schedule import constant, cycle, pieces, repeat, schedule
from etude.values.spans import epochs, fraction, hours, minutes, samples, seconds, steps, tokens
from etude.values.text import read, write


class Block(nn.Module):
    """A type of module that torch does not know."""


def biases(name: str, array: Tensor) -> bool:
    return name.endswith("bias")


def halves(progress: Any) -> float:
    return 0.5**progress.step


NAMES = {"Block": Block, "biases": biases, "halves": halves}

VALUES: list[Any] = [
    *(0.1, -3, True, None, "text", (1, "a"), (1,), (), [1, [2.5]], {"a": 1, "b": [2]}, float("inf"), -1e-300),
    *(steps(3), epochs(0.5), samples(7), tokens(10**12), fraction(0.1), seconds(3), minutes(2), hours(1)),
    *(every(epochs(1)), every(steps(10), minutes(1)), FROZEN, INHERIT, everything),
    *(part("a.0.weight"), part("*.bias"), part(nn.LayerNorm), part(-1), part(Block), part({0})),
    *(part("a") | "b", part("a") - part("b"), ~part("a"), part("a") & "b", (part("a") | "b") / "c"),
    *(part("layers")[2:4], part("layers")[-1] / "weight", part("layers")[::2], part({"a", "b"}), where(biases)),
    *(part(re.compile(r"layers\.\d+")), part(re.compile("a", re.I | re.M)), part(("layers", 0, "weight"))),
    *(nn.Linear, Block, {nn.Dropout: linear(0, 0.2)}, [("a", 1), (part("b"), FROZEN)]),
    *(constant(0.1), constant(float("inf")), constant("text"), constant((0.9, 0.99)), schedule(halves)),
    *(warmup(steps(200)) * cosine(3e-4, 3e-6), -cosine(1) / (2 + linear(0, 1)) - (constant(1) - -2)),
    *(one_cycle(0.1), multi_step(1, 0.1, [epochs(3), epochs(5)]), cyclic(0, 1, steps(3), shape="cosine")),
    *(warm_restarts(1, period=epochs(1), growth=2), warmup(epochs(1), 0.1, "constant")),
    *(cosine(1).clamp(0.1).until(epochs(3)).then(0.1), constant(FROZEN).until(steps(3)).then(halves)),
    *(cycle(part("critic") * 5, "generator"), cycle(0.1, repeat(0.2, 3), linear(0, 1, over=steps(3)))),
    *(pieces(FROZEN, (epochs(1), 0.1), (epochs(2), cosine(0.1))), when("loss", above=0.5, at_most=3)),
    *(linear(0, 1, over=steps(5), ahead=True), one_cycle(0.1, ahead=True), 0.1 * plateau("val.loss", cooldown=2)),
    *(times(0.1), times(cosine(1)), rules(None), rules({"a": times(0.5), part(nn.LayerNorm) | "*.bias": 0})),
    rules([("a", 1), (everything, 0.5), ("b", INHERIT)], setting="weight_decay"),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    text = write(value)
    again = read(text, NAMES)
    assert again == value
    assert type(again) is type(value)
    assert write(again) == text


def test_text_is_what_a_person_would_write() -> None:
    assert write({"a": [part("critic") * 5, "b"], nn.LayerNorm: FROZEN}) == (
        "{'a': [part('critic') * 5, 'b'], nn.LayerNorm: FROZEN}"
    )
    assert read(" warmup(steps(2e2))*cosine(3e-4, end=3e-6)\n") == warmup(steps(200)) * cosine(3e-4, 3e-6)
    assert read("{'a', 'b'}") == {"a", "b"}
    assert read("everything - 'head'") == everything - part("head")


@pytest.mark.parametrize(
    "value",
    [lambda progress: 1, schedule(lambda progress: 1), where(lambda n, a: True), part(nn.Linear(1, 1)), object()],
)
def test_what_has_no_text_is_an_error(value: object) -> None:
    with pytest.raises(SettingError, match=r"has no text form: a lambda, a module, an array.*Give a function a name"):
        write(value)


def test_a_function_is_read_only_by_a_name_that_was_given() -> None:
    assert read("schedule(halves)", {"halves": halves}) == schedule(halves)
    with pytest.raises(SettingError, match=r"'halves' cannot be read: the name is not known; read\(text, names="):
        read("schedule(halves)")
    # Looked up, never called.
    with pytest.raises(SettingError, match="only constructors are called"):
        read("halves(3)", {"halves": halves})


def test_a_given_name_comes_before_a_constructor() -> None:
    assert read("schedule(linear)", {"linear": halves}) == schedule(halves)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('x')", "only constructors are called"),
        ("().__class__", "only types of modules are read this way"),
        ("steps(3).__class__", "only types of modules are read this way"),
        ("nn.functional", "only types of modules"),
        ("nn.Module.__init__", "only types of modules"),
        ("nn.init.ones_(1)", "only types of modules|only constructors"),
        ("lambda: 1", "that form is not known here"),
        ("[x for x in (1,)]", "that form is not known here"),
        ("f'{1}'", "that form is not known here"),
        ("1 if True else 2", "that form is not known here"),
        ("1 < 2", "that form is not known here"),
        ("(x := 1)", "that form is not known here"),
        ("9 ** 9", "that operator is not known here"),
        ("'a' * 9", "that operator is not known here"),
        ("[1] * 9", "that operator is not known here"),
        ("-'a'", "that operator is not known here"),
        ("not 1", "that operator is not known here"),
        ("'abc'[0]", "only parts are indexed"),
        ("b'abc'", "are the literals"),
        ("1j", "are the literals"),
        ("...", "are the literals"),
        ("{**{}}", r"\*\* is not known here"),
        ("cosine(**{'start': 1})", r"\*\* is not known here"),
        ("steps(*[1])", "that form is not known here"),
        ("steps", r"steps is a call and needs its brackets, steps\(...\)"),
        ("cosin(1)", 'only constructors are called. Nearest: "cosine"'),
        ("frozen", 'the name is not known.*Nearest: "FROZEN"'),
        ("constant(1).plot(steps(3))", "only constructors are called"),
        ("part('a').of(1)", "only constructors are called"),
        ("cosine(1, 2, 3, 4)", "Too many positional arguments. Arguments: start, end, over, ahead"),
        ("cosine(begin=1)", "There is no argument 'begin'. Arguments: start, end"),
        ("1 / 0", "division by zero"),
        ("1; 2", "cannot be read: invalid syntax"),
        ("", "cannot be read"),
        ("import os", "cannot be read: invalid syntax"),
        ("cosine(1", "was never closed"),
        ("(" * 400 + ")" * 400, "too many nested parentheses"),
        ("+".join(["1"] * 30000), "cannot be read"),
        ("1\0", "cannot be read"),
        ("part('a') + part('b')", "unsupported operand"),
        ("{[1]: 2}", "unhashable"),
        ("9" * 5000, "cannot be read"),
    ],
)
def test_nothing_else_is_read(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read(text)


def test_what_a_constructor_refuses_it_refuses_here_too() -> None:
    with pytest.raises(ScheduleError, match="200 of what"):
        read("warmup(200)")
    with pytest.raises(PartError, match="at least 1"):
        read("part('a') * 0")
    with pytest.raises(EtudeError, match="a finite number is needed"):
        read("times(inf)")


def test_a_long_piece_is_shown_shortened() -> None:
    with pytest.raises(SettingError, match=r"\.\.\.' cannot be read") as caught:
        read("frozen(" + ", ".join(["1"] * 200) + ")")
    assert len(str(caught.value)) < 200
