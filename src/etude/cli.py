"""The command line: `etude train FILE`, and resume, inspect, plan, data and demo."""

from __future__ import annotations

import json
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from etude import demo, options
from etude._version import __version__
from etude.asked import CHECKPOINTS, FILE, again, asked, read, with_checkpoints, write
from etude.data.account import account, page
from etude.errors import EtudeError, PlanError, SettingError, nearest
from etude.experiment import Experiment, build, described
from etude.keep.inspecting import listing, look
from etude.outcome import carry_out, check, finished, prepare, taken, tell_finished
from etude.run.checked import Checked
from etude.run.foreseen import foresee
from etude.run.run import Run
from etude.telling import of_file, of_folder

_USAGE: Final = """\
usage: etude COMMAND ...

  etude train FILE [--argument value ...]   train what an experiment file says
  etude resume DIR [--accept NAME ...]      go on with a run that `etude train FILE --out DIR` began
  etude inspect FILE|DIR [--json]           show what is in a checkpoint, or which checkpoints there are
  etude plan FILE [--argument value ...]    prove its plan and show it; nothing is trained
  etude data FILE [--argument value ...]    show its data and their batches; nothing is read but lengths
  etude demo                                train a small net on handwritten digits

An experiment file is a Python file with a function `experiment` whose arguments have types and defaults. It returns a
net, data and a plan: return net, data, plan. Its arguments are the options: `etude train FILE --help` lists them.

A run that was asked to leave by SIGTERM, SIGINT (Ctrl-C), SIGUSR1 or --until is saved and ends with exit code 75.

  --version     the version
  --traceback   show where an error came from, with any command
"""
_HELP: Final = ("-h", "--help", "help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `etude`; None: those of the process.

    Returns:
        0; 1 where `inspect` found damage; 2 for whatever the library objects to, said in one message on stderr; 75 for
        a run that was asked to leave and was saved, to be gone on with; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _notes():
            code = _command(words)
            sys.stdout.flush()
            return code
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


def _command(words: list[str]) -> int:
    name, *rest = [word for word in words if word != "--traceback"] or ["--help"]
    if name in _HELP or (name in ("train", "plan", "data", "resume", "inspect") and rest and rest[0] in _HELP):
        print(_USAGE, end="")
    elif name == "--version":
        print(f"etude {__version__}")
    elif name in _COMMANDS:
        return _COMMANDS[name](rest)
    else:
        raise SettingError(f"There is no command {name!r}: {', '.join(_COMMANDS)}.{nearest(name, _COMMANDS)}")
    return 0


def _train(words: list[str]) -> int:
    function, words = options.experiment_file("train", words)
    parser = options.trainer(f"etude train {words[0]}", function)
    parser.add_argument("--until", metavar="TIME", help=options.UNTIL)
    given = options.parsed(parser, function, words[1:])
    made, until = _built(function, given), options.span(given.until)
    if given.out is None:
        if until is not None and not made.plan.checkpoint:
            raise SettingError(f"--until {given.until}: the run is saved then, and no place is given. Write --out DIR.")
        return carry_out(Run(made.plan, made.net, made.data, until=until), None, given.quiet)
    out, plan = given.out, with_checkpoints(made.plan, given.out)
    check(out)
    run = Run(plan, made.net, made.data, until=until)
    with taken(out):
        prepare(out, given.overwrite)
        write(out, asked(words[0], _arguments(given), given.until, plan))
        return carry_out(run, out, given.quiet)


def _resume(words: list[str]) -> int:
    out, words = options.place("resume", "DIR", words)
    parser = options.parser(f"etude resume {out}", "Go on with a run from its newest good checkpoint.")
    parser.add_argument("--accept", nargs="+", default=[], metavar="NAME", help="differences that are meant")
    parser.add_argument("--until", metavar="TIME", help=f"{options.UNTIL}; as before where it is not given")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    given = parser.parse_args(words)
    before, out = read(out), Path(os.path.abspath(out))
    with taken(out):
        if finished(out):
            tell_finished(out)
            return 0
        _, made = again(before)
        plan, until = with_checkpoints(made.plan, out), options.span(given.until or before.until)
        try:
            run = Run(plan, made.net, made.data, resume="auto", accept=given.accept, until=until)
            return carry_out(run, out, given.quiet)
        except PlanError as error:
            if "accept=[" in str(error):
                raise PlanError(f"{error} On the command line: etude resume {out} --accept NAME ...") from None
            raise


def _inspect(words: list[str]) -> int:
    path, words = options.place("inspect", "FILE|DIR", words)
    parser = options.parser(f"etude inspect {path}", "Show what is in a checkpoint, or which checkpoints there are.")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    given = parser.parse_args(words)
    if not path.is_dir():
        told = look(path)
        print(json.dumps(told, indent=1) if given.json else of_file(told))
        return 0 if told["good"] else 1
    before = read(path) if (path / FILE).exists() else None
    found = listing([path, path / CHECKPOINTS, *(before.places if before is not None else [])])
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        print(of_folder(found) if found else f"{path} has no checkpoints.")
    return 0 if all(told["good"] for told in found) else 1


def _plan(words: list[str]) -> int:
    function, words = options.experiment_file("plan", words)
    parser = options.parser(f"etude plan {words[0]}", described(function))
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write the score: which part moves when, how fast")
    given = options.parsed(parser, function, words[1:])
    checked = _run(_built(function, given)).checked
    print(checked.show())
    if given.plot is not None:
        _plot(checked, given.plot)
        print(f"\nwritten: {given.plot}")
    return 0


def _data(words: list[str]) -> int:
    function, words = options.experiment_file("data", words)
    parser = options.parser(f"etude data {words[0]}", described(function))
    parser.add_argument("--first", type=int, metavar="N", help="epochs to plan; the first 3 where it is not given")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw lengths, and fill and padding of batches")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    given = options.parsed(parser, function, words[1:])
    if given.first is not None and given.first < 1:
        raise SettingError(f"--first {given.first}: at least the first epoch is shown. Write --first 3.")
    made = _built(function, given)
    foreseen = foresee(made.plan, made.net, made.data)
    epochs = given.first or min(3, made.plan.epochs or 3)
    found = {"training data": account(foreseen.training, epochs)}
    if foreseen.validation is not None:
        found["validation data"] = account(foreseen.validation, 1)
    if given.json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        print("\n\n".join(page(title, told) for title, told in found.items()))
    if given.plot is not None:
        foreseen.training.plot(given.plot, epochs=epochs, title=f"Batches of {words[0]}")
        print(f"\nwritten: {given.plot}", file=sys.stderr if given.json else sys.stdout)
    return 0


def _demo(words: list[str]) -> int:
    parser = options.trainer("etude demo", demo.experiment)
    parser.set_defaults(out=Path("out/demo"), overwrite=True)
    given = options.parsed(parser, demo.experiment, words)
    with _one_thread():
        run = _run(_built(demo.experiment, given))
        print(f"The plan, proved before anything is trained (etude plan {_relative(demo.__file__)}):\n")
        print(run.checked.show(), end="\n\n")
        with taken(given.out):
            prepare(given.out, given.overwrite)
            return carry_out(run, given.out, given.quiet)


_COMMANDS: Final[dict[str, Callable[[list[str]], int]]] = {
    "train": _train,
    "resume": _resume,
    "inspect": _inspect,
    "plan": _plan,
    "data": _data,
    "demo": _demo,
}


def _arguments(given: Namespace) -> dict[str, Any]:
    """Those of the experiment function."""
    return {name: value for name, value in vars(given).items() if name not in options.RESERVED}


def _built(function: Callable[..., Any], given: Namespace) -> Experiment:
    return build(function, _arguments(given))


def _run(made: Experiment) -> Run:
    return Run(made.plan, made.net, made.data)


# ------------------------------------------------------------------------------------------------------------ telling


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
