"""étude: training for PyTorch in one grammar, setting[where, when] = value."""

from etude import data, optim
from etude._version import __version__
from etude.bind.left import learning_rate_multipliers, rules_of, set_rules
from etude.data.cursor import Cursor
from etude.data.data import Data
from etude.errors import (
    CheckpointError,
    DataError,
    EtudeError,
    Interrupted,
    MissingPackageError,
    NonFiniteError,
    PartError,
    PlanError,
    RuleError,
    ScheduleError,
    SettingError,
    StaleGradientError,
    StateError,
)
from etude.front import train
from etude.keep.destination import Directory, File
from etude.keep.load import load_net
from etude.keep.loop import Checkpoints
from etude.keep.retain import best, last, thinning
from etude.listen.bar import Bar
from etude.listen.jsonl import JsonLines
from etude.run import events
from etude.run.evaluate import Evaluate
from etude.run.plan import Plan
from etude.run.result import Result
from etude.run.run import Run
from etude.step.averages import ema, swa
from etude.step.gan import GAN
from etude.step.trainer import Trainer
from etude.step.update import Update
from etude.values.cadence import every
from etude.values.curves import (
    cosine,
    cyclic,
    exponential,
    inverse_sqrt,
    linear,
    multi_step,
    one_cycle,
    polynomial,
    step_decay,
    warm_restarts,
    warmup,
)
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import Part, everything, part, where
from etude.values.progress import Extent, Progress
from etude.values.reactive import plateau, when
from etude.values.rules import Rules, rules, times
from etude.values.schedule import Schedule, constant, cycle, pieces, repeat, schedule
from etude.values.spans import (
    Span,
    epochs,
    fraction,
    hours,
    minutes,
    samples,
    seconds,
    steps,
    tokens,
)
from etude.values.text import read, write

__all__ = [
    "FROZEN",
    "GAN",
    "INHERIT",
    "Bar",
    "CheckpointError",
    "Checkpoints",
    "Cursor",
    "Data",
    "DataError",
    "Directory",
    "EtudeError",
    "Evaluate",
    "Extent",
    "File",
    "Interrupted",
    "JsonLines",
    "MissingPackageError",
    "NonFiniteError",
    "Part",
    "PartError",
    "Plan",
    "PlanError",
    "Progress",
    "Result",
    "RuleError",
    "Rules",
    "Run",
    "Schedule",
    "ScheduleError",
    "SettingError",
    "Span",
    "StaleGradientError",
    "StateError",
    "Trainer",
    "Update",
    "__version__",
    "best",
    "constant",
    "cosine",
    "cycle",
    "cyclic",
    "data",
    "ema",
    "epochs",
    "events",
    "every",
    "everything",
    "exponential",
    "fraction",
    "hours",
    "inverse_sqrt",
    "last",
    "learning_rate_multipliers",
    "linear",
    "load_net",
    "minutes",
    "multi_step",
    "one_cycle",
    "optim",
    "part",
    "pieces",
    "plateau",
    "polynomial",
    "read",
    "repeat",
    "rules",
    "rules_of",
    "samples",
    "schedule",
    "seconds",
    "set_rules",
    "step_decay",
    "steps",
    "swa",
    "thinning",
    "times",
    "tokens",
    "train",
    "warm_restarts",
    "warmup",
    "when",
    "where",
    "write",
]
