"""What users may catch: every error that étude raises on purpose.

All derive from `EtudeError`, and each also from the built-in exception a Python programmer would expect, so
`except ValueError` keeps working. A message says what was asked, what is there, what is nearest, what to write.
"""

from __future__ import annotations

import os
import sys
import warnings

from etude.hints import nearest as nearest  # what messages end with

_HERE = os.path.dirname(__file__) + os.sep
"""Where the files of this library are."""


class EtudeError(Exception):
    """The root of all errors raised on purpose.

    Attributes:
        faults: where several things are wrong, an error for each; else nothing.
    """

    faults: tuple[EtudeError, ...] = ()


class PartError(EtudeError, LookupError):
    """A part of a net that is not there, or a literal that names no part."""


class RuleError(EtudeError, ValueError):
    """A rule that can never act, or rules that contradict one another."""


class ScheduleError(EtudeError, ValueError):
    """A schedule that is undefined somewhere in the run, or that mixes what cannot be mixed."""


class SettingError(EtudeError, ValueError):
    """An unknown option, or a value that the option cannot have."""


class DataError(EtudeError, ValueError):
    """Data that cannot be trained on."""


class PlanError(EtudeError, ValueError):
    """A plan that cannot be carried out on this net with these data."""


class StateError(EtudeError, ValueError):
    """A saved state that does not fit what it is loaded into."""


class CheckpointError(StateError):
    """A checkpoint that cannot be written, or a file that is not what was written: missing, damaged, or no checkpoint.

    Attributes:
        path: of the file. expected: what should be there. found: what is there.
        damaged: whether the file is not what was written; False where it could not be reached or is of another kind.
    """

    def __init__(self, path: str, expected: str, found: str, damaged: bool = True) -> None:
        super().__init__(f"{path}: expected {expected}; found {found}.")
        self.path = path
        self.expected = expected
        self.found = found
        self.damaged = damaged


class Interrupted(SystemExit):
    """A run was asked to leave, and its state was saved: the process ends with exit code 75, "run me again".

    Not an `EtudeError`: what catches errors should not keep a process alive that was asked to end.

    Attributes:
        path: the file with the state. step: steps done. reason: the signal, or the time limit.
    """

    def __init__(self, path: str, step: int, reason: str) -> None:
        super().__init__(75)
        self.path = path
        self.step = step
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason}: the state after step {self.step} is in {self.path}; run again to go on"


class StaleGradientError(EtudeError, RuntimeError):
    """A step without a new gradient for an array that moves now, or with an old gradient mixed in.

    Attributes:
        names: every array concerned, in the order of the net.
    """

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class NonFiniteError(EtudeError, ArithmeticError):
    """NaN or infinity in the data, the loss or a gradient, found before anything was changed.

    Attributes:
        names: the arrays, loss terms or data fields in which it was found.
        step: the number of the step that was refused (1 for the first), 0 where there is none.
        rows: places in the batch of the samples that hold it; nothing where that is not known.
    """

    def __init__(self, message: str, names: tuple[str, ...] = (), step: int = 0, rows: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.names = names
        self.step = step
        self.rows = rows


class OutOfMemoryError(EtudeError, MemoryError):
    """There is not enough memory for one sample of a batch (of a net with batch norm: for two), which cannot be split
    any more; nothing was changed.

    Attributes:
        step: the number of the step (1 for the first).
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


class MissingPackageError(EtudeError, ImportError):
    """An optional package that is needed here and not installed."""


def warn(text: str) -> None:
    """A UserWarning that points at the line of the user's program from which this library was called."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)
