"""RETURNN's learning-rate files, which are never run, and its options for learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isnan
from pathlib import Path
from typing import Any

import pytest

import etude.returnn
from etude.errors import DataError, ScheduleError, SettingError
from etude.returnn import RateFile, newbob_from, piecewise_linear, rate_file
from etude.values.curves import linear
from etude.values.newbob import newbob
from etude.values.progress import Extent, Progress
from etude.values.schedule import constant, pieces
from etude.values.spans import epochs
from etude.values.text import read, write

FULL = """{
1: EpochData(learningRate=0.001, error={
'dev_loss_ce': 3.5,
'dev_loss_fer': float('nan'),
'dev_loss_inf': -inf,
'dev_loss_np': np.float32(0.5),
':meta:device': 'cpu',
':meta:times': [1, 2.5, None],
':meta:sizes': {'a': (1, -2), 'on': True},
}),
2: EpochData(learning_rate=0.001, error={'dev_loss_ce': nan}, meta={'step': 20}),
5: EpochData(learningRate=+0.25, error={}),
6: EpochData(0.25, 1.5),
7: 0.125,
8: EpochData(learningRate=numpy.float64(0.0625), error=None),
}
"""


def written(folder: Path, text: str) -> RateFile:
    path = folder / "learning_rates"
    path.write_text(text)
    return rate_file(path)


def test_all_that_may_stand_in_a_file(tmp_path: Path) -> None:
    file = written(tmp_path, FULL)
    assert file.rates == {1: 0.001, 2: 0.001, 5: 0.25, 6: 0.25, 7: 0.125, 8: 0.0625}
    assert list(file.scores) == [1, 2, 6]
    first = file.scores[1]
    assert isnan(first["dev_loss_fer"])
    assert (first["dev_loss_ce"], first["dev_loss_inf"], first["dev_loss_np"]) == (3.5, float("-inf"), 0.5)
    assert isnan(file.scores[2]["dev_loss_ce"])
    assert file.scores[6] == {"old_format_score": 1.5}
    assert file.meta == {
        1: {"device": "cpu", "times": [1, 2.5, None], "sizes": {"a": (1, -2), "on": True}},
        2: {"step": 20},
    }
    assert file.epochs[8].scores == file.epochs[8].meta == {}


def test_a_file_as_a_schedule(tmp_path: Path) -> None:
    made = written(tmp_path, FULL).schedule()
    assert made == pieces(0.001, (epochs(4), 0.25), (epochs(6), 0.125), (epochs(7), 0.0625))
    assert [made.at(Progress(epoch=epoch)) for epoch in (0, 3.9, 4, 5, 6, 7, 99)] == [
        *(0.001, 0.001, 0.25, 0.25, 0.125, 0.0625, 0.0625)
    ]
    assert read(write(made)) == made
    made.check(Extent(epochs=10))


def test_a_file_that_begins_later_or_never_changes(tmp_path: Path) -> None:
    assert written(tmp_path, "{3: 0.5, 4: 0.5}").schedule() == constant(0.5)
    assert written(tmp_path, "{4: 0.25, 3: 0.5}").schedule() == pieces(0.5, (epochs(3), 0.25))


def test_an_empty_file_has_no_schedule(tmp_path: Path) -> None:
    for text in ("", "{}\n"):
        file = written(tmp_path, text)
        assert file.rates == {}
        with pytest.raises(DataError, match="There is no epoch in this learning-rate file"):
            file.schedule()


def test_what_was_read_cannot_be_changed(tmp_path: Path) -> None:
    file = written(tmp_path, FULL)
    with pytest.raises(TypeError):
        file.epochs[1] = file.epochs[2]  # type: ignore[index]
    with pytest.raises(TypeError):
        file.scores[1]["dev_loss_ce"] = 0.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{1: __import__('os').system('touch bad')}",
            r"line 1: __import__\('os'\).system\('touch bad'\): only numbers",
        ),
        (
            "{\n1: 0.5,\n2: EpochData(learningRate=open('x').read())}",
            r"line 3: open\('x'\).read\(\): only numbers.*nothing",
        ),
        ("{1: EpochData(learningRate=1.0, error={'a': [x for x in ()]})}", "line 1: .*: only numbers, text"),
        ("{1: EpochData(learningRate=1.0, error=dict(a=1))}", r"dict\(a=1\): only numbers"),
        ("{1: (lambda: 0.5)()}", "only numbers"),
        ("{1: float(float('1'))}", "only numbers"),
        ("{1: float('1_000')}", "only numbers"),
        ("{1: int('5')}", "only numbers"),
        ("{1: 0.5 + 0.5}", "only numbers"),
        ("{1: f'{0}'}", "only numbers"),
        ("{1: EpochData.__init__}", "only numbers"),
        ("{1: learning_rate}", "learning_rate: only numbers"),
        ("{**{1: 0.5}}", r"\*\* is not known here"),
        ("{1: EpochData(**{'learningRate': 0.5})}", r"EpochData has learningRate= and error=\."),
        ("{1: EpochData(learning_rat=0.5)}", r'has learningRate= and error=\. Nearest: "learningRate"'),
        ("{1: EpochData(error={})}", "EpochData has learningRate= and error="),
        ("{1: EpochData(0.5, {}, {}, {})}", "EpochData has learningRate= and error="),
        ("{1: EpochData(learningRate=nan)}", "nan: a learning rate is a finite number of at least 0"),
        ("{1: -0.5}", "-0.5: a learning rate is a finite number"),
        ("{1: True}", "True: a learning rate is a finite number"),
        ("{1: EpochData(learningRate=None)}", "None: a learning rate is a finite number"),
        ("{0: 0.5}", "line 1: 0: an epoch is a whole number from 1"),
        ("{1: 0.5, 1: 0.25}", "an epoch is a whole number from 1, and stands there once"),
        ("{'1': 0.5}", "an epoch is a whole number"),
        ("{1: EpochData(learningRate=0.5, error={'a': 'b'})}", "the score 'a' is no number"),
        ("{1: EpochData(learningRate=0.5, error={1: 0.5})}", "a dict with names is expected"),
        ("{1: EpochData(learningRate=0.5, error=[1])}", "a dict with names is expected"),
        ("{1: EpochData(learningRate=0.5, error={(1,): 0.5})}", "names and numbers are the keys of a dict"),
        ("{[1]: 0.5}", r"\[1\]: an epoch is a whole number"),
        ("{1: 1" + "0" * 400 + "}", "no learning-rate file of RETURNN: int too large"),
        ("{1: " + "-" * 901 + "1}", "no learning-rate file of RETURNN|a learning rate is"),
        ("  {\n1: 'a'}", "line 2: 'a': a learning rate is a finite number"),
        ("[0.5, 0.25]", "this is no dict. Expected is a dict from epochs to EpochData"),
        ("{1: 0.5", "line 1: no learning-rate file of RETURNN: '{' was never closed. Expected is a dict"),
        ("import os", "no learning-rate file of RETURNN: invalid syntax"),
        ("{1: " + "-" * 5000 + "1}", "no learning-rate file of RETURNN|only numbers"),
    ],
)
def test_anything_else_is_refused_and_nothing_is_run(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        written(tmp_path, text)
    assert [path.name for path in tmp_path.iterdir()] == ["learning_rates"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"learning-rate file cannot be read: .*No such file"):
        rate_file(tmp_path / "nothing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="learning-rate file cannot be read"):
        rate_file(tmp_path / "binary")


# options


def test_the_options_as_a_schedule() -> None:
    assert newbob_from({"learning_rate": 0.01}) == constant(0.01)
    made = newbob_from({"learning_rate": 0.01, "learning_rates": {3: 0.5, 2: 0.1}, "min_learning_rate": 0.05})
    assert made == pieces(0.05, (epochs(1), 0.1), (epochs(2), 0.5))
    assert newbob_from({"learning_rates": [0.1, 0.1]}) == constant(0.1)
    made = newbob_from(
        {
            "learning_rate": 0.01,
            "learning_rate_control": "newbob_multi_epoch",
            "newbob_multi_num_epochs": 4,
            "newbob_learning_rate_decay": 0.7,
            "newbob_relative_error_div_by_old": True,
            "learning_rate_control_min_num_epochs_per_new_lr": 3,
            "learning_rate_control_relative_error_relative_lr": True,
        },
        "val.ce",
    )
    assert made == newbob(
        *("val.ce", "min"),
        start=0.01,
        decay=0.7,
        window=4,
        every=4,
        hold=3,
        scaled_by_value=True,
    )
    made = newbob_from({"learning_rate": 1.0, "learning_rate_control": "newbob_abs"}, "val.accuracy")
    assert made == newbob("val.accuracy", "max", relative=False)
    assert read(write(made)) == made


def rules(scores: Any = None, **options: Any) -> frozenset[str]:
    """The names of the scores that rule."""
    return newbob_from({"learning_rate": 1.0, "learning_rate_control": "newbob", **options}, scores).listens


def test_which_score_rules() -> None:
    measure = "learning_rate_control_error_measure"
    assert rules("anything_loss") == {"anything_loss"}
    assert rules(["epoch.loss", "val.loss"]) == {"val.loss"}
    assert rules(["epoch.loss"]) == {"epoch.loss"}
    assert rules(["val.ce", "val.ctc"], **{measure: "dev_loss_ctc"}) == {"val.ctc"}
    assert rules(["val.ce", "val.ctc"], **{measure: ["val.none", "val.ce"]}) == {"val.ce"}
    assert rules(["dev_score_output", "dev_error"], **{measure: "dev_score"}) == {"dev_score_output"}
    assert rules(**{measure: "dev_loss_ce"}) == {"val.ce"}
    assert rules(**{measure: "dev_score_output"}) == rules(**{measure: "dev_score"}) == {"val.loss"}
    assert rules(**{measure: "dev_error"}) == {"val.error_rate"}
    assert rules(**{measure: "train_score"}) == {"epoch.loss"}
    assert rules(**{measure: "train_loss_ce"}) == {"epoch.ce"}
    assert rules(**{measure: "val.other"}) == {"val.other"}


NEWBOB: Mapping[str, Any] = {"learning_rate": 1.0, "learning_rate_control": "newbob"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: newbob_from({**NEWBOB, "newbob_decay": 0.5}, "val.loss"),
            "no option of RETURNN for learning rates 'newbob",
        ),
        (lambda: newbob_from({"learning_rat": 1.0}), "'learning_rat'. Nearest: \"learning_rate\""),
        (
            lambda: newbob_from({"learning_rate_control": "newbob_multi"}),
            'no such control.*Nearest: "newbob_multi_epoch"',
        ),
        (
            lambda: newbob_from({**NEWBOB, "newbob_error_threshold": -0.1}, "a"),
            "newbob_error_threshold: of no use to learn",
        ),
        (
            lambda: newbob_from({"learning_rate": 1.0, "learning_rate_decay": 0.5}),
            "of no use to .*'constant'. Leave it out",
        ),
        (lambda: newbob_from({}), "learning_rate is missing, and RETURNN's default, 1.0"),
        (lambda: newbob_from({"learning_rates": {2: 0.5}}), "learning_rate is missing"),
        (lambda: newbob_from({"learning_rate": "a"}), "epoch 1 is 'a': a finite number of at least 0 is needed"),
        (lambda: newbob_from({"learning_rate": -1.0}), "epoch 1 is -1.0: a finite number of at least 0 is needed"),
        (lambda: newbob_from({"learning_rates": 0.5}), "a list from epoch 1, or a dict from epoch to rate, is needed"),
        (
            lambda: newbob_from({"learning_rates": {0: 0.5}}),
            "learning_rates={0: 0.5}: epochs are whole numbers from 1, and rates are numbers",
        ),
        (lambda: newbob_from({"learning_rates": ["a"]}), "learning_rates={1: 'a'}: epochs are whole numbers"),
        (
            lambda: newbob_from(NEWBOB),
            r"No score is said to rule the learning rate. Write newbob_from\(options, 'val.loss'\)",
        ),
        (lambda: newbob_from(NEWBOB, []), "No score is said to rule"),
        (
            lambda: newbob_from(NEWBOB, ["val.a", "val.b"]),
            "Which of 'val.a', 'val.b' rules the learning rate is not said",
        ),
        (lambda: newbob_from([]), "a dict of RETURNN's options is needed"),  # type: ignore[arg-type]
        (
            lambda: newbob_from({**NEWBOB, "newbob_relative_error_threshold": "a"}, "val.loss"),
            "a number is needed. Write -0.01",
        ),
        (lambda: piecewise_linear({}), r"points are needed. Write piecewise_linear\(\{0: 1.0, 1000: 0.1\}\)"),
        (lambda: piecewise_linear([(0, 1)]), "points are needed"),  # type: ignore[arg-type]
    ],
)
def test_wrong_options(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


def test_what_newbob_refuses_is_refused() -> None:
    with pytest.raises(ScheduleError, match="decay must be above 0"):
        newbob_from({**NEWBOB, "learning_rate_decay": 0}, "val.loss")
    with pytest.raises(ScheduleError, match="window is a whole number of looks"):
        newbob_from({**NEWBOB, "learning_rate_control": "newbob_multi_epoch", "newbob_multi_num_epochs": 0}, "val.loss")


# points


def test_lines_between_points() -> None:
    made = piecewise_linear({4: 2.0, 1: 0.0, 2: 1.0}, epochs)
    assert [made.at(Progress(epoch=x)) for x in (0, 1, 1.5, 2, 3, 4, 9)] == [0, 0, 0.5, 1, 1.5, 2, 2]
    assert read(write(made)) == made
    made.check(Extent(epochs=9))
    assert piecewise_linear({0: 1.0, 2: 0.0}, epochs) == linear(1.0, 0.0, over=epochs(2))
    assert piecewise_linear({7: 0.5}) == constant(0.5)
    with pytest.raises(ScheduleError, match="not below 0"):
        piecewise_linear({-1: 0.5, 1: 1.0})


def test_the_names_there_are() -> None:
    assert etude.returnn.__all__ == ["EpochRecord", "RateFile", "newbob_from", "piecewise_linear", "rate_file"]
