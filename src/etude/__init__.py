"""étude: training for PyTorch in one grammar, setting[where, when] = value."""

from etude import data, initial, layers, losses, optim, returnn
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
    OutOfMemoryError,
    PartError,
    PlanError,
    RuleError,
    ScheduleError,
    SettingError,
    StaleGradientError,
    StateError,
)
from etude.front import train
from etude.initial.initial import initialize
from etude.initial.load import Fresh, Load
from etude.keep.destination import Directory, File
from etude.keep.load import load_net
from etude.keep.loop import Checkpoints
from etude.keep.retain import best, last, thinning
from etude.listen.bar import Bar
from etude.listen.jsonl import JsonLines
from etude.run import events
from etude.run.evaluate import Evaluate
from etude.run.plan import Plan
from etude.run.probe import Probe
from etude.run.result import Result
from etude.run.run import Run
from etude.step.averages import ema, swa
from etude.step.gan import GAN
from etude.step.policies import roll_back, skip
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
from etude.values.decay import decay, no_decay
from etude.values.following import following
from etude.values.marks import FROZEN, INHERIT
from etude.values.newbob import newbob
from etude.values.part import Part, everything, part, where
from etude.values.phases import phase, phases
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
from etude.values.stopping import limit, no_improvement, reached
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
    "Fresh",
    "Interrupted",
    "JsonLines",
    "Load",
    "MissingPackageError",
    "NonFiniteError",
    "OutOfMemoryError",
    "Part",
    "PartError",
    "Plan",
    "PlanError",
    "Probe",
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
    "decay",
    "ema",
    "epochs",
    "events",
    "every",
    "everything",
    "exponential",
    "following",
    "fraction",
    "hours",
    "initial",
    "initialize",
    "inverse_sqrt",
    "last",
    "layers",
    "learning_rate_multipliers",
    "limit",
    "linear",
    "load_net",
    "losses",
    "minutes",
    "multi_step",
    "newbob",
    "no_decay",
    "no_improvement",
    "one_cycle",
    "optim",
    "part",
    "phase",
    "phases",
    "pieces",
    "plateau",
    "polynomial",
    "reached",
    "read",
    "repeat",
    "returnn",
    "roll_back",
    "rules",
    "rules_of",
    "samples",
    "schedule",
    "seconds",
    "set_rules",
    "skip",
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
