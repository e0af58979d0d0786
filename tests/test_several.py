"""Optimizers by part: one trainer, one table, several optimizers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import PartError, RuleError, SettingError, StateError
from etude.step.optim.foreign import ForeignOptimizer
from etude.step.optim.own import OwnOptimizer
from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.several import SeveralOptimizer
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.part import everything, part
from etude.values.rules import times
from etude.values.spans import steps
from nets import alike, arrays, chain, changed, give_gradients, graph, memory_of, same_memory, seeded, shared_chain


class Words(nn.Module):
    """A table of embeddings, two layers and a norm."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4, sparse=sparse)
        self.first = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.norm(self.first(self.table(x))))
        return y


def words(sparse: bool = False) -> Words:
    made: Words = seeded(lambda: Words(sparse))
    return made


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(alike(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def walked(net: nn.Module, trainer: Trainer, first: int, last: int) -> None:
    for step in range(first, last):
        give_gradients(net, step)
        trainer.step()
        trainer.zero_grad()


def test_muon_by_name_is_muon_for_matrices_and_adamw_for_the_rest() -> None:
    net, twin = words(), words()
    trainer = Trainer(net, "muon", learning_rate=linear(0.01, 0, over=steps(10)))
    muon = torch.optim.Muon([twin.first.weight, twin.last.weight], lr=0.01, adjust_lr_fn="match_rms_adamw")
    others = [twin.table.weight, twin.first.bias, *twin.norm.parameters(), twin.last.bias]
    adamw = torch.optim.AdamW(others, lr=0.01)
    for step in range(6):
        give_gradients(net, step)
        give_gradients(twin, step)
        for optimizer in (muon, adamw):
            optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 10)
        trainer.step()
        trainer.zero_grad()
        muon.step()
        adamw.step()
    pairs = list(zip(net.parameters(), twin.parameters(), strict=True))
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in pairs)
    assert alike(net.first.weight, twin.first.weight)
    assert trainer.name == "Muon, adamw"
    assert isinstance(trainer.optimizer, SeveralOptimizer)
    assert [type(member) for member in trainer.optimizer.members.values()] == [ForeignOptimizer, OwnOptimizer]


def test_the_table_says_which_optimizer_an_array_has_and_only_its_settings() -> None:
    trainer = Trainer(words(), "muon", momentum=0.9)
    assert "optimizer = Muon    (where(is_a_matrix): 'Muon')" in trainer.table.why("first.weight")
    assert "optimizer = adamw    (everything: 'adamw')" in trainer.table.why("table.weight")
    assert "momentum = 0.9 " in trainer.table.why("last.weight")
    assert "momentum = - " in trainer.table.why("last.bias")
    assert "beta1 = - " in trainer.table.why("last.weight")
    assert [line.split()[3] for line in trainer.table.show().splitlines()[1:3]] == ["adamw", "Muon"]


def test_defaults_are_those_of_each_optimizer_unless_the_call_says_otherwise() -> None:
    optimizers = {"a": "lion", "b": torch.optim.RMSprop, everything: "adamw"}
    rates = lambda trainer: {name: c["learning_rate"].base.at(None) for name, c in trainer.table.choices.items()}  # noqa: E731
    decays = lambda trainer: {name: c["weight_decay"].base.at(None) for name, c in trainer.table.choices.items()}  # noqa: E731
    plain = Trainer(graph(), optimizers)
    assert [rates(plain)[name] for name in ("a.bias", "b.bias", "out.bias")] == [1e-4, 1e-2, 1e-3]
    assert [decays(plain)[name] for name in ("b.bias", "out.bias")] == [0, 0.01]
    assert plain.learning_rate == 1e-3
    said = Trainer(graph(), optimizers, learning_rate=0.5, weight_decay=0.25)
    assert set(rates(said).values()) == {0.5}
    assert set(decays(said).values()) == {0.25}
    ruled = Trainer(graph(), optimizers, rules={"learning_rate": {"a": times(2), "b": 0.125}})
    assert [rates(ruled)[name] for name in ("a.bias", "b.bias", "out.bias")] == [1e-4, 0.125, 1e-3]
    assert ruled.table.choices["a.bias"]["learning_rate"].at(ruled.progress) == 2e-4


def test_every_kind_steps_beside_every_other_and_goes_on_from_a_state() -> None:
    """A rule of ours, a class, an instance, a factory and a rule of the user's own, with schedules, holds and decay."""

    class Pull(UpdateRule):
        name = "pull"
        settings = {"strength": Setting(0.5)}  # noqa: RUF012
        memories = ("last",)

        def formula(self, array: Tensor, gradient: Tensor, memory: Any, count: Any, settings: Any, climb: bool) -> None:
            memory["last"].copy_(gradient)
            array.sub_(settings["learning_rate"] * settings["strength"] * gradient)

    def trained(net: nn.Module) -> Trainer:
        optimizers = {
            "table": "adam",
            "first.weight": torch.optim.RMSprop,
            "first.bias": torch.optim.SGD([net.first.bias], lr=0.3, momentum=0.9),  # type: ignore[list-item, union-attr]
            "norm": lambda groups: torch.optim.Adagrad(groups, lr=0.3),
            everything: Pull,
        }
        schedule = [everything, part("table") | "norm", part("first") | "last"]
        return Trainer(net, optimizers, learning_rate=linear(0.1, 0, over=steps(20)), update_schedule=schedule)

    net, twin, late = words(), words(), words()
    trainer = trained(net)
    assert trainer.name == "adam, RMSprop, SGD, <lambda>, pull"
    alone = [
        torch.optim.Adam(twin.table.parameters()),
        torch.optim.RMSprop([twin.first.weight]),
        torch.optim.SGD([twin.first.bias], momentum=0.9),
        torch.optim.Adagrad(twin.norm.parameters()),
        torch.optim.SGD(twin.last.parameters()),
    ]
    for step in range(9):
        before, memory = arrays(net), memory_of(trainer)
        give_gradients(net, step)
        give_gradients(twin, step)
        moving = set(trainer.table.moving(trainer.progress))
        trainer.step(2)
        trainer.zero_grad()
        assert changed(before, net) == moving
        assert all(same_memory(memory[n], memory_of(trainer)[n]) for n in memory if n not in moving)
        for name, parameter in twin.named_parameters():
            assert parameter.grad is not None
            parameter.grad = parameter.grad / 2 if name in moving else None
        for factor, optimizer in zip((1, 1, 1, 1, 0.5), alone, strict=True):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 20) * factor
            optimizer.step()
        if step == 4:
            state = copy.deepcopy(trainer.state_dict())
            late.load_state_dict(net.state_dict())
    pairs = list(zip(net.parameters(), twin.parameters(), strict=True))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)
    assert alike(net.first.weight, twin.first.weight)
    again = trained(late)
    again.load_state_dict(state)
    for step in range(5, 9):
        give_gradients(late, step)
        again.step(2)
        again.zero_grad()
    assert same(net, late)


def test_sparse_gradients_reach_the_optimizer_that_takes_them() -> None:
    net, twin = words(sparse=True), words(sparse=True)
    trainer = Trainer(net, {"table": "sparseadam", everything: "torch.adamw"}, learning_rate=0.1)
    sparse = torch.optim.SparseAdam(list(twin.table.parameters()), lr=0.1)
    rest = [parameter for name, parameter in twin.named_parameters() if not name.startswith("table")]
    adamw = torch.optim.AdamW(rest, lr=0.1)
    for step in range(3):
        x = torch.tensor([step, 3, 3])
        net(x).square().sum().backward()
        twin(x).square().sum().backward()
        trainer.step(3)
        for parameter in twin.parameters():
            assert parameter.grad is not None
            parameter.grad = parameter.grad / 3
        sparse.step()
        adamw.step()
        trainer.zero_grad()
        twin.zero_grad()
    assert same(net, twin)
    assert alike(net.table.weight[5], words().table.weight[5])


@pytest.mark.parametrize("rows", ["lazy_adam", "rowwise_adagrad"])
def test_rules_for_rows_beside_a_rule_for_the_rest(rows: str) -> None:
    net = words(sparse=True)
    trainer = Trainer(net, {"table": rows, everything: "adamw"}, learning_rate=0.1)
    before = arrays(net)
    net(torch.tensor([1, 4])).square().sum().backward()
    trainer.step(2)
    assert (before["table.weight"] != net.table.weight).any(1).tolist() == [i in (1, 4) for i in range(7)]
    assert changed(before, net) == set(before)


def test_one_optimizer_asked_for_twice_is_one_and_two_alike_have_numbers() -> None:
    one = Trainer(graph(), [("a", "adamw"), ("b", "lion"), ("out", "adamw")])
    assert one.name == "adamw, lion"
    two = Trainer(graph(), {"a": "muon", "b.weight": torch.optim.Muon, everything: "adam"}, part=part("*.weight"))
    assert two.name == "Muon, Muon 2, adam"
    whole = Trainer(graph(), {everything: "adamw"})
    assert whole.name == "adamw"
    assert isinstance(whole.optimizer, OwnOptimizer)


def test_a_shared_array_has_one_optimizer() -> None:
    net = shared_chain(1, nn.Linear(3, 2))
    trainer = Trainer(net, {2: "lion", everything: "adam"})
    assert "optimizer = lion" in trainer.table.why("0.weight")
    walked(net, trainer, 0, 2)


def test_what_is_frozen_needs_no_optimizer() -> None:
    net = graph()
    trainer = Trainer(net, {"a": "adam"}, learning_rate_multipliers={"b": 0, "out": 0})
    before = arrays(net)
    walked(net, trainer, 0, 1)
    assert changed(before, net) == {"a.weight", "a.bias"}
    inside = Trainer(graph(), {"a": "adam", "b": "sgd"}, part=part("a") | "b")
    assert set(inside.table.names) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_memory_of_another_optimizer_is_refused_and_nothing_is_changed() -> None:
    net = graph()
    trainer = Trainer(net, {"a": "torch.sgd", everything: "lion"}, momentum=0.9)
    walked(net, trainer, 0, 2)
    other = Trainer(graph(), {"b": "torch.sgd", everything: "lion"}, momentum=0.9)
    before = memory_of(trainer)
    with pytest.raises(StateError, match=r"the memory of 'a.weight' is of 'SGD', and 'lion' moves it"):
        other.load_state_dict(trainer.state_dict())
    state = copy.deepcopy(trainer.state_dict())
    state["arrays"]["a.weight"]["momentum_buffer"] = torch.zeros(4, 3)
    memory = next(key for key, kept in state["arrays"]["out.bias"].items() if isinstance(kept, Tensor))
    state["arrays"]["out.bias"][memory] = torch.zeros(7)
    with pytest.raises(StateError, match=r"memory .* has shape \(7,\), the array \(2,\)"):
        trainer.load_state_dict(state)
    assert all(same_memory(before[name], own) for name, own in memory_of(trainer).items())


def test_thawing_and_freezing_keep_memory() -> None:
    net, twin = graph(), graph()
    trainer = Trainer(net, {"a": "torch.rmsprop", everything: "adam"}, learning_rate=0.1)
    first, rest = torch.optim.RMSprop(twin.a.parameters(), 0.1), [*twin.b.parameters(), *twin.out.parameters()]
    second = torch.optim.Adam(rest, 0.1)
    for step in range(6):
        if step == 2:
            trainer.freeze("a")
        if step == 4:
            trainer.thaw("a")
        give_gradients(net, step)
        give_gradients(twin, step)
        trainer.step()
        trainer.zero_grad()
        if step not in (2, 3):
            first.step()
        second.step()
    pairs = zip(net.parameters(), twin.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)
    assert alike(net.a.weight, twin.a.weight)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda: Trainer(graph(), {"a": "sgd", "out": "adam"}),
            SettingError,
            r"No optimizer is given for 'b.weight', 'b.bias', which may move. Write everything: \"adamw\" last",
        ),
        (
            lambda: Trainer(graph(), {"a": "sgd", everything: "adam"}, rules={"momentum": {"b": 0.5}}),
            SettingError,
            r"The rule part\('b'\): 0.5 for momentum selects arrays of adam alone, which has no such setting.",
        ),
        (
            lambda: Trainer(graph(), {"a": "sgd", everything: "adam"}, momentun=0.5),
            SettingError,
            r"sgd, adam has no setting 'momentun'. Nearest: \"momentum\". Settings: ",
        ),
        (
            lambda: Trainer(graph(), {"a": "sgd", everything: "adam"}, momentum=1.5),
            SettingError,
            r"momentum=1.5: allowed is \[0, 1\)",
        ),
        (
            lambda: Trainer(graph(), {"a": "sgd", everything: "adam"}, rules={"momentum": {"a": 1.5}}),
            SettingError,
            r"1.5: allowed is \[0, 1\)",
        ),
        (lambda: Trainer(graph(), {"c": "sgd", everything: "adam"}), PartError, r"the net has no 'c'"),
        (
            lambda: Trainer(graph(), {everything: "adam", "a": "sgd"}, strict=True),
            RuleError,
            r"cover them: optimizer: part\('a'\): 'sgd'",
        ),
        (lambda: Trainer(graph(), {}), SettingError, r"optimizer=\{\}: optimizers by part are pairs of a part and an"),
        (lambda: Trainer(graph(), ["adam"]), SettingError, r"optimizer=\['adam'\]: optimizers by part are pairs"),
        (lambda: Trainer(graph(), {everything: 3}), SettingError, "optimizer=3: a name, a class of torch.optim"),
        (lambda: Trainer(graph(), {"a": "adan", everything: "sgd"}), SettingError, "There is no optimizer 'adan'"),
        (
            lambda: Trainer(nn.LayerNorm(3), "muon"),
            SettingError,
            "the net has no trainable matrix outside embeddings, which is what Muon moves",
        ),
        (
            lambda: Trainer(nn.LazyLinear(3), "muon"),
            SettingError,
            "optimizer=\"muon\": 'weight' has no shape yet, so it is not known whether it is a matrix. Call the net",
        ),
        (
            lambda: Trainer(chain(), {nn.Linear: "muon", nn.Tanh: "adam"}),
            PartError,
            "selects no arrays",
        ),
    ],
)
def test_what_cannot_be_is_said_with_what_could(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_a_net_of_matrices_alone_is_moved_by_muon_alone() -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    trainer = Trainer(net, "muon", strict=True)
    before = arrays(net)
    walked(net, trainer, 0, 1)
    assert changed(before, net) == {"0.weight", "1.weight"}
