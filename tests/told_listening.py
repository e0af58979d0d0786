"""Wrong uses of what follows scores, rates and ends of runs: how each is provoked, and what its message says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from etude import Trainer, following, limit, linear, newbob, no_improvement, plateau, reached
from etude.errors import EtudeError, ScheduleError, SettingError
from etude.values.progress import Extent, Progress
from etude.values.reactive import check_told
from etude.values.spans import epochs, steps
from etude.values.stopping import stopping

CLOCK = Progress(extent=Extent(steps=10))


def torn(scores: Any) -> float:
    raise KeyError("val.los")


def looked(function: Any, start: Any = 1.0) -> Any:
    made = following(function, "val.loss", start=start)
    return made.see(made.start(), {"val.loss": 0.5}, CLOCK)


def bob(**options: Any) -> Any:
    return newbob("val.loss", **options)


Make = Callable[[], Any]
LISTENING: dict[str, tuple[Make, type[EtudeError], list[str]]] = {
    # functions of scores
    "following nothing": (
        lambda: following(0.5, "val.loss", start=1),  # type: ignore[arg-type]
        ScheduleError,
        ["following(0.5, ...): a function of the scores", "Write following(function, 'val.loss', start=1)"],
    ),
    "following no score": (
        lambda: following(torn, start=1),
        ScheduleError,
        ["following(torn, ...): the names of scores are needed", "Write following(function, 'val.loss', start=1)"],
    ),
    "following twice": (
        lambda: following(torn, "val.loss", "val.loss", start=1),
        ScheduleError,
        ["a name stands twice among 'val.loss', 'val.loss'", "Write each once"],
    ),
    "following a function that fails": (
        lambda: looked(torn),
        ScheduleError,
        ["following(torn, 'val.loss', start=1.0): after 1 of 'val.loss'", "KeyError: 'val.los'", "dict of all scores"],
    ),
    "following a number": (
        lambda: looked(lambda scores: 1, True),
        ScheduleError,
        ["True or False is needed, as at the start, not 1"],
    ),
    # scores
    "a share of differences": (
        lambda: bob(relative=False, relative_to="new"),
        ScheduleError,
        ["relative_to='new' says of which score", "relative=False takes the difference", "Leave one of them out"],
    ),
    "a score that is no number": (
        lambda: Trainer(nn.Linear(2, 1), learning_rate=bob(start=1e-3)).see({"val.loss": "0.3"}),  # type: ignore[dict-item]
        SettingError,
        ["see({'val.loss': '0.3'}): a score is a number"],
    ),
    "a score of validation data without any": (
        lambda: check_told([bob()], ("epoch.loss",)),
        ScheduleError,
        ["Measured are 'epoch.loss'. There are no validation data: write validation=0.2"],
    ),
    "a score that would be a metric": (
        lambda: check_told([plateau("val.accuracy")], ("val.loss", "epoch.loss")),
        ScheduleError,
        ["Measured are 'val.loss', 'epoch.loss'. Write metrics='accuracy'"],
    ),
    "names of a function's scores": (
        lambda: plateau(sum, "min"),  # type: ignore[arg-type]
        ScheduleError,
        ["the names of the scores that the function is given", "names=('val.loss', 'val.error_rate')"],
    ),
    "name of a score": (lambda: newbob(""), ScheduleError, ["newbob('')", "Write newbob('val.loss')"]),
    "score twice": (
        lambda: newbob(("val.loss", "val.loss")),
        ScheduleError,
        ["a name stands there twice", "Write each once"],
    ),
    "names without a function": (
        lambda: newbob("val.loss", names=("val.a",)),
        ScheduleError,
        ["names=('val.a',) is for a function of scores", "Write newbob(('val.a',))"],
    ),
    "way of a function's score": (
        lambda: newbob(lambda told: told["val.a"], names=("val.a",)),
        ScheduleError,
        ["less or more of a function's score is better", "write mode='min' or mode='max'"],
    ),
    "way of a score": (
        lambda: plateau("val.acuracy"),
        ScheduleError,
        ["does not say whether less or more is better", 'Nearest: "val.accuracy"', "mode='min') or mode='max'"],
    ),
    "way": (
        lambda: plateau("val.loss", "minimum"),
        ScheduleError,
        ["mode is one of 'min', 'max'", 'Nearest: "min"'],
    ),
    "back to best": (
        lambda: bob(back_to_best=True),
        ScheduleError,
        ["back_to_best=True does not say", "back_to_best='clear' or back_to_best='keep'"],
    ),
    "looks": (
        lambda: bob(window=0),
        ScheduleError,
        ["window is a whole number of looks, at least 1", "Write window=3"],
    ),
    "function of scores": (
        lambda: newbob(lambda told: told["val.b"], "min", names=("val.a",)),
        ScheduleError,
        ["made no number of {'val.a': 0.5}: KeyError: 'val.b'", "the scores in names="],
    ),
    # newbob
    "both decay and growth": (
        lambda: bob(min_improvement=0.1, grow_improvement=0.05),
        ScheduleError,
        ["between 0.05 and 0.1 would both decay and grow", "Write a grow_improvement of at least 0.1"],
    ),
    "flag of newbob": (lambda: bob(relative=1), ScheduleError, ["relative is True or False, not 1"]),
    "newbob at 0 for ever": (
        lambda: bob(pinned={3: 0}),
        ScheduleError,
        ["after epoch 3 it would stay at 0 for ever", "Pin another value after it, or write low="],
    ),
    "newbob without a clock": (
        lambda: bob(pinned={3: 0.1}).see(None, {"val.loss": 1.0}),
        ScheduleError,
        ["the clock at the look was not told", "Write see(memory, metrics, progress)"],
    ),
    "newbob that starts at 0": (
        lambda: bob(start=0),
        ScheduleError,
        ["it must start above 0, for it is multiplied", "Write start=1e-3"],
    ),
    "newbob below 0": (lambda: bob(low=-1), ScheduleError, ["low must be at least 0", "Write low=0.0"]),
    "newbob, low": (
        lambda: bob(start=0.1, low=1),
        ScheduleError,
        ["low=1.0 is above the start 0.1: a decay would raise it", "Write less"],
    ),
    "newbob, high": (lambda: bob(high=0.5), ScheduleError, ["high=0.5 is below the start 1.0", "Write more"]),
    "newbob the wrong way": (
        lambda: bob(decay=1.5),
        ScheduleError,
        ["decay=1.5 is above growth=1.0: what does not improve would fare better", "Write decay=0.5, growth=1.0"],
    ),
    "newbob, factor": (lambda: bob(decay=-1), ScheduleError, ["decay must be above 0, not -1", "Write decay=0.5"]),
    "newbob, function": (
        lambda: bob(decay=lambda value: value / 0),
        ScheduleError,
        ["decay: the function failed at 1.0: ZeroDivisionError"],
    ),
    "newbob, function of a text": (
        lambda: bob(decay=lambda value: "less"),
        ScheduleError,
        ["decay", "a finite number is needed", "'less'"],
    ),
    "newbob, function below 0": (
        lambda: bob(decay=lambda value: value - 2),
        ScheduleError,
        ["the function makes -1.0 of 1.0: a number of at least 0 is needed"],
    ),
    "pinned": (
        lambda: bob(pinned=3),
        ScheduleError,
        ["pinned is a dict from epoch to value, or a list", "Write pinned={8: 1e-3}"],
    ),
    "pinned to a span": (
        lambda: bob(pinned={epochs(3): 0.1}),
        ScheduleError,
        ["whole numbers from 1, not epochs(3)", "Write pinned={8: 1e-3}. For other moments write pieces(...)"],
    ),
    "pinned below 0": (lambda: bob(pinned={3: -1}), ScheduleError, ["pinned values are at least 0", "{8: 1e-3}"]),
    # plateau
    "plateau, factor": (
        lambda: plateau("val.loss", factor=2),
        ScheduleError,
        ["the factor must be above 0 and below 1", "Write factor=0.5"],
    ),
    "plateau, threshold": (
        lambda: plateau("val.loss", threshold=-1),
        ScheduleError,
        ["the threshold must be at least 0", "Write threshold=1e-3"],
    ),
    "plateau that starts at 0": (
        lambda: plateau("val.loss", start=0),
        ScheduleError,
        ["it must start above 0", "Write start=1.0"],
    ),
    "plateau, low": (
        lambda: plateau("val.loss", low=2),
        ScheduleError,
        ["low is a share of the rate, from 0 to 1", "Write low=0.01"],
    ),
    # ends of runs
    "end by no score": (
        lambda: no_improvement(3, 2),  # type: ignore[arg-type]
        SettingError,
        ["the name of a score is needed", "Write no_improvement('val.loss', patience=2)"],
    ),
    "end, patience": (
        lambda: no_improvement("val.loss", 2.5),  # type: ignore[arg-type]
        SettingError,
        ["patience=2.5: a whole number of looks, at least 0", "Write patience=3"],
    ),
    "end, min_delta": (
        lambda: no_improvement("val.loss", 2, min_delta=-1),
        SettingError,
        ["min_delta=-1: a finite number, at least 0", "Write 0.001"],
    ),
    "end, relative": (
        lambda: no_improvement("val.loss", 2, relative=1),  # type: ignore[arg-type]
        SettingError,
        ["relative=1: True or False is needed"],
    ),
    "end, way": (
        lambda: no_improvement("val.score", 2),
        SettingError,
        ["does not say whether less or more is better", "Write mode='min' or mode='max'"],
    ),
    "end, mode": (
        lambda: no_improvement("val.loss", 2, mode="mini"),
        SettingError,
        ["mode='mini': 'min' or 'max' is needed", 'Nearest: "min"'],
    ),
    "end without a bound": (
        lambda: reached("val.accuracy"),
        SettingError,
        ["no bound is given", "Write reached('val.accuracy', above=0.99)"],
    ),
    "end, bound": (
        lambda: reached("val.accuracy", above="0.9"),  # type: ignore[arg-type]
        SettingError,
        ["above='0.9': a number is needed", "Write above=0.99"],
    ),
    "end, nothing between": (
        lambda: reached("val.loss", above=2, below=1),
        SettingError,
        ["no score is above 2.0 and below 1.0", "Write above=1.0, below=2.0, or leave one out"],
    ),
    "end before the begin": (
        lambda: limit(steps(0)),
        SettingError,
        ["limit(steps(0)): the run would end before it began", "Write a span longer than nothing"],
    ),
    "end by no span": (
        lambda: limit(30),  # type: ignore[arg-type]
        SettingError,
        ["limit(30): a span is needed", "Write limit(minutes(30)) or limit(tokens(1e9))"],
    ),
    "end by a name": (
        lambda: stopping("val.loss"),  # type: ignore[arg-type]
        SettingError,
        ["'val.loss' is no condition", 'Write no_improvement("val.loss", patience=3)'],
    ),
    "end by a list": (
        lambda: stopping([limit(steps(3))]),  # type: ignore[arg-type]
        SettingError,
        ["is no condition", "Join conditions by | (either) or & (both)"],
    ),
    "conditions joined by words": (
        lambda: limit(steps(3)) or limit(steps(5)),
        SettingError,
        ["limit(steps(3)) is a condition", "would take one side and drop the other", "Write a | b (either) or a & b"],
    ),
    "the function that makes a condition": (
        lambda: stopping(limit),
        SettingError,
        ["stop=limit: that is the function itself", "Write stop=limit(minutes(30))"],
    ),
    "end by a schedule": (
        lambda: stopping(linear(0, 1)),
        SettingError,
        ["A schedule is no condition", "Write limit(epochs(3))"],
    ),
    "end by a function that fails": (
        lambda: stopping(lambda progress: progress.stepp > 3).check((), Extent(steps=10)),  # type: ignore[attr-defined]
        SettingError,
        ["asked at the start of the run, the function failed: AttributeError", "It gets the clock (progress.step"],
    ),
    "end by what is not measured": (
        lambda: no_improvement("val.los", 2, mode="min").check(("val.loss",), Extent(steps=10)),
        SettingError,
        ["goes by 'val.los', which is not measured", "Measured are 'val.loss'", 'Nearest: "val.loss"'],
    ),
}
