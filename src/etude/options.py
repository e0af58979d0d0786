"""The words of a command line: options, and what they may be."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from etude.errors import SettingError, nearest
from etude.experiment import add_options, described, load
from etude.outcome import WRITTEN
from etude.values.spans import Span, hours, minutes, seconds

RESERVED: Final = ("help", "traceback", "out", "overwrite", "quiet", "plot", "until", "first", "json")
"""What no argument of an experiment function may be called."""

UNTIL: Final = "save the run and leave after so much time in this process: 11.5h, 30min, 90s"
_TIMES: Final[dict[str, Callable[[float], Span]]] = {"h": hours, "min": minutes, "m": minutes, "s": seconds}


class Parser(ArgumentParser):
    """A parser that objects as the library does."""

    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message}. See: {self.prog} --help")


def experiment_file(command: str, words: list[str]) -> tuple[Callable[..., Any], list[str]]:
    """The experiment function of the file that is named first, and the words from the file on."""
    if not words or words[0].startswith("-"):
        rest = f" {words[0]} ..." if words else ""
        raise SettingError(f"The experiment file comes first. Write: etude {command} FILE{rest}")
    return load(words[0]), words


def place(command: str, what: str, words: list[str]) -> tuple[Path, list[str]]:
    """The file or folder that is named first, and the words after it."""
    if not words or words[0].startswith("-"):
        rest = f" {words[0]} ..." if words else ""
        raise SettingError(f"{what} comes first. Write: etude {command} {what}{rest}")
    return Path(words[0]), words[1:]


def span(text: str | None) -> Span | None:
    """A time as it is written behind --until."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(h|min|m|s)", text)
    if found is None:
        raise SettingError(f"--until {text!r} is no time. Write 11.5h, 30min or 90s.")
    return _TIMES[found[2]](float(found[1]))


def parser(program: str, description: str) -> Parser:
    """A parser with the option that every command has."""
    made = Parser(
        prog=program, description=description, allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter
    )
    made.add_argument("--traceback", action="store_true", help="show where an error came from")
    return made


def trainer(program: str, function: Callable[..., Any]) -> Parser:
    """The parser of a command that trains; the options of the experiment are not in it yet."""
    made = parser(program, described(function))
    written = f"{', '.join(WRITTEN)} (the net is in the second)"
    made.add_argument("--out", type=Path, metavar="DIR", help=f"write here: {written}")
    made.add_argument("--overwrite", action="store_true", help="into DIR even if it has a run already, which goes")
    made.add_argument("--quiet", action="store_true", help="no progress")
    return made


def parsed(parser: Parser, function: Callable[..., Any], words: list[str]) -> Namespace:
    """The words of a command, with the arguments of its experiment function among the options."""
    own = _options(parser)
    add_options(parser, function, RESERVED)
    given, rest = parser.parse_known_args([_dashed(word) for word in words])
    for word in rest:
        option = word.split("=")[0]
        if not option.startswith("--"):
            raise SettingError(f"{word!r} belongs to no option. Write: --name value. See: {parser.prog} --help")
        there = [name for name in _options(parser) if name not in own]
        raise SettingError(
            f"There is no option {option}.{nearest(option, [*there, *own])} The options are the arguments of "
            f"experiment(): {', '.join(there) or 'it has none'}."
        )
    return given


def _options(parser: Parser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings if name.startswith("--")]


def _dashed(word: str) -> str:
    """`--batch_size=3` means `--batch-size=3`: both ways of writing are common."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else word
