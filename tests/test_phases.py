"""Rows of a recipe: several settings together, for shares of the run."""

from __future__ import annotations

import pytest

from etude import Extent, Progress, epochs, linear, minutes, read, steps, write
from etude.errors import EtudeError, ScheduleError, SettingError
from etude.values.phases import Phases, phase, phases


def recipe() -> Phases:
    return phases(
        phase(0.25, learning_rate=linear(0, 1), batch_size=8),
        phase(0.5, learning_rate=1.0, batch_size=16),
        phase(0.25, learning_rate=linear(1, 0), batch_size=32),
    )


def at(name: str, step: int, total: int) -> float:
    value: float = recipe()[name].at(Progress(step, extent=Extent(steps=total)))
    return value


@pytest.mark.parametrize("total", [40, 400])
def test_a_recipe_stretches_with_the_run(total: int) -> None:
    quarter = total // 4
    assert [at("batch_size", step, total) for step in (0, quarter - 1, quarter, 3 * quarter - 1, 3 * quarter)] == [
        *(8, 8, 16, 16, 32)
    ]
    assert at("learning_rate", 0, total) == 0
    assert at("learning_rate", quarter // 2, total) == pytest.approx(0.5)
    assert at("learning_rate", quarter, total) == 1
    assert at("learning_rate", 3 * quarter + quarter // 2, total) == pytest.approx(0.5)


def test_a_curve_in_a_phase_ends_with_it() -> None:
    made = phases(phase(steps(10), p=linear(0, 1)), phase(steps(10), p=linear(5, 6)))["p"]
    values = [made.at(Progress(step, extent=Extent(steps=100))) for step in (0, 5, 10, 15, 20, 50)]
    assert values == pytest.approx([0, 0.5, 5, 5.5, 6, 6])


def test_columns_are_given_on_as_keywords() -> None:
    made = recipe()
    assert list(made) == ["learning_rate", "batch_size"]
    assert len(made) == 2
    assert dict(**made) == made.only("learning_rate", "batch_size")
    assert made.but("batch_size") == {"learning_rate": made["learning_rate"]}
    assert [span.amount for span in made.starts] == [0, 0.25, 0.75]


def test_a_recipe_of_one_phase_is_its_values() -> None:
    assert phases(phase(1, p=0.1))["p"].at(Progress()) == 0.1


def test_columns_have_a_text_form() -> None:
    made = recipe()["learning_rate"]
    assert read(write(made)) == made


def test_a_recipe_prints_as_it_is_written() -> None:
    made = phases(phase(epochs(2), p=0.1), phase(epochs(1), p=0.2))
    assert repr(made) == "phases(phase(epochs(2), p=constant(0.1)), phase(epochs(1), p=constant(0.2)))"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: phases(), "no phase"),
        (lambda: phases(0.5), "is no phase"),
        (lambda: phases(phase(0.5, p=1), phase(0.4, p=2)), "0.5 + 0.4 = 0.9, and have to add up to 1"),
        (lambda: phases(phase(0.5, momentum=1), phase(0.5, momentun=2)), "phase 2 does not set 'momentum'"),
        (lambda: phases(phase(0.5, p=1), phase(0.5, p=1, q=2)), "phase 2 sets 'q' too"),
        (lambda: phases(phase(0.5, p=1), phase(steps(3), p=1)), "Write all durations in one unit"),
        (lambda: phases(phase(0.5, p=1), phase(0.5, p=True)), "mixed"),
        (lambda: phase(0, p=1), "above 0 and up to 1"),
        (lambda: phase(1.5, p=1), "above 0 and up to 1"),
        (lambda: phase(minutes(1), p=1), "by the clock"),
        (lambda: phase(0.5), "nothing is set"),
        (lambda: phase(0.5, p=[1]), "cannot be the value of a schedule"),
    ],
)
def test_what_is_no_recipe(wrong: object, message: str) -> None:
    with pytest.raises(ScheduleError, match=message.replace("+", r"\+").replace(".", r"\.")):
        wrong()  # type: ignore[operator]


def test_a_setting_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(SettingError, match='Nearest: "batch_size"') as raised:
        recipe()["batchsize"]
    assert isinstance(raised.value, KeyError)
    assert isinstance(raised.value, EtudeError)
    assert recipe().get("batchsize") is None
