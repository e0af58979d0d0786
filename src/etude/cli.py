"""The command line: `etude train FILE`, `etude plan FILE`, `etude demo`."""

from __future__ import annotations

import os
import sys
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import torch

from etude import demo
from etude._version import __version__
from etude.errors import EtudeError, SettingError, nearest
from etude.experiment import add_options, build, described, load
from etude.listen.bar import Bar
from etude.listen.jsonl import JsonLines
from etude.run.check import Checked
from etude.run.result import Result
from etude.run.run import Run

_USAGE: Final = """\
usage: etude COMMAND ...

  etude train FILE [--argument value ...]   train what an experiment file says
  etude plan FILE [--argument value ...]    prove its plan and show it; nothing is trained
  etude demo                                train a small net on handwritten digits

An experiment file is a Python file with a function `experiment` whose arguments have types and defaults. It returns a
net, data and a plan: return net, data, plan. Its arguments are the options: `etude train FILE --help` lists them.

  --version     the version
  --traceback   show where an error came from, with any command
"""
_RESERVED: Final = ("help", "traceback", "out", "overwrite", "quiet", "plot")
_HELP: Final = ("-h", "--help", "help")
_WRITTEN: Final = ("result.json", "result.safetensors", "events.jsonl", "loss.png", "score.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `etude`; None: those of the process.

    Returns:
        0; 2 for whatever the library objects to, said in one message on stderr; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _notes():
            _command(words)
            sys.stdout.flush()
    except EtudeError as error:
        if "--traceback" in words:
            raise
        print(f"etude: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("etude: stopped by Ctrl-C; no result was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, `etude plan FILE | head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _command(words: list[str]) -> None:
    name, *rest = [word for word in words if word != "--traceback"] or ["--help"]
    if name in _HELP or (name in ("train", "plan") and rest and rest[0] in _HELP):
        print(_USAGE, end="")
    elif name == "--version":
        print(f"etude {__version__}")
    elif name in _COMMANDS:
        _COMMANDS[name](rest)
    else:
        raise SettingError(f"There is no command {name!r}: {', '.join(_COMMANDS)}.{nearest(name, _COMMANDS)}")


def _train(words: list[str]) -> None:
    function, words = _file("train", words)
    given = _parsed(_trainer(f"etude train {words[0]}", function), function, words[1:])
    run = _run(function, given)
    _carry_out(run, given)


def _plan(words: list[str]) -> None:
    function, words = _file("plan", words)
    parser = _parser(f"etude plan {words[0]}", described(function))
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write the score: which part moves when, how fast")
    given = _parsed(parser, function, words[1:])
    checked = _run(function, given).checked
    print(checked.show())
    if given.plot is not None:
        _plot(checked, given.plot)
        print(f"\nwritten: {given.plot}")


def _demo(words: list[str]) -> None:
    parser = _trainer("etude demo", demo.experiment)
    parser.set_defaults(out=Path("out/demo"), overwrite=True)
    given = _parsed(parser, demo.experiment, words)
    with _one_thread():
        run = _run(demo.experiment, given)
        print(f"The plan, proved before anything is trained (etude plan {_relative(demo.__file__)}):\n")
        print(run.checked.show(), end="\n\n")
        _carry_out(run, given)


_COMMANDS: Final[dict[str, Callable[[list[str]], None]]] = {"train": _train, "plan": _plan, "demo": _demo}


# ---------------------------------------------------------------------------------------------- reading the words


class _Parser(ArgumentParser):
    """A parser that objects as the library does."""

    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message}. See: {self.prog} --help")


def _file(command: str, words: list[str]) -> tuple[Callable[..., Any], list[str]]:
    """The experiment function of the file that is named first, and the words from the file on."""
    if not words or words[0].startswith("-"):
        rest = f" {words[0]} ..." if words else ""
        raise SettingError(f"The experiment file comes first. Write: etude {command} FILE{rest}")
    return load(words[0]), words


def _parser(program: str, description: str) -> _Parser:
    parser = _Parser(
        prog=program, description=description, allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    return parser


def _trainer(program: str, function: Callable[..., Any]) -> _Parser:
    parser = _parser(program, described(function))
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"write here: {', '.join(_WRITTEN)} (the net is in the second)"
    )
    parser.add_argument("--overwrite", action="store_true", help="into DIR even if it has a result already")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _parsed(parser: _Parser, function: Callable[..., Any], words: list[str]) -> Namespace:
    own = _options(parser)
    add_options(parser, function, _RESERVED)
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


def _options(parser: _Parser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings if name.startswith("--")]


def _dashed(word: str) -> str:
    """`--batch_size=3` means `--batch-size=3`: both ways of writing are common."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else word


def _run(function: Callable[..., Any], given: Namespace) -> Run:
    made = build(function, {name: value for name, value in vars(given).items() if name not in _RESERVED})
    return Run(made.plan, made.net, made.data)


# ------------------------------------------------------------------------------------------------- doing and telling


def _carry_out(run: Run, given: Namespace) -> None:
    out: Path | None = given.out
    if out is not None:
        _prepare(out, given.overwrite)
        run.to(JsonLines(out / "events.jsonl"))
    result = run.to(None if given.quiet else Bar()).result()
    written = "nothing; --out DIR keeps the net, the history and the pictures"
    if out is not None:
        result.save(out / "result.json", net=True)
        result.plot("loss", out / "loss.png")
        result.plot("score", out / "score.png")
        written = f"{out}{os.sep}: {', '.join(_WRITTEN)}"
    facts = {**_facts(result), "written": written}
    width = max(map(len, facts))
    print("\n" + "\n".join(f"{name.ljust(width)}  {fact}" for name, fact in facts.items()))


def _prepare(out: Path, overwrite: bool) -> None:
    """A folder that can be written to, before anything is trained."""
    if (out / "result.json").exists() and not overwrite:
        raise SettingError(f"{out} has a result already. Give another folder, or write --overwrite.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "events.jsonl").write_text("")
    except OSError as error:
        raise SettingError(f"--out {out}: the folder cannot be written to: {error.strerror}.") from None


def _facts(result: Result) -> dict[str, str]:
    """What a result is, in words."""
    facts = {name: f"{value:.4g}" for name, value in result.losses.items()}
    if result.best_step is not None:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in _at(result, result.best_step).items())
        facts["best"] = f"{scores} after epoch {result.best_epoch:g}; the net is that one"
    speed = f"{result.throughput:,.0f} samples/s"
    return {**facts, "made": f"{result.steps:,} steps in {result.seconds:.1f} s, {speed}; {result.stop_message}"}


def _at(result: Result, step: int) -> dict[str, float]:
    """The validation scores that were taken after a step."""
    looks = {name: dict(zip(of.steps, of.values, strict=True)) for name, of in result.history.items()}
    return {name: values[step] for name, values in looks.items() if name.startswith("val.") and step in values}


def _plot(checked: Checked, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    checked.plot(path)


def _relative(path: str) -> str:
    near = os.path.relpath(path)
    return near if len(near) < len(path) else path


@contextmanager
def _notes() -> Iterator[None]:
    """Warnings as one line each, without the place in the code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"etude: note: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """For nets so small that threads would spend their time waiting for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    sys.exit(main())
