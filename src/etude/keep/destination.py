"""Where checkpoints go and when: one file that is overwritten, or a folder with a file for every save."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

from etude.arguments import named_class, told_of
from etude.errors import SettingError, nearest
from etude.keep.names import SUFFIX
from etude.keep.places import check_folder, is_folder
from etude.keep.retain import BestBy, Keep, no_keep
from etude.values.cadence import Cadence, every
from etude.values.spans import Span, epochs

DestinationLike: TypeAlias = "File | Directory | str | os.PathLike[str] | list[Any] | tuple[Any, ...] | None"

ON_FAILURE = ("warn", "stop")
"""What may follow when a save fails: a warning and the run goes on, or the error of the save."""

_KINDS = ("File", "Directory")
_EACH_EPOCH = every(epochs(1))
_FOREIGN = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".h5", ".npz", ".onnx")


@named_class
@final
@dataclass(frozen=True, slots=True, repr=False)
class File:
    """Checkpoints into one file, each in place of the one before.

        File("run.safetensors")                                         # at the end of every epoch, and of the run
        File("run.safetensors", every(epochs(1)) | every(minutes(10)))
        File("best.safetensors", when=best("val.loss"))                 # whenever the net became the best so far

    The new one is written beside it and takes its name when it is whole, so that there is a whole one at any instant.

    Args:
        path: of the file; the name is used as it stands.
        cadence: when, or a span for `every(span)`. None: at the end of every epoch, or with `when` at every step at
            which its score was measured.
        when: `best(...)`: only where the score is then better than at every save before.
        final: whether the last state of the run is saved too, whatever the cadence and its minimum. None: yes, but not
            with `when`.
        export: whether a `torch.export` archive of the net is written beside it, which needs no program to be run.
        on_failure: "warn": a save that fails is told and counted, and the run goes on; "stop": it ends the run.

    Attributes:
        absolute: the path from the root, taken where the destination was made; a later `os.chdir` does not move it.

    Raises:
        SettingError: an argument of another kind; the message says what to write.
    """

    path: str | os.PathLike[str]
    cadence: Cadence | Span | None = None
    when: BestBy | None = field(default=None, kw_only=True)
    final: bool | None = field(default=None, kw_only=True)
    export: bool = field(default=False, kw_only=True)
    on_failure: str = field(default="warn", kw_only=True)
    absolute: str = field(default="", init=False, compare=False)

    def __post_init__(self) -> None:
        _settle(self)
        if os.path.basename(self.path) in ("", os.curdir, os.pardir):
            raise self._is_a_folder("that")

    def check(self) -> None:
        """Whether a file can be written there, as far as that can be seen without writing.

        Raises:
            SettingError: a folder, a link or a device has its name, or its folder cannot be made or written to.
        """
        if is_folder(self.absolute, repr(self)):
            raise self._is_a_folder(self.absolute)
        check_folder(os.path.dirname(self.absolute), repr(self))

    def _is_a_folder(self, what: str) -> SettingError:
        path = os.fspath(self.path)
        inside = os.path.join(path, "last" + SUFFIX)
        return SettingError(f"{self!r}: {what} is a folder. Write Directory({path!r}), or File({inside!r}).")

    def __repr__(self) -> str:
        return _text(self)


@named_class
@final
@dataclass(frozen=True, slots=True, repr=False)
class Directory:
    """Checkpoints into a folder, each in a file of its own, named by time, run, epoch, step and losses.

        Directory("runs/digits")                                        # at the end of every epoch; nothing is removed
        Directory("runs/digits", every(minutes(10)), keep=last(2) | best("val.loss", 3))
        Directory("runs/digits", every(steps(500), minimum=minutes(5)), keep=last(2) | thinning())

    The folder is made, with those above it. It belongs to one run at a time.

    Args:
        path: of the folder.
        keep: which files stay after a later one was written and read back: `last(...)`, `best(...)`, `thinning(...)`,
            joined by `|`. None: all.
        cadence, when, final, export, on_failure: as of `File`.

    Attributes:
        absolute: as of `File`.

    Raises:
        SettingError: as of `File`.
    """

    path: str | os.PathLike[str]
    cadence: Cadence | Span | None = None
    when: BestBy | None = field(default=None, kw_only=True)
    keep: Keep | None = field(default=None, kw_only=True)
    final: bool | None = field(default=None, kw_only=True)
    export: bool = field(default=False, kw_only=True)
    on_failure: str = field(default="warn", kw_only=True)
    absolute: str = field(default="", init=False, compare=False)

    def __post_init__(self) -> None:
        _settle(self)
        if self.keep is not None and not isinstance(self.keep, Keep):
            raise SettingError(f"Directory({self.path!r}, keep={self.keep!r}): {no_keep(self.keep)}")

    def check(self) -> None:
        """Whether files can be written there, as far as that can be seen without writing.

        Raises:
            SettingError: something else has its name, or it cannot be made or written to.
        """
        check_folder(self.absolute, repr(self))

    def __repr__(self) -> str:
        return _text(self)


def destinations(given: DestinationLike) -> tuple[File | Directory, ...]:
    """What `checkpoint=` stands for.

    Args:
        given: a destination, several, or none (None). A path that ends in ".safetensors" is a `File`, another a
            `Directory`. A list that begins with "File" or "Directory" is one destination, its arguments behind it.

    Raises:
        SettingError: something else, or two destinations of one path.
    """
    found = tuple(map(_one, _listed(given)))
    places: dict[str, File | Directory] = {}
    for each in found:
        # Where a link leads, so that one folder under two names is seen.
        first = places.setdefault(os.path.realpath(each.absolute), each)
        if first is not each:
            raise SettingError(
                f"checkpoint: {first!r} and {each!r} are one place. Give each a path of its own, or join their "
                "cadences: every(epochs(1)) | every(minutes(10))."
            )
    return found


def _listed(given: DestinationLike) -> list[Any]:
    if given is None:
        return []
    if not isinstance(given, list | tuple):
        return [given]
    return [given] if _is_spelled(given) else list(given)


def _is_spelled(given: Any) -> bool:
    """Whether it is one destination as ["File", "run.safetensors", every(epochs(2))]."""
    return isinstance(given, list | tuple) and bool(given) and isinstance(given[0], str) and given[0] in _KINDS


def _spelled(kind: str, *arguments: Any) -> File | Directory:
    if not 1 <= len(arguments) <= 2:
        raise SettingError(
            f"checkpoint={[kind, *arguments]!r}: a path, and perhaps a cadence, is needed. "
            f'Write {kind}("runs/digits{SUFFIX if kind == "File" else ""}", every(epochs(1))).'
        )
    return File(*arguments) if kind == "File" else Directory(*arguments)


def _one(given: Any) -> File | Directory:
    if isinstance(given, File | Directory):
        return given
    if _is_spelled(given):
        return _spelled(*given)
    if not isinstance(given, str | os.PathLike) or isinstance(os.fspath(given), bytes):
        raise SettingError(
            f"checkpoint={given!r}: that is no destination. Write Directory('runs/digits'), File('run{SUFFIX}'), or a "
            "list of such."
        )
    path = os.fspath(given)
    if path.endswith(SUFFIX):
        with told_of("checkpoint"):
            return File(given)
    stem, end = os.path.splitext(path)
    if end.lower() in _FOREIGN:
        raise SettingError(
            f"checkpoint={path!r}: a file of this library is a safetensors file. Write {stem + SUFFIX!r}; "
            f"or Directory({path!r}) if a folder is meant."
        )
    with told_of("checkpoint"):
        return Directory(given)


def _settle(it: File | Directory) -> None:
    """Look at what a destination was given, and fill in what follows from it."""
    kind = type(it).__name__
    path = _path(kind, it.path)
    said = f"{kind}({path!r}"
    when = _when(it.when, said)
    for name, value in {
        "path": path,
        "absolute": os.path.abspath(path),
        "cadence": _cadence(it.cadence, when, said),
        "final": when is None if it.final is None else it.final,
    }.items():
        object.__setattr__(it, name, value)
    for name in ("final", "export"):
        if not isinstance(getattr(it, name), bool):
            raise SettingError(f"{said}, {name}={getattr(it, name)!r}): True or False is needed.")
    if it.on_failure not in ON_FAILURE:
        near = nearest(str(it.on_failure), ON_FAILURE)
        raise SettingError(f'{said}, on_failure={it.on_failure!r}): "warn" or "stop" is needed.{near}')


def _path(kind: str, given: object) -> str:
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else given
    said = f"{kind}({path!r})"
    if not isinstance(path, str) or not path or "\0" in path:
        raise SettingError(f"{said}: a path is needed. Write {_example(kind)}.")
    if path.startswith("~"):
        raise SettingError(
            f"{said}: ~ would be taken as a name. Write os.path.expanduser({path!r}), or {'./' + path!r} for that name."
        )
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise SettingError(f"{said}: checkpoints are written to local file systems only. Write {_example(kind)}.")
    return path


def _example(kind: str) -> str:
    return f"File('run{SUFFIX}')" if kind == "File" else "Directory('runs/digits')"


def _when(when: object, said: str) -> BestBy | None:
    if when is None:
        return None
    if not isinstance(when, BestBy):
        raise SettingError(f"{said}, when={when!r}): a score is needed. Write when=best('val.loss').")
    if when.count != 1:
        one = BestBy(when.score, 1, when.direction)
        raise SettingError(
            f"{said}, when={when!r}): a save waits for one score to be the best. Write when={one!r}; "
            f"to keep the best {when.count} of a folder, keep={when!r}."
        )
    return when


def _cadence(given: object, when: BestBy | None, said: str) -> Cadence | None:
    if given is None:
        return _EACH_EPOCH if when is None else None
    if isinstance(given, Cadence):
        return given
    if isinstance(given, Span):
        with told_of(f"{said}, cadence={given!r})"):
            return every(given)
    raise SettingError(f"{said}, cadence={given!r}): {_no_cadence(given)}")


def _no_cadence(given: object) -> str:
    if isinstance(given, int | float) and not isinstance(given, bool):
        return f"{given!r} of what? Write every(steps({given!r})), every(epochs({given!r})) or seconds({given!r})."
    hint = f" To keep some of the files, keep={given!r}." if isinstance(given, Keep) else ""
    return f"a cadence is needed. Write every(epochs(1)), every(minutes(10)), or both with | between.{hint}"


def _text(it: File | Directory) -> str:
    """The call that makes a destination, without what would be the same unsaid."""
    unsaid = {"when": None, "keep": None, "final": it.when is None, "export": False, "on_failure": "warn"}
    cadence = None if it.cadence == _EACH_EPOCH and it.when is None else it.cadence
    said = [repr(it.path), *([] if cadence is None else [repr(cadence)])]
    for name, value in unsaid.items():
        if getattr(it, name, None) != value:
            said.append(f"{name}={getattr(it, name)!r}")
    return f"{type(it).__name__}({', '.join(said)})"
