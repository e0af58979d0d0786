"""Names of checkpoints: their grammar, there and back, their order, and what is no name."""

from __future__ import annotations

import re
from math import inf, isnan, nan
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from effort import examples
from etude.errors import StateError
from etude.keep.names import Name, start_now

quick = settings(max_examples=examples(200), deadline=None)
START = "2021-06-21T10-15-30"
GRAMMAR = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d_\d+_\d+_\d+_[^_]+(_[^_]+)?\.safetensors"


def named(step: int = 16, **changed: Any) -> Name:
    return Name(**{"start": START, "counter": 1, "epoch": 4, "step": step, "loss": 0.1234, "val": None, **changed})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (named(), "2021-06-21T10-15-30_1_0004_00000016_1.234e-01.safetensors"),
        (named(val=0.23), "2021-06-21T10-15-30_1_0004_00000016_1.234e-01_2.300e-01.safetensors"),
        (named(val=nan), "2021-06-21T10-15-30_1_0004_00000016_1.234e-01_nan.safetensors"),
        (named(loss=-inf, val=inf), "2021-06-21T10-15-30_1_0004_00000016_-inf_inf.safetensors"),
        (named(loss=-12345.6), "2021-06-21T10-15-30_1_0004_00000016_-1.235e+04.safetensors"),
        (named(loss=1e-200), "2021-06-21T10-15-30_1_0004_00000016_1.000e-200.safetensors"),
        (named(again=2), "2021-06-21T10-15-30_1_0004_00000016_1.234e-01-2.safetensors"),
        (named(val=nan, again=13), "2021-06-21T10-15-30_1_0004_00000016_1.234e-01_nan-13.safetensors"),
        (named(step=123456789, epoch=12345), "2021-06-21T10-15-30_1_12345_123456789_1.234e-01.safetensors"),
    ],
)
def test_the_text_of_a_name(name: Name, text: str) -> None:
    assert name.text() == text
    assert Name.parse(text) == name
    assert re.fullmatch(GRAMMAR, text)


def test_a_validation_loss_that_is_not_measured_yet_has_its_place() -> None:
    """The number of fields tells whether there were validation data."""
    waiting, none = Name.parse(named(val=nan).text()), Name.parse(named().text())
    assert waiting is not None
    assert waiting.val is not None
    assert isnan(waiting.val)
    assert none is not None
    assert none.val is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".lock",
        "model.safetensors",
        ".etude-0badcafe.part",
        named().text() + ".damaged",
        named().text() + "\n",
        "x" + named().text(),
        "../" + named().text(),
        named().text().replace("safetensors", "pt"),
        named().text().replace("_00000016_", "_000000016_"),
        named().text().replace("_00000016_", "_16_"),
        named().text().replace("_0004_", "_4_"),
        named().text().replace("_1_", "_01_"),
        named().text().replace("_1_", "_-1_"),
        named().text().replace("_1_", "_١_"),
        named().text().replace("1.234e-01", "0.1234"),
        named().text().replace("1.234e-01", "1.2e-01"),
        named().text().replace("1.234e-01", "0.234e-01"),
        named().text().replace("1.234e-01", "1.234e-01-1"),
        named().text().replace("1.234e-01", "1.234e-01-02"),
        named().text().replace("1.234e-01", "1.234e-01_"),
        named().text().replace("1.234e-01", "1.234e-01_1.000e+00_1.000e+00"),
        named().text().replace("T10-15-30", "T10:15:30"),
    ],
)
def test_other_files_of_a_folder_have_no_name(text: str) -> None:
    assert Name.parse(text) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"start": "../../2021"}, r"'\.\./\.\./2021' is no start of a run\. Write it as '2021-06-21T10-15-30'"),
        ({"start": START + "\n"}, "is no start of a run"),
        ({"start": "٢٠٢١-06-21T10-15-30"}, "is no start of a run"),
        ({"start": None}, "None is no start of a run"),
        ({"counter": -1}, r"Name\(counter=-1\): a whole number of at least 0 is needed"),
        ({"epoch": 1.5}, r"Name\(epoch=1\.5\)"),
        ({"step": True}, r"Name\(step=True\)"),
        ({"again": 0}, r"Name\(again=0\): a whole number of at least 1 is needed"),
    ],
)
def test_what_could_not_be_found_again_is_no_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(StateError, match=message):
        named(**{"step": 3, **changed})


def test_the_order_is_that_of_saving() -> None:
    ordered = [
        named(step=4, start="2020-06-21T10-15-30", counter=7),
        named(step=4, epoch=1),
        named(step=8, epoch=1, loss=9.0),
        named(step=8, epoch=1, loss=9.0, again=2),
        named(step=8, epoch=1, loss=9.0, again=10),
        named(step=12, epoch=2, loss=0.1),
        named(step=4, counter=2),
        named(step=4, counter=10),
    ]
    assert sorted([*ordered[3:], *ordered[:3]]) == ordered
    assert max(ordered) == ordered[-1]


def test_names_of_one_text_are_one() -> None:
    assert named(loss=0.12341) == named(loss=0.12339)
    assert len({named(val=nan), named(val=float("nan")), named()}) == 2
    assert named() != named().text()
    with pytest.raises(TypeError):
        assert named() < named().text()


def test_the_start_is_the_time_in_utc() -> None:
    assert start_now(lambda: 1624270530.9) == START
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", start_now())
    assert Name(start_now(), 1, 0, 0, nan).text()


# ---------------------------------------------------------------------------------------------------------- laws

losses = st.floats(width=64)
names = st.builds(
    Name,
    st.datetimes().map(lambda at: f"{at.year:04d}-{at:%m-%dT%H-%M-%S}"),
    st.integers(0, 99),
    st.integers(0, 10**5),
    st.integers(0, 10**9),
    losses,
    st.none() | losses,
    st.integers(1, 99),
)


@quick
@given(names)
@example(named(loss=5e-324, val=-0.0, again=2))
@example(named(loss=9.9996e99))
@example(named(loss=-1.7976e308))
def test_text_and_back_is_the_same_name(name: Name) -> None:
    assert Name.parse(name.text()) == name
    assert re.fullmatch(GRAMMAR, name.text())
    assert "/" not in name.text()


@quick
@given(st.text(max_size=80))
def test_no_text_but_its_own_is_a_name(text: str) -> None:
    found = Name.parse(text)
    assert found is None or found.text() == text


@quick
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99_999_999), losses), min_size=2, max_size=9, unique=True),
)
def test_texts_are_in_the_order_of_names(saves: list[tuple[int, int, float]]) -> None:
    """As far as the fields are wide enough; of equal steps the first has no number behind it, so they are left out."""
    made = {(counter, step): Name(START, counter, 0, step, loss) for counter, step, loss in saves}
    assert sorted(made.values(), key=Name.text) == sorted(made.values())
