"""Files and options of RETURNN that cannot be read: how each is provoked, its error, and what the message says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etude.errors import DataError, EtudeError, SettingError
from etude.returnn import newbob_from, piecewise_linear, rate_file

_FOLDER = tempfile.TemporaryDirectory()


def read(text: str) -> Any:
    path = Path(_FOLDER.name) / "learning_rates"
    path.write_text(text)
    return rate_file(path)


def options(scores: Any = "val.loss", **given: Any) -> Any:
    return newbob_from({"learning_rate": 0.1, "learning_rate_control": "newbob", **given}, scores)


READ = "only numbers, text, dicts, lists, nan, inf and EpochData are read, and nothing is run."

Make = Callable[[], Any]
RETURNN: dict[str, tuple[Make, type[EtudeError], list[str]]] = {
    # the file
    "rates of no epoch": (lambda: read("{}").schedule(), DataError, ["There is no epoch", "no schedule of its rates"]),
    "rates of no file": (
        lambda: rate_file(Path(_FOLDER.name) / "none"),
        DataError,
        ["none: the learning-rate file cannot be read", "No such file"],
    ),
    "rates of no expression": (
        lambda: read("{1: 0.1,\n2: }"),
        DataError,
        ["line 2: no learning-rate file of RETURNN", "Expected is a dict from epochs to EpochData("],
    ),
    "rates in a list": (lambda: read("[0.1]"), DataError, ["line 1: [0.1]: this is no dict", "Expected is a dict"]),
    "rates of epoch 0": (
        lambda: read("{0: 0.1}"),
        DataError,
        ["line 1: 0: an epoch is a whole number from 1, and stands there once."],
    ),
    "rates, strangers": (
        lambda: read("{1: EpochData(learningrate=0.1)}"),
        DataError,
        ["EpochData has learningRate= and error=", 'Nearest: "learningRate"'],
    ),
    "rate below 0": (lambda: read("{1: -0.1}"), DataError, ["-0.1: a learning rate is a finite number of at least 0."]),
    "score in a file": (
        lambda: read("{1: EpochData(0.1, {'dev_score': 'good'})}"),
        DataError,
        ["{'dev_score': 'good'}: the score 'dev_score' is no number."],
    ),
    "scores without names": (
        lambda: read("{1: EpochData(0.1, {3: 0.1})}"),
        DataError,
        ["{3: 0.1}: a dict with names is expected."],
    ),
    "a program as rates": (lambda: read("{1: rate * 2}"), DataError, ["rate * 2", READ]),
    "a call as a rate": (lambda: read("{1: eval('1')}"), DataError, ["eval('1')", READ]),
    "a list as a name": (
        lambda: read("{1: EpochData(0.1, {(1,): 2})}"),
        DataError,
        ["(1,): names and numbers are the keys of a dict."],
    ),
    "stars in a file": (lambda: read("{**{}}"), DataError, ["line 1: {}: ** is not known here."]),
    # the options
    "positions that are no numbers": (
        lambda: piecewise_linear({"0": 1.0, 1000: 0.1}),  # type: ignore[dict-item]
        SettingError,
        ["a position is a number, not '0'", "Write {0: 1.0, 1000: 0.1}"],
    ),
    "a unit by its name": (
        lambda: piecewise_linear({0: 1.0, 10: 0.1}, unit="epochs"),  # type: ignore[arg-type]
        SettingError,
        ["piecewise_linear(unit='epochs'): positions are counted in steps, epochs", "Write unit=epochs"],
    ),
    "a control that is a list": (
        lambda: options(learning_rate_control=["newbob"]),
        SettingError,
        ["learning_rate_control=['newbob']: there is no such control"],
    ),
    "an epoch that is a truth": (
        lambda: options(learning_rates={True: 0.1}),
        SettingError,
        ["learning_rates={True: 0.1}: epochs are whole numbers from 1"],
    ),
    "points": (
        lambda: piecewise_linear({}),
        SettingError,
        ["piecewise_linear({}): points are needed", "Write piecewise_linear({0: 1.0, 1000: 0.1})"],
    ),
    "threshold of newbob": (
        lambda: options(newbob_relative_error_threshold="small"),
        SettingError,
        ["newbob_relative_error_threshold='small': a number is needed", "Write -0.01"],
    ),
    "options of RETURNN": (
        lambda: newbob_from(0.1),  # type: ignore[arg-type]
        SettingError,
        ["newbob_from(0.1): a dict of RETURNN's options is needed", "Write newbob_from({'learning_rate': 1e-3"],
    ),
    "option of RETURNN": (
        lambda: options(learning_rate_decai=0.5),
        SettingError,
        ["no option of RETURNN for learning rates 'learning_rate_decai'", 'Nearest: "learning_rate_decay"'],
    ),
    "options that are something else here": (
        lambda: options(learning_rate_file="rates", dynamic_learning_rate=1),
        SettingError,
        ["'learning_rate_file' is no option from which a schedule is made", "rate_file(path)", "lambda p: 1e-3 * 0.9"],
    ),
    "control of RETURNN": (
        lambda: options(learning_rate_control="newbop"),
        SettingError,
        ["learning_rate_control='newbop': there is no such control", 'Nearest: "newbob"'],
    ),
    "idle option of RETURNN": (
        lambda: options(newbob_multi_num_epochs=3),
        SettingError,
        ["newbob_multi_num_epochs: of no use to learning_rate_control='newbob'", "This one takes learning_rate"],
    ),
    "rates of RETURNN": (
        lambda: options(learning_rates=0.1),
        SettingError,
        ["learning_rates=0.1: a list from epoch 1, or a dict from epoch to rate"],
    ),
    "rate of an epoch": (
        lambda: options(learning_rates={0: 0.1}),
        SettingError,
        ["learning_rates={0: 0.1}: epochs are whole numbers from 1, and rates are numbers"],
    ),
    "no rate of RETURNN": (
        lambda: newbob_from({"learning_rate_control": "newbob"}, "val.loss"),
        SettingError,
        ["learning_rate is missing", "suits hardly any net"],
    ),
    "constant rate of RETURNN": (
        lambda: newbob_from({"learning_rate": -1}),
        SettingError,
        ["the rate of epoch 1 is -1: a finite number of at least 0"],
    ),
    "measure of RETURNN": (
        lambda: options(["val.loss"], learning_rate_control_error_measure="dev_loss_los"),
        SettingError,
        ["no such score is measured", "Measured are 'val.loss'", 'Nearest: "val.loss"'],
    ),
    "no score of RETURNN": (
        lambda: options(None),
        SettingError,
        ["No score is said", "Write newbob_from(options, 'val.loss')"],
    ),
    "scores of RETURNN": (
        lambda: options(["val.ce", "val.fer"]),
        SettingError,
        ["Which of 'val.ce', 'val.fer' rules", "learning_rate_control_error_measure='val.ce'"],
    ),
}
