"""Knobs: scheduled attributes of modules and of the user's own objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import etude
from etude import (
    INHERIT,
    Directory,
    cosine,
    epochs,
    every,
    everything,
    linear,
    part,
    pieces,
    plateau,
    steps,
    times,
)
from etude.bind.knobs import Knobs, read_knobs
from etude.errors import EtudeError, PartError, PlanError, RuleError, ScheduleError, SettingError, StateError
from etude.run.events import Settled
from etude.run.reachable import reached
from etude.values.progress import Extent, Progress
from etude.values.tree import Tree

EXTENT = Extent(steps=100, epochs=10.0)
X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class Scaled(nn.Module):
    """Numbers of every kind as attributes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.drop = nn.Linear(4, 4), nn.Dropout(0.1)
        self.inner = nn.Sequential(nn.Dropout(0.4), nn.Linear(4, 1))
        self.temperature, self.times, self.sharp, self.mode = 1.0, 2, False, "mean"
        self.register_buffer("gain", torch.tensor(1.0))
        self.slope = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.drop(self.layer(x))) * self.temperature * self.gain * self.slope


@dataclass(eq=True)
class Augment:
    """An object of the user's own, which cannot be a key of a dict."""

    strength: float = 0.0


@dataclass(frozen=True)
class Sealed:
    strength: float = 0.0


class Guarded:
    """A value behind a property, which looks at what it is given."""

    def __init__(self) -> None:
        self._level = 0.5

    @property
    def level(self) -> float:
        return self._level

    @level.setter
    def level(self, value: float) -> None:
        if value > 2:
            raise ValueError("too much")
        self._level = value

    @property
    def seen(self) -> float:
        return self._level


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def at(step: int) -> Progress:
    return Progress(step, step / 10, extent=EXTENT)


def knobs(net: nn.Module, literal: Any, **options: Any) -> Knobs:
    return Knobs(Tree(net), literal, EXTENT, **options)


# ------------------------------------------------------------------------------------------------ what is written


def test_every_module_of_a_part_follows_the_schedule() -> None:
    net = Scaled()
    made = knobs(net, {"p": {nn.Dropout: linear(0, 0.2)}})
    made.write(at(50))
    assert net.drop.p == net.inner[0].p == pytest.approx(0.1)
    assert made.values == {"p": net.drop.p}


def test_making_knobs_writes_nothing() -> None:
    net, augment, guarded = Scaled(), Augment(), Guarded()
    knobs(net, {"p": 0.9, "gain": 3.0, "strength": [(augment, 1.0)], "level": [(guarded, linear(0.6, 1.5))]})
    assert (net.drop.p, float(net.gain), augment.strength, guarded.level) == (0.1, 1.0, 0.0, 0.5)


def test_the_first_rule_that_has_a_module_decides() -> None:
    net = Scaled()
    made = knobs(net, {"p": {"inner": 0.5, nn.Dropout: 0.25}})
    made.write(at(0))
    assert (net.inner[0].p, net.drop.p) == (0.5, 0.25)
    assert made.values == {"p[inner]": 0.5, "p[Dropout]": 0.25}


def test_a_part_has_its_node_and_everything_under_it() -> None:
    net = Scaled()
    knobs(net, {"p": {part("inner"): 0.7}}).write(at(0))
    assert (net.inner[0].p, net.drop.p) == (0.7, 0.1)


def test_inherit_leaves_a_module_as_it_is() -> None:
    net = Scaled()
    made = knobs(net, {"p": {"inner": INHERIT, everything: 0.0}})
    made.write(at(0))
    assert (net.inner[0].p, net.drop.p) == (0.4, 0.0)
    assert list(made.values) == ["p[everything]"]


def test_times_is_relative_to_what_each_module_began_with() -> None:
    net = Scaled()
    made = knobs(net, {"p": {nn.Dropout: times(linear(1, 0))}})
    made.write(at(0))
    made.write(at(50))
    assert (net.drop.p, net.inner[0].p) == (pytest.approx(0.05), pytest.approx(0.2))
    assert made.values == {"p": pytest.approx(0.5)}  # modules that began differently: the factor is told
    alone = knobs(Scaled(), {"temperature": times(3)})
    alone.write(at(0))
    assert alone.values == {"temperature": 3.0}


def test_each_kind_of_value_keeps_its_kind() -> None:
    net = Scaled()
    literal = {
        "times": pieces(1, (steps(10), 3)),
        "sharp": pieces(False, (steps(10), True)),
        "mode": pieces("sum", (steps(10), "mean")),
    }
    made = knobs(net, literal)
    made.write(at(0))
    assert (net.times, net.sharp, net.mode) == (1, False, "sum")
    made.write(at(10))
    assert (net.times, net.sharp, net.mode) == (3, True, "mean")
    assert type(net.times) is int
    assert type(net.sharp) is bool
    assert made.numbers == {"times": 3.0, "sharp": 1.0}


def test_a_whole_number_may_come_as_a_float() -> None:
    net = Scaled()
    knobs(net, {"times": lambda progress: progress.step // 10 * 1.0}).write(at(20))
    assert net.times == 2
    assert type(net.times) is int


def test_numbers_of_numpy_become_pythons_own() -> None:
    net = Scaled()
    knobs(net, {"temperature": lambda progress: np.float32(0.5)}).write(at(0))
    assert type(net.temperature) is float


def test_a_whole_probability_may_become_a_fraction() -> None:
    net = nn.Sequential(nn.Dropout(0), nn.Linear(2, 2))
    knobs(net, {"p": linear(0, 0.2)}).write(at(50))
    assert net[0].p == pytest.approx(0.1)


def test_a_buffer_is_filled_in_place_also_after_it_was_moved() -> None:
    net = Scaled()
    before = net.gain
    made = knobs(net, {"gain": linear(1, 3)})
    made.write(at(50))
    assert net.gain is before
    assert float(net.gain) == 2.0
    net.gain = torch.tensor(0.0)
    made.write(at(75))
    assert float(net.gain) == 2.5


def test_objects_of_the_users_own() -> None:
    net, augment, guarded, loss = Scaled(), Augment(), Guarded(), nn.CrossEntropyLoss()
    literal = {
        "strength": [(augment, linear(0, 1))],
        "level": {guarded: linear(0, 1)},
        "label_smoothing": {loss: linear(0.2, 0)},
    }
    made = knobs(net, literal)
    made.write(at(50))
    assert (augment.strength, guarded.level, loss.label_smoothing) == (0.5, 0.5, 0.1)
    assert made.values == {"strength": 0.5, "level": 0.5, "label_smoothing": 0.1}


def test_what_is_as_before_is_not_set() -> None:
    seen: list[float] = []

    class Counting:
        def __init__(self) -> None:
            self._x = 0.0

        @property
        def x(self) -> float:
            return self._x

        @x.setter
        def x(self, value: float) -> None:
            seen.append(value)
            self._x = value

    made = knobs(Scaled(), {"x": [(Counting(), pieces(1.0, (steps(10), 2.0)))]})
    seen.clear()
    for step in range(20):
        made.write(at(step))
    assert seen == [1.0, 2.0]


def test_again_writes_what_somebody_else_has_changed() -> None:
    net = Scaled()
    made = knobs(net, {"gain": 2.0})
    made.write(at(0))
    with torch.no_grad():
        net.gain.fill_(7.0)
    made.write(at(1))
    assert float(net.gain) == 7.0
    made.again()
    made.write(at(2))
    assert float(net.gain) == 2.0


def test_a_moment_can_be_tried() -> None:
    net = Scaled()
    made = knobs(net, {"p": linear(0, 0.2), "gain": linear(1, 3)})
    made.write(at(0))
    with made.tried(at(50)):
        assert (net.drop.p, float(net.gain)) == (pytest.approx(0.1), 2.0)
    with pytest.raises(ZeroDivisionError), made.tried(at(50)):
        _ = 1 / 0
    assert (net.drop.p, net.inner[0].p, float(net.gain)) == (0.0, 0.0, 1.0)
    assert made.values == {"p": 0.0, "gain": 1.0}


def test_a_knob_that_listens() -> None:
    net = Scaled()
    made = knobs(net, {"temperature": plateau("val.loss", factor=0.5, patience=0) * 2.0})
    made.write(at(0))
    for score in (1.0, 1.0):
        made.see({"val.loss": score}, at(1))
    made.write(at(1))
    assert net.temperature == 1.0
    other, fresh = Scaled(), Scaled()
    taken = knobs(other, {"temperature": plateau("val.loss", factor=0.5, patience=0) * 2.0})
    taken.load(made.state())
    assert other.temperature == 1.0
    taken.see({"val.loss": 1.0}, at(2))
    taken.write(at(2))
    assert (other.temperature, fresh.temperature) == (0.5, 1.0)


def test_a_state_has_what_times_is_relative_to() -> None:
    net = Scaled()
    made = knobs(net, {"p": {nn.Dropout: times(linear(1, 0))}})
    made.write(at(50))
    # The same net, as it was left: a fifth of what is there now would be wrong.
    later = knobs(net, {"p": {nn.Dropout: times(linear(1, 0))}})
    later.load(made.state())
    later.write(at(75))
    assert (net.drop.p, net.inner[0].p) == (pytest.approx(0.025), pytest.approx(0.1))


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"written": {}}, "no state of knobs"),
        ({"memory": {}, "written": {"p": "much"}, "starts": {}}, "does not fit"),
        ({"memory": {}, "written": {}, "starts": {"p": [1.0]}}, "is for 1 attributes, here are 2"),
    ],
)
def test_a_state_that_does_not_fit(state: Any, text: str) -> None:
    net = Scaled()
    with pytest.raises(StateError, match=text):
        knobs(net, {"p": times(linear(1, 0))}).load(state)
    assert net.drop.p == 0.1


def test_the_text_of_knobs() -> None:
    text = knobs(Scaled(), {"p": {nn.Dropout: linear(0, 0.2)}, "mode": "sum"}).show(EXTENT)
    assert " ".join(text.splitlines()[0].split()) == "p linear(0, 0.2) 0 → 0.198 Dropout 'drop', Dropout 'inner.0'"
    assert "'sum'" in text.splitlines()[1]


def test_the_values_over_a_run() -> None:
    made = knobs(Scaled(), {"p": linear(0, 0.2), "temperature": times(linear(1, 2))})
    assert made.series([at(0), at(50)]) == {"p": (0.0, pytest.approx(0.1)), "temperature": (1.0, 1.5)}


def test_a_rule_that_is_covered_is_told() -> None:
    with pytest.warns(UserWarning, match=r"the rule part\('inner'\): 0.2 for 'p' never decides"):
        knobs(Scaled(), {"p": {nn.Dropout: 0.1, "inner": 0.2}})
    with pytest.raises(RuleError, match="never decides"):
        knobs(Scaled(), {"p": {nn.Dropout: 0.1, "inner": 0.2}}, strict=True)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("literal", "error", "text"),
    [
        ([("p", 1)], SettingError, "a dict from attribute names"),
        ({"no name": 1}, SettingError, "is no name of an attribute"),
        ({"training": False}, SettingError, "the mode of a module.*learning_rate_multipliers"),
        ({"_buffers": 1}, SettingError, "private"),
        ({"p": None}, SettingError, "Write INHERIT"),
        ({"p": {"a": etude.FROZEN}}, SettingError, "Write INHERIT"),
        ({"p": [1, 2]}, SettingError, "list of pairs"),
        ({"p": {}}, SettingError, "no rules"),
        ({"p": {"a": times(etude.constant("x"))}}, EtudeError, "a factor is a number"),
        ({"p": {"a": float("nan")}}, ScheduleError, "knobs: 'p': NaN"),
        ({"p": part("a")}, SettingError, "a number, a bool or a text"),
    ],
)
def test_what_is_wrong_without_a_net(literal: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        read_knobs(literal)


@pytest.mark.parametrize(
    ("literal", "error", "text"),
    [
        ({"temprature": 1.0}, SettingError, 'none of the 6 modules there has an attribute.*Nearest: "temperature"'),
        ({"p": {nn.Linear: 0.1}}, SettingError, "none of the 2 modules there.*Nothing there is a number"),
        ({"p": {"middle": 0.1}}, PartError, "the rule part.'middle'.*has no 'middle'"),
        ({"p": {"layer.weight": 0.1}}, PartError, "selects no module, only 'layer.weight'"),
        ({"slope": 0.5}, SettingError, "is a parameter"),
        ({"weight": 0.5}, SettingError, "is a parameter"),
        ({"drop": 0.5}, SettingError, "a Dropout, which is a module: name its own attribute.*'p'"),
        ({"forward": 0.5}, SettingError, "is a function"),
        ({"in_features": 3}, SettingError, "says how the module was built"),
        ({"p": 1.5}, SettingError, "takes p from 0 to 1, not 1.5"),
        ({"p": pieces(0.1, (steps(98), 1.2), (steps(99), 0.1))}, SettingError, "not 1.2"),
        ({"p": "much"}, SettingError, "is the number 0.1, not 'much'"),
        ({"times": 0.5}, SettingError, "is the whole number 2, not 0.5.*begin with 2.0"),
        ({"sharp": 1}, SettingError, "is the bool False, not 1. Write True or False"),
        ({"mode": 3}, SettingError, "is the text 'mean', not 3"),
        ({"mode": times(2)}, SettingError, "cannot be multiplied"),
        ({"temperature": lambda progress: None}, SettingError, "not None"),
        ({"temperature": lambda progress: 1 / 0}, ScheduleError, "knobs: temperature: .*ZeroDivisionError"),
        ({"temperature": linear(1, 0).until(steps(5))}, ScheduleError, "Say what follows"),
        ({"strenth": [(Augment(), 1.0)]}, SettingError, 'no attribute.*Nearest: "strength"'),
        ({"strength": {Sealed(): 1.0}}, SettingError, "cannot be written: FrozenInstanceError.*frozen=True"),
        ({"seen": {Guarded(): 1.0}}, SettingError, "cannot be written: AttributeError.*setter"),
        ({"level": {Guarded(): linear(0, 3)}}, SettingError, "refuses 2.*too much"),
    ],
)
def test_what_is_wrong_on_a_net(literal: Any, error: type[Exception], text: str) -> None:
    net = Scaled()
    kept = {name: array.clone() for name, array in net.state_dict().items()}
    with pytest.raises(error, match=text):
        knobs(net, literal)
    assert all(torch.equal(kept[name], array) for name, array in net.state_dict().items())
    assert (net.drop.p, net.temperature, net.times, net.sharp, net.mode) == (0.1, 1.0, 2, False, "mean")


def test_what_only_comes_up_in_the_run_is_told_with_its_moment() -> None:
    net = Scaled()
    made = knobs(net, {"p": lambda progress: 2.0 if progress.step == 33.5 else 0.1})
    with pytest.raises(SettingError, match=r"knobs: p at step 33.5: .* not 2.0"):
        made.write(Progress(33.5, extent=EXTENT))


def test_several_things_that_are_wrong_are_told_at_once() -> None:
    with pytest.raises(EtudeError, match="2 things are wrong"):
        knobs(Scaled(), {"p": 1.5, "times": 0.5})


# ------------------------------------------------------------------------------------------------ in a run


def trained(net: nn.Module, **options: Any) -> etude.Result:
    wanted = {"loss": "mse", "epochs": 4, "batch_size": 10, "learning_rate": 0.01, "progress": False, **options}
    return etude.train(net, (X, Y), **wanted)


def test_a_run_writes_and_keeps_knobs() -> None:
    net = Scaled()
    result = trained(net, knobs={"p": {nn.Dropout: linear(0, 0.2)}, "temperature": pieces(1.0, (epochs(2), 2.0))})
    assert result.history["knob.p"].values == [pytest.approx(0.2 * step / 16) for step in range(16)]
    assert result.history["knob.temperature"].values == [1.0] * 8 + [2.0] * 8


def test_a_knob_does_what_setting_the_attribute_by_hand_does() -> None:
    one, other = Scaled(), Scaled()
    other.temperature = 0.5
    trained(one, knobs={"temperature": 0.5})
    trained(other)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_plan_that_is_checked_leaves_the_net_as_it_was_and_shows_knobs() -> None:
    net, augment = Scaled(), Augment()
    literal = {"p": {nn.Dropout: linear(0.5, 0.2)}, "gain": 3.0, "strength": [(augment, 1.0)]}
    checked = etude.Plan("mse", epochs=2, batch_size=10, knobs=literal).check(net, (X, Y))
    assert (net.drop.p, float(net.gain), augment.strength) == (0.1, 1.0, 0.0)
    assert "Knobs:" in checked.show()
    assert "linear(0.5, 0.2)" in checked.show()


def test_a_run_that_is_resumed_has_the_same_knobs(tmp_path: Path) -> None:
    literal = {"p": {nn.Dropout: times(linear(1, 0))}, "gain": linear(1, 2), "temperature": cosine(1, 2)}
    whole, first, second = Scaled(), Scaled(), Scaled()
    expected = trained(whole, knobs=literal)
    place = Directory(tmp_path, every(steps(1)))
    plan = etude.Plan("mse", epochs=4, batch_size=10, learning_rate=0.01, knobs=literal, checkpoint=place)
    for event in etude.Run(plan, first, (X, Y)):
        if isinstance(event, Settled) and event.progress.step == 7:
            break
    second.drop.p = 0.9  # what it is relative to is in the state
    result = trained(second, knobs=literal, checkpoint=place, resume="auto")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    for name in ("knob.p", "knob.temperature", "knob.gain"):
        assert result.history[name].values == expected.history[name].values


# -------------------------------------------------------------------------------------------- in a loop of one's own


def test_a_trainer_writes_the_knobs_of_the_next_step() -> None:
    net, augment = Scaled(), Augment()
    trainer = etude.Trainer(
        net, "sgd", learning_rate=0.1, total=steps(4), knobs={"p": 0.0, "strength": [(augment, linear(0, 1))]}
    )
    seen = []
    for _ in range(4):
        seen.append(augment.strength)
        net(X).sum().backward()
        trainer.step(len(X))
    assert seen == [0.0, 0.25, 0.5, 0.75]
    assert trainer.knobs == {"p": 0.0, "strength": 0.75}


def test_a_trainer_tells_scores_to_knobs() -> None:
    net = Scaled()
    literal = {"temperature": plateau("loss", factor=0.5, patience=0)}
    trainer = etude.Trainer(net, "sgd", learning_rate=0.1, knobs=literal)
    trainer.see({"loss": 1.0})
    trainer.see({"loss": 1.0})
    assert net.temperature == 0.5
    other = etude.Trainer(Scaled(), "sgd", learning_rate=0.1, knobs=literal)
    other.load_state_dict(trainer.state_dict())
    assert other.net is not None
    assert other.net.temperature == 0.5


def test_a_trainer_refuses_knobs_before_anything_is_changed() -> None:
    net = Scaled()
    with pytest.raises(SettingError, match="takes p from 0 to 1"):
        etude.Trainer(net, "sgd", learning_rate=0.1, knobs={"temperature": 3.0, "p": 1.5})
    assert net.temperature == 1.0


def test_a_knob_in_a_buffer_does_not_go_back_with_the_net() -> None:
    class Breaking(Scaled):
        """Its output is not finite when the gain is 2 for the third time."""

        def __init__(self) -> None:
            super().__init__()
            self.gains: list[float] = []

        def forward(self, x: Tensor) -> Tensor:
            self.gains.append(float(self.gain))
            return super().forward(x) * (float("inf") if self.gains.count(2.0) == 3 else 1.0)

    net = Breaking()
    literal = {"gain": pieces(1.0, (steps(5), 2.0))}
    plan = etude.Plan("mse", epochs=4, batch_size=10, knobs=literal, non_finite=etude.roll_back(0.5, every=steps(100)))
    events = list(etude.Run(plan, net, (X, Y)))
    # It went back to before the first step, where the gain was 1, and on with a gain of 2.
    assert [type(event).__name__ for event in events].count("RolledBack") == 1
    assert net.gains[-11:] == [2.0] * 11


class Rows(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Rows that hold the strength there is when they are read."""

    strength = 0.0

    def __len__(self) -> int:
        return 24

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((1,), self.strength), torch.zeros(1)


ROWS = Rows()


class Around(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Rows of another data set, which only the method names."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return ROWS[place]


def test_data_are_read_under_the_knobs_of_their_step() -> None:
    rows, seen = Rows(), []

    def loss(net: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(round(float(batch[0].mean()), 3))
        return net(batch[0]).square().mean()  # type: ignore[no-any-return]

    strength = {"strength": [(rows, linear(0, 6))]}
    etude.train(nn.Linear(1, 1), rows, loss=loss, epochs=2, batch_size=8, knobs=strength)
    assert seen[-6:] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("data", [ROWS, Around(), [ROWS, 1], {"x": ROWS}, lambda: ROWS])
def test_workers_would_read_with_a_copy_of_what_a_knob_is_for(data: Any) -> None:
    assert reached(data, [ROWS]) == [ROWS]
    if isinstance(data, torch.utils.data.Dataset):
        with pytest.raises(PlanError, match="each of the workers=1 has a copy of its own"):
            etude.train(
                *(nn.Linear(1, 1), data), loss="mse", epochs=2, workers=1, knobs={"strength": [(ROWS, linear(0, 1))]}
            )
