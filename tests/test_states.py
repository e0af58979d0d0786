"""States of trainers: what is kept, whose settings hold, and damaged ones, which change nothing at all."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude.errors import SettingError, StateError
from etude.step import states
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.part import part
from etude.values.reactive import plateau, when
from etude.values.rules import rules, times
from etude.values.schedule import schedule
from etude.values.spans import steps
from nets import alike, arrays, chain, data, give_gradients, graph

X, Y = data(1)[0]


def step(net: nn.Module, trainer: Trainer) -> None:
    trainer.scale((net(X) - Y).square().mean(1).sum()).backward()
    trainer.step(8)


def full(net: nn.Module, rule: Any = "adamw", **options: Any) -> Trainer:
    """A trainer that has something of everything."""
    options = {
        "learning_rate": 0.1 * plateau("val.loss", patience=0),
        "rules": {"weight_decay": {"a": 0.3}},
        "learning_rate_multipliers": {"b.bias": 0},
        "update_schedule": [part("a") | "b", "out"],
        "accumulate": 2,
        "averages": (etude.ema(0.5), etude.swa("a", every=steps(1))),
        "loss_scale": "dynamic",
        "clip_norm": 1.0,
        **options,
    }
    return Trainer(net, rule, **options)


def worked(rule: Any = "adamw", **options: Any) -> tuple[nn.Module, Trainer]:
    """The same after some steps, in mid-window, with a freeze and a bad score behind it."""
    net = graph()
    trainer = full(net, rule, **options)
    for _ in range(5):
        step(net, trainer)
    for score in (1.0, 2.0):
        trainer.see({"val.loss": score})
    trainer.freeze("b.weight")
    return net, trainer


def frozen_copy(value: Any) -> Any:
    """Plain values that can be compared, whatever there was."""
    if isinstance(value, Tensor):
        return (
            tuple(value.shape),
            str(value.dtype),
            bytes(value.detach().contiguous().view(-1).view(torch.uint8).numpy()),
        )
    if isinstance(value, Mapping):
        return {str(key): frozen_copy(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [frozen_copy(one) for one in value]
    return repr(value)


def everything_of(net: nn.Module, trainer: Trainer) -> dict[str, Any]:
    """All that a trainer is, and its net."""
    return {
        "net": frozen_copy(net.state_dict()),
        "gradients": [None if p.grad is None else frozen_copy(p.grad) for p in net.parameters()],
        "requires": [p.requires_grad for p in net.parameters()],
        "training": [m.training for m in net.modules()],
        "state": frozen_copy(trainer.state_dict()),
        "memory": repr(dict(trainer.memory)),
        "rate": trainer.learning_rate,
        "table": trainer.table.show(),
        "settings": repr(trainer.settings()),
    }


# there and back


@pytest.mark.parametrize("rule", ["adamw", "sgd", "lamb", "nadam", {"a": "lion", etude.everything: "adamw"}], ids=str)
def test_a_state_through_a_file_goes_on_to_the_same_bits(rule: Any) -> None:
    net, trainer = worked(rule)
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "trainer": trainer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    late = graph(seed=7)
    late.load_state_dict(loaded["net"])
    again = full(late, rule)
    again.load_state_dict(loaded["trainer"], keep="saved")
    assert everything_of(net, trainer) == everything_of(late, again)
    for _ in range(5):
        step(net, trainer)
        step(late, again)
    for score in (3.0, 0.5):
        trainer.see({"val.loss": score})
        again.see({"val.loss": score})
    step(net, trainer)
    step(late, again)
    assert everything_of(net, trainer) == everything_of(late, again)


def test_what_is_loaded_is_a_copy() -> None:
    net, trainer = worked()
    late = graph()
    again = full(late)
    state = copy.deepcopy(trainer.state_dict())
    before = frozen_copy(state)
    again.load_state_dict(state, keep="saved")
    for _ in range(3):
        step(late, again)
    assert frozen_copy(state) == before
    assert net is not late


def test_a_state_is_plain_values_and_tensors() -> None:
    def look(value: Any) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                assert isinstance(key, str)
                look(one)
        elif isinstance(value, list | tuple):
            for one in value:
                look(one)
        else:
            assert value is None or isinstance(value, bool | int | float | str | Tensor), value

    _, trainer = worked()
    look(trainer.state_dict())


def test_a_new_trainer_has_a_state_too() -> None:
    net = graph()
    trainer = full(net)
    before = everything_of(net, trainer)
    trainer.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert everything_of(net, trainer) == before


def test_schedules_without_a_text_can_be_saved_and_go_on() -> None:
    def bump(progress: etude.Progress) -> float:
        return 0.1 + progress.step

    def listening() -> Any:
        return plateau("val.loss", patience=0) * schedule(lambda progress: 0.5)

    trainer = Trainer(chain(), "sgd", learning_rate=listening(), momentum=schedule(bump) * 0.0)
    for score in (1.0, 2.0):
        trainer.see({"val.loss": score})
    other = Trainer(chain(), "sgd", learning_rate=listening(), momentum=schedule(bump) * 0.0)
    other.load_state_dict(trainer.state_dict())
    assert other.learning_rate == trainer.learning_rate < 0.5
    assert list(other.memory.values()) == list(trainer.memory.values())


# whose settings


def different() -> tuple[Trainer, Trainer]:
    one = Trainer(graph(), "sgd", learning_rate=0.1, momentum=0.5, rules={"weight_decay": {"a": 0.3}}, clip_norm=2.0)
    one.freeze("b")
    other = Trainer(graph(), "sgd", learning_rate=linear(0.7, 0.1, over=steps(9)), rules={"momentum": {"out": 0.9}})
    return one, other


def test_settings_of_the_state_are_taken_with_a_warning_that_names_them() -> None:
    one, other = different()
    with pytest.warns(UserWarning, match="has other settings than this trainer, and they are used") as told:
        other.load_state_dict(one.state_dict())
    text = str(told[0].message)
    for piece in ("learning_rate", "momentum", "clip_norm", "the rules for weight_decay", "the rules for momentum"):
        assert piece in text
    assert "what is frozen" in text
    assert 'keep="saved"' in text
    assert 'keep="new"' in text
    assert told[0].filename == __file__
    assert other.settings() == one.settings()
    assert other.table.show() == one.table.show()


@pytest.mark.parametrize("keep", ["saved", "new"])
def test_who_says_whose_is_not_warned(keep: str) -> None:
    one, other = different()
    before = other.table.show()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(one.state_dict(), keep=keep)
    assert other.table.show() == (one.table.show() if keep == "saved" else before)


def test_nothing_is_said_where_nothing_differs() -> None:
    net, trainer = worked()
    again = full(graph())
    again.freeze("b.weight")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.load_state_dict(trainer.state_dict())
    assert net is not None


@pytest.mark.parametrize("keep", ["old", "", True, 1])
def test_there_are_two_to_keep(keep: Any) -> None:
    net, trainer = worked()
    before = everything_of(net, trainer)
    with pytest.raises(SettingError, match=r'keep=.*: "saved" .* or "new" \(those of the trainer\) is needed'):
        trainer.load_state_dict(trainer.state_dict(), keep=keep)
    assert everything_of(net, trainer) == before


def test_memory_and_clock_are_the_states_whosever_settings_hold() -> None:
    net = graph()
    one = Trainer(net, "adamw", learning_rate=0.1)
    for seed in range(3):
        give_gradients(net, seed)
        one.step(5)
        one.zero_grad()
    other = Trainer(graph(), "adamw", learning_rate=linear(1, 0, over=steps(10)))
    other.load_state_dict(one.state_dict(), keep="new")
    assert (other.progress.step, other.progress.samples) == (3, 15)
    assert other.learning_rate == pytest.approx(0.7)
    assert all(own["count"] == 3 for own in other.state_dict()["arrays"].values())


# damaged states


def arrays_with(**changes: Any) -> Any:
    return lambda state: {
        **state,
        "arrays": {**state["arrays"], **{k.replace("__", "."): v for k, v in changes.items()}},
    }


def memory_with(key: str, value: Any) -> Any:
    return lambda state: {
        **state,
        "arrays": {**state["arrays"], "out.bias": {**state["arrays"]["out.bias"], key: value}},
    }


def with_(key: str, value: Any) -> Any:
    return lambda state: {**state, key: value}


def clock_with(**changes: Any) -> Any:
    return lambda state: {**state, "progress": {**state["progress"], **changes}}


def average_with(**changes: Any) -> Any:
    def spoil(state: dict[str, Any]) -> dict[str, Any]:
        each = state["averages"]["each"]
        return {**state, "averages": {**state["averages"], "each": {**each, "ema": {**each["ema"], **changes}}}}

    return spoil


JUNK: tuple[Any, ...] = (None, "x", 3, [1], {"x": object()})
DAMAGED: dict[str, Any] = {
    **{
        f"{key} is {value!r:.9}": with_(key, value)
        for key in (*sorted(states.KEYS), *sorted(states._FORMS))
        for value in JUNK
    },
    **{f"no {key}": lambda state, key=key: {k: v for k, v in state.items() if k != key} for key in states._FORMS},
    **{
        f"clock of {value!r}": clock_with(step=value)
        for value in ("x", None, -1, float("nan"), float("inf"), True, 1.5)
    },
    **{f"samples of {value!r}": clock_with(samples=value) for value in ("x", None, -1)},
    "arrays lost": lambda state: {**state, "arrays": {}},
    "an array more": arrays_with(x={}),
    "an array less": lambda state: {**state, "arrays": {k: v for k, v in state["arrays"].items() if k != "a.bias"}},
    "memory of a shape": memory_with("mean", torch.zeros(9)),
    "memory of a name": memory_with("speed", torch.zeros(2)),
    "memory of a type": memory_with("mean", 1.0),
    "memory of whole numbers": memory_with("mean", torch.zeros(2, dtype=torch.complex64)),
    "memory that is none": arrays_with(out__bias=None),
    **{
        f"count of {value!r}": memory_with("count", value)
        for value in ("x", None, -1, float("nan"), torch.zeros(2), [])
    },
    **{
        f"memory of schedules is {value!r}": lambda state, value=value: {
            **state,
            "memory": dict.fromkeys(state["memory"], value),
        }
        for value in ("junk", None, 3, (), (1, 2, 3))
    },
    "settings of junk": with_("settings", {"learning_rate": 3}),
    "settings out of bounds": with_("settings", {"learning_rate": "constant(0.1)", "beta1": "constant(5.0)"}),
    "rules of nothing": with_("rules", {"speed": "rules({part('a'): 1})"}),
    "rules of parts that are not there": with_("rules", {"weight_decay": "rules({part('haed'): 0.1})"}),
    "held of what is not there": with_("held", ["haed"]),
    "thawed of what is not there": with_("thawed", ["haed"]),
    "average of a shape": average_with(arrays={"a.weight": torch.zeros(2)}),
    "average of a count": average_with(count="x"),
    "average of a kind": average_with(kind="swa"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("keep", ["saved", "new"])
def test_a_damaged_state_changes_nothing_at_all(name: str, keep: str) -> None:
    net, trainer = worked()
    state = copy.deepcopy(trainer.state_dict())
    # What is right about it differs from what there is, so that half a loading would show.
    state["progress"]["step"] = 1
    state["arrays"]["a.weight"]["mean"].fill_(7.0)
    state["settings"]["beta1"] = "constant(0.25)"
    state["held"] = ["a.bias"]
    state["scale"] = {"value": 4.0, "good": 3}
    state["averages"]["each"]["ema"]["arrays"]["a.weight"].fill_(7.0)
    before = everything_of(net, trainer)
    try:
        trainer.load_state_dict(DAMAGED[name](state), keep=keep)
    except StateError:
        assert everything_of(net, trainer) == before
    else:
        # A wrong setting, rule or freeze is nobody's business where the trainer's own hold.
        assert keep == "new"
        assert name.startswith(("settings", "rules", "held", "thawed"))
        return
    step(net, trainer)


@pytest.mark.parametrize("state", [None, 3, "x", [], {}, {"format": 2}], ids=str)
def test_what_is_no_state(state: Any) -> None:
    net, trainer = worked()
    before = everything_of(net, trainer)
    with pytest.raises(StateError, match=r"no state of a Trainer \(of this version\). Give what state_dict"):
        trainer.load_state_dict(state)
    assert everything_of(net, trainer) == before


def test_every_wrong_shape_is_named() -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    other = Trainer(net, "adamw")
    give_gradients(net, 0)
    other.step()
    trainer = Trainer(chain(), "adamw")
    with pytest.raises(StateError) as raised:
        trainer.load_state_dict(other.state_dict())
    text = str(raised.value)
    for name, theirs, ours in (
        ("0.weight", "(6, 3)", "(5, 3)"),
        ("0.bias", "(6,)", "(5,)"),
        ("2.weight", "(2, 6)", "(2, 5)"),
    ):
        assert f"memory 'mean' of '{name}' has shape {theirs}, the array {ours}" in text
        assert f"memory 'square' of '{name}'" in text
    assert "2.bias" not in text


def test_another_optimizer_and_other_arrays_are_named_together() -> None:
    state = Trainer(graph(), "sgd").state_dict()
    with pytest.raises(StateError) as raised:
        Trainer(chain(), "adamw").load_state_dict(state)
    text = str(raised.value)
    assert "of the optimizer 'sgd', the trainer has 'adamw'" in text
    assert "It lacks '0.weight', '0.bias', '2.weight', '2.bias'" in text
    assert "It has 'a.weight', 'a.bias', 'b.weight', 'b.bias', 'out.weight', 'out.bias'" in text


def test_memory_of_schedules_that_listen_outlasts_a_refusal() -> None:
    trainer = Trainer(chain(), "sgd", learning_rate=0.1 * plateau("val.loss", patience=0))
    for score in (1.0, 2.0, 3.0):
        trainer.see({"val.loss": score})
    rate, memory = trainer.learning_rate, dict(trainer.memory)
    state = copy.deepcopy(Trainer(chain(), "sgd", learning_rate=0.5).state_dict())
    state["arrays"]["0.weight"] = {"speed": torch.zeros(1)}
    with pytest.raises(StateError):
        trainer.load_state_dict(state, keep="saved")
    assert trainer.learning_rate == rate < 0.1
    assert dict(trainer.memory) == memory


def test_a_state_cannot_be_loaded_while_an_average_is_in_use() -> None:
    net, trainer = worked()
    state = copy.deepcopy(trainer.state_dict())
    before = arrays(net)
    with trainer.averaged("ema"), pytest.raises((SettingError, StateError)):
        trainer.load_state_dict(state)
    assert all(alike(before[name], array) for name, array in arrays(net).items())


def test_arrays_without_a_shape_have_to_get_one_first() -> None:
    net = nn.LazyLinear(2)
    one = Trainer(net, "adamw")
    net(X).sum().backward()
    one.step(8)
    late = nn.LazyLinear(2)
    again = Trainer(late, "adamw")
    with pytest.raises(StateError, match=r"'weight' has no shape yet; call the net once before"):
        again.load_state_dict(one.state_dict())
    late(X)
    again.load_state_dict(one.state_dict())
    assert again.state_dict()["arrays"]["weight"]["count"] == 1


# the pieces


def test_values_as_text() -> None:
    assert states.text_of(schedule(0.1)) == "constant(0.1)"
    assert states.text_of(rules({"a": times(2)}, setting="learning_rate")) is not None
    assert states.text_of(schedule(lambda progress: 1.0)) is None


def test_memory_by_text_and_by_place() -> None:
    plain, nameless = when("val.loss", below=1), plateau("val.loss") * schedule(lambda progress: 1.0)
    before = {of: of.start() for of in (plain, nameless)}
    memory = {of: of.see(kept, {"val.loss": 0.5}) for of, kept in before.items()}
    assert all(memory[of] != before[of] for of in before)
    saved = states.memory_of(memory)
    assert list(saved) == [repr(plain), "schedule 1"]
    assert states.memory_in({"memory": saved}, before) == memory
    assert states.memory_in({"memory": {}}, before) == before


def test_names_are_listed() -> None:
    assert states.listed(["a", "b.c"]) == "'a', 'b.c'"
    assert states.listed([]) == ""
