"""Learning rates recorded from RETURNN: its controls, files and piecewise curves, said in this library's schedules.

Where RETURNN does what nobody wants (a rate that grows after NaN, an error after a perfect score, ...) the better
behaviour is tested instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from etude.errors import EtudeError, ScheduleError, SettingError
from etude.returnn import newbob_from, piecewise_linear, rate_file
from etude.values.curves import exponential
from etude.values.progress import Progress
from etude.values.schedule import Schedule, cycle
from etude.values.spans import steps

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "returnn_rates.json").read_text())
CASES = {case["id"].removeprefix("dev/"): case for case in RECORDED["lr_control"]}
CALLABLES: dict[str, Callable[[float], float]] = {
    "halve_above_1e-3_else_times_0.9": lambda rate: rate * (0.5 if rate > 1e-3 else 0.9),
    "cap_growth_1.2_at_0.02": lambda rate: min(rate * 1.2, 0.02),
}
TOLERANCE = 1e-6

Rates = list[float]
Scores = list[dict[str, float] | None]


def options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a case, with epochs as numbers and functions as functions."""
    made: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and "callable" in value:
            value = CALLABLES[value["callable"]]
        elif name == "learning_rates" and isinstance(value, dict):
            value = {int(epoch): rate for epoch, rate in value.items()}
        made[name] = value
    return made


def scores(case: Mapping[str, Any]) -> Scores:
    """The scores of each epoch: nested ones under joined names, NaN and infinities as numbers; None for none."""
    return [None if told is None else dict(flat(told)) for told in case["scores"]]


def flat(told: Mapping[str, Any]) -> Any:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from ((f"{name}_{key.split(':')[-1]}", float(each)) for key, each in value.items())
        else:
            yield name, float(value)


def names(told: Scores) -> list[str]:
    return list(dict.fromkeys(name for each in told if each for name in each))


def first_half_way(epoch: int) -> Progress:
    return Progress(epoch=epoch - 0.5)


def fold(made: Schedule, told: Scores, *, begun: int = 0, memory: Any = None) -> tuple[Rates, Any]:
    """The rate of each epoch from `begun` + 1 to the one after the last, and what is remembered then.

    An epoch without any score is told as one in which nothing could be measured.
    """
    memory = made.start() if memory is None else memory
    rates = [made.at(first_half_way(begun + 1), memory)]
    for epoch, metrics in enumerate(told, begun + 1):
        nothing: dict[str, Any] = dict.fromkeys(made.listens)
        memory = made.see(memory, metrics or nothing, Progress(step=epoch, epoch=epoch))
        assert made.at(Progress(epoch=epoch), memory) == made.at(first_half_way(epoch + 1), memory)
        rates.append(made.at(first_half_way(epoch + 1), memory))
    return rates, memory


def rates(made: Schedule, told: Scores) -> Rates:
    return fold(made, told)[0]


def of(case: Mapping[str, Any], measured: list[str] | None = None) -> Schedule:
    return newbob_from(options(case["settings"]), measured or names(scores(case)))


def expected(case: Mapping[str, Any]) -> Any:
    return pytest.approx(case["expect"]["learning_rates"], rel=TOLERANCE)


GUESSED = {
    # Here RETURNN guesses, and there is a choice: it is said which score is meant.
    "score_key_changes_between_epochs": ["dev_loss_a", "dev_loss_b"],
    "tf_style_scores": ["dev_score_output"],
}
RESUMED_OTHERWISE = "resume_with_changed_list_sets_later_epoch"
PLAIN = [name for name, case in CASES.items() if case["kind"] == "reference" and name != RESUMED_OTHERWISE]


@pytest.mark.parametrize("name", PLAIN)
def test_the_rates_are_those_of_returnn(name: str) -> None:
    case = CASES[name]
    made = said(case, name)
    assert rates(made, scores(case)) == expected(case)


def said(case: Mapping[str, Any], name: str) -> Schedule:
    given = options(case["settings"])
    if name in GUESSED:
        given["learning_rate_control_error_measure"] = GUESSED[name]
    return newbob_from(given, names(scores(case)))


@pytest.mark.parametrize("name", PLAIN)
def test_interrupted_anywhere_the_rates_are_the_same(name: str) -> None:
    case = CASES[name]
    told, made = scores(case), said(case, name)
    whole = rates(made, told)
    for stop in {1, 2, len(told) // 2, len(told) - 1, case.get("resume_after", 3)}:
        before, memory = fold(made, told[:stop])
        kept = json.loads(json.dumps(memory, allow_nan=False))
        after, _ = fold(said(case, name), told[stop:], begun=stop, memory=kept)
        assert before[:-1] + after == whole


def test_epochs_pinned_when_it_goes_on_count_from_there() -> None:
    case = CASES[RESUMED_OTHERWISE]
    told, stop = scores(case), case["resume_after"]
    before, memory = fold(of(case), told[:stop])
    changed = newbob_from(options(case["settings_after_resume"]), names(told))
    after, _ = fold(changed, told[stop:], begun=stop, memory=memory)
    assert before[:-1] + after == expected(case)


# ------------------------------------------------------------- where RETURNN does what it should not: what is better


def test_scores_among_which_there_is_a_choice_are_not_guessed_at() -> None:
    case = CASES["score_key_default_is_alphabetically_first_dev_key"]
    with pytest.raises(
        SettingError, match="'dev_loss_ctc', 'dev_loss_ce', 'dev_loss_fer' rules the learning rate is not"
    ):
        of(case)


@pytest.mark.parametrize("name", GUESSED)
def test_nor_where_returnn_prefers_one(name: str) -> None:
    with pytest.raises(SettingError, match="the learning rate is not said"):
        of(CASES[name])


def test_a_misspelt_score_is_refused() -> None:
    case = CASES["score_key_misspelt_is_silent"]
    with pytest.raises(
        SettingError, match=r"'dev_loss_xyz': no such score is measured\. Measured are 'train_loss_ce', .* Nea"
    ):
        of(case)


def test_a_new_rate_holds_when_it_goes_on() -> None:
    case = CASES["resume_with_changed_learning_rate_is_ignored"]
    told, stop = scores(case), case["resume_after"]
    before, memory = fold(of(case), told[:stop])
    after, _ = fold(newbob_from(options(case["settings_after_resume"])), told[stop:], begun=stop, memory=memory)
    assert before[:-1] + after == [0.01] * 3 + [0.1] * 4


def test_a_score_of_0_is_a_score() -> None:
    # No change of 0 is no change: it decays, as after any other score that did not improve.
    assert rates(of(CASES["zero_score"]), scores(CASES["zero_score"])) == [0.01, 0.01, 0.01, 0.01, 0.005, 0.0025]
    case = CASES["zero_score_div_by_old"]
    assert rates(of(case), scores(case)) == [0.01, 0.01, 0.01, 0.005, 0.0025]


def test_nan_is_no_improvement() -> None:
    case = CASES["nan_score_counts_as_improvement"]
    # 2, 1 (better), NaN, NaN, 1 (against the last finite score, 1), 0.5 (better).
    found = rates(of(case), scores(case))
    assert found == pytest.approx([0.01, 0.01, 0.015, 0.0075, 0.00375, 0.001875, 0.0028125])


def test_an_infinite_score_is_no_improvement() -> None:
    case = CASES["inf_score"]
    # 2, 1 (better), inf, 1 (against 1), 0.5 (better).
    assert rates(of(case), scores(case)) == [0.01, 0.01, 0.01, 0.005, 0.0025, 0.0025]


def test_a_minimum_above_the_rate_is_refused() -> None:
    with pytest.raises(ScheduleError, match=r"low=0.02 is above the start 0.01: a decay would raise it"):
        of(CASES["min_learning_rate_above_initial"])


def test_a_minimum_bounds_the_listed_rates_too() -> None:
    case = CASES["min_learning_rate_not_applied_to_list"]
    assert rates(of(case), scores(case)) == [0.01] * 5


def test_thresholds_that_contradict_one_another_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(ScheduleError, match=r"an improvement between -0\.5 and 0\.05 would both decay and grow"):
        of(CASES["grow_threshold_above_decay_threshold"])


def test_whole_numbers_are_numbers() -> None:
    case = CASES["int_decay"]
    assert rates(of(case), scores(case)) == [0.01] * 4
    case = CASES["int_in_list"]
    assert rates(of(case), scores(case)) == [1, 0.5, 0.5, 0.5]


def test_a_rate_that_would_stay_at_0_for_ever_is_refused() -> None:
    with pytest.raises(ScheduleError, match="after epoch 2 it would stay at 0 for ever"):
        of(CASES["zero_rate_then_list_only"])


def test_an_unknown_control_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingError, match=r"'cosine': there is no such control\. There are 'constant', 'newbob'"):
        of(CASES["unknown_control"])


def test_every_recorded_case_is_tested() -> None:
    better = {name for name, case in CASES.items() if case["kind"] == "quirk"}
    assert len(CASES) == 59
    assert better == {
        *("score_key_default_is_alphabetically_first_dev_key", "score_key_misspelt_is_silent", "zero_score"),
        *("resume_with_changed_learning_rate_is_ignored", "zero_score_div_by_old", "inf_score", "unknown_control"),
        *("nan_score_counts_as_improvement", "min_learning_rate_above_initial", "int_decay", "int_in_list"),
        *("min_learning_rate_not_applied_to_list", "grow_threshold_above_decay_threshold", "zero_rate_then_list_only"),
    }
    assert len(PLAIN) + 1 + len(better) == 59


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("case", RECORDED["lr_file"], ids=lambda case: case["id"])
def test_files_are_read_without_running_them(case: Mapping[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "learning_rates"
    path.write_text(case["text"])
    found = rate_file(path)
    assert list(found.epochs) == sorted(map(int, case["expect"]))
    for epoch, record in found.epochs.items():
        wanted = case["expect"][str(epoch)]
        assert record.rate == wanted["learning_rate"]
        assert record.meta == wanted["meta"]
        assert {name: str(value) for name, value in record.scores.items()} == {
            name: str(float(value)) for name, value in wanted["scores"].items()
        }


# ----------------------------------------------------------------------------------------------------------- by step


@pytest.mark.parametrize("case", RECORDED["tf_cyclic_learning_rate"], ids=lambda case: case["id"])
def test_cyclic_rates_are_a_cycle_of_an_exponential(case: Mapping[str, Any]) -> None:
    rate, count, decay = (case["settings"][name] for name in ("learning_rate", "interval", "decay"))
    made = cycle(exponential(rate, rate * decay**count, over=steps(count)))
    found = [made.at(Progress(step)) for step in range(len(case["rates_by_step"]))]
    assert found == pytest.approx(case["rates_by_step"], rel=TOLERANCE)


@pytest.mark.parametrize("case", RECORDED["piecewise_linear"], ids=lambda case: case["id"])
def test_piecewise_linear_numbers(case: Mapping[str, Any]) -> None:
    made = piecewise_linear(dict(case["settings"]["points"]))
    found = [made.at(Progress(step=x)) for x in case["x"]]
    assert found == pytest.approx(case["expect"], rel=TOLERANCE)
    assert all(math.isfinite(value) for value in found)


def test_errors_are_those_of_the_library() -> None:
    for name in ("unknown_control", "zero_rate_then_list_only", "min_learning_rate_above_initial"):
        with pytest.raises(EtudeError):
            of(CASES[name])
