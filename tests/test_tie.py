"""Arrays that are one for a while: as if they were shared, and apart again with the memory that each has."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude.errors import EtudeError, SettingError, StaleGradientError
from etude.step.trainer import Trainer
from etude.values.part import everything, part
from etude.values.progress import Progress
from etude.values.schedule import pieces, schedule
from etude.values.spans import fraction, steps
from nets import alike, arrays, seeded

PAIR = part("embed.weight") | "head.weight"
WORDS = torch.tensor([[1, 2, 3, 1], [4, 0, 2, 2]])


class Language(nn.Module):
    """A table of embeddings, a layer, and a head whose weight may be that of the table."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        if shared:
            self.head.weight = self.embed.weight
        else:
            with torch.no_grad():
                self.head.weight.copy_(self.embed.weight)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(self.embed(x)).tanh())
        return found


def language(shared: bool = False) -> Language:
    made: Language = seeded(lambda: Language(shared))
    return made


def loss_of(net: nn.Module, step: int = 0) -> Tensor:
    words = (WORDS + step) % 5
    return nn.functional.cross_entropy(net(words[:, :-1]).flatten(0, 1), words[:, 1:].flatten())


def train(net: nn.Module, trainer: Trainer, number: int) -> None:
    for _ in range(number):
        loss_of(net, int(trainer.progress.step)).backward()
        trainer.step()


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("sgd", {"momentum": 0.9}),
        ("adamw", {"weight_decay": 0.1}),
        ("adamw", {"clip_norm": 0.2}),
        ("adamw", {"clip_value": 0.01, "clip_array_norm": 0.05, "noise": 0.1, "l2": 0.1, "centralise": True}),
        ("adamw", {"drop_norm": 0.9, "shrink": 0.1, "max_norm": 1.0}),
        ("nadam", {"clip_norm": 0.2}),
        ("lion", {}),
    ],
)
def test_tied_arrays_move_as_a_shared_one_does(rule: str, settings: dict[str, Any]) -> None:
    net, twin = language(), language(shared=True)
    trainer = Trainer(net, rule, learning_rate=0.05, seed=3, tie={PAIR: True}, **settings)
    other = Trainer(twin, rule, learning_rate=0.05, seed=3, **settings)
    start = net.embed.weight.detach().clone()
    for _ in range(4):
        train(net, trainer, 1)
        train(twin, other, 1)
        assert alike(net.embed.weight, net.head.weight)
        assert torch.allclose(net.embed.weight, twin.embed.weight, atol=1e-6)
        assert torch.allclose(net.body.weight, twin.body.weight, atol=1e-6)
    assert not torch.allclose(net.embed.weight, start)


def test_afterwards_each_goes_on_with_the_memory_that_it_has() -> None:
    net = language()
    trainer = Trainer(net, "adamw", learning_rate=0.05, tie={PAIR: pieces(True, (steps(3), False))})
    train(net, trainer, 3)
    own = trainer.state_dict()["arrays"]
    assert alike(own["embed.weight"]["mean"], own["head.weight"]["mean"])
    assert own["embed.weight"]["count"] == own["head.weight"]["count"] == 3
    free = copy.deepcopy(net)
    alone = Trainer(free, "adamw", learning_rate=0.05)
    alone.load_state_dict(copy.deepcopy(trainer.state_dict()), keep="new")
    train(net, trainer, 2)
    train(free, alone, 2)
    assert not torch.allclose(net.embed.weight, net.head.weight)
    assert all(alike(a, b) for a, b in zip(net.parameters(), free.parameters(), strict=True))
    assert trainer.state_dict()["arrays"]["head.weight"]["count"] == 5


def test_saved_at_any_step_and_gone_on_is_the_same() -> None:
    def made(net: nn.Module) -> Trainer:
        return Trainer(net, "adamw", learning_rate=0.05, tie={PAIR: pieces(True, (steps(3), False))})

    whole = language()
    train(whole, made(whole), 5)
    for cut in range(1, 5):
        net, other = language(), language()
        first, second = made(net), made(other)
        train(net, first, cut)
        other.load_state_dict(net.state_dict())
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        train(other, second, 5 - cut)
        assert all(alike(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


def test_one_that_the_loss_does_not_reach_goes_with_the_other() -> None:
    net = language()
    trainer = Trainer(net, "sgd", learning_rate=0.1, tie={PAIR: True})
    net.head(torch.ones(2, 3)).sum().backward()
    with pytest.raises(StaleGradientError, match=r"in 'body\.weight', 'body\.bias'\."):
        trainer.step()
    start = net.embed.weight.detach().clone()
    trainer.step(ignore_stale_grad=True)
    assert alike(net.embed.weight, net.head.weight)
    assert not torch.allclose(net.embed.weight, start)


def test_three_arrays_and_two_ties() -> None:
    net = nn.ParameterDict({name: nn.Parameter(torch.zeros(2)) for name in "abcde"})
    ties = {part("a") | "b" | "c": True, part("d") | "e": True}
    trainer = Trainer(net, "sgd", learning_rate=1.0, tie=ties, clip_norm=1.0)
    for place, array in enumerate(net.values()):
        array.grad = torch.tensor([1.0 + place, 0.0])
    trainer.step()
    # The sums are 6 and 9, each once in the joint norm.
    whole = (36 + 81) ** 0.5
    assert [float(-array[0].detach()) for array in net.values()] == pytest.approx([6 / whole] * 3 + [9 / whole] * 2)


def test_sparse_gradients_of_a_table_join_dense_ones() -> None:
    net = language()
    net.embed.sparse = True
    trainer = Trainer(net, "sgd", learning_rate=0.1, tie={PAIR: True})
    twin = language(shared=True)
    other = Trainer(twin, "sgd", learning_rate=0.1)
    train(net, trainer, 2)
    train(twin, other, 2)
    assert torch.allclose(net.embed.weight, twin.embed.weight, atol=1e-6)


def test_carried_gradients_of_tied_arrays() -> None:
    def run(shared: bool, **more: Any) -> Language:
        net = language(shared)
        moves = [part("body"), part("body") | "embed" | "head"]
        train(net, Trainer(net, "sgd", learning_rate=0.1, update_schedule=moves, carry="sum", **more), 4)
        return net

    assert torch.allclose(run(False, tie={PAIR: True}).head.weight, run(True).head.weight, atol=1e-6)


# wrong use


def made(**more: Any) -> Trainer:
    return Trainer(language(), **{"optimizer": "adamw", "tie": {PAIR: True}, **more})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tie": True}, r"tie= for all arrays: a rule says which arrays are one\. Write tie="),
        ({"tie": {"embed": True}}, r"selects 'embed\.weight' alone, which has nothing to be tied to"),
        (
            {"tie": {part("embed") | "body": True}},
            r"arrays of different shapes: 'embed\.weight' \(5, 3\), 'body\.weight'",
        ),
        (
            {"learning_rate_multipliers": {"head": 2}},
            r"'embed\.weight' and 'head\.weight' differ in learning_rate \(no rule; part\('head'\): times\(2\)\)",
        ),
        ({"learning_rate_multipliers": {"head": 0}}, "differ in learning_rate"),
        ({"rules": {"weight_decay": {"embed": 0}}}, "differ in weight_decay .*give both the same weight_decay"),
        (
            {"optimizer": {"embed": "sgd", everything: "adamw"}, "learning_rate": 0.1},
            r"'embed\.weight' and 'head\.weight' differ in (optimizer|learning_rate)",
        ),
        (
            {"update_schedule": [part("embed") | "body", everything]},
            r"of the update schedule has only 'embed\.weight' of them. Tied arrays move together",
        ),
        ({"optimizer": "sgld", "learning_rate": 0.1}, "tie= and sgld: each array gets chance of its own"),
        ({"half": "stochastic"}, 'tie= and half="stochastic": each array gets chance'),
        ({"tie": {PAIR: 0.5}}, "True or False is needed"),
    ],
)
def test_what_cannot_be_one_is_said_before_the_first_step(more: dict[str, Any], message: str) -> None:
    with pytest.raises(EtudeError, match=message):
        made(**more)


def test_arrays_that_differ_when_it_begins() -> None:
    net = language()
    with torch.no_grad():
        net.head.weight[0, 0] += 1
    with pytest.raises(
        SettingError, match=r"'embed\.weight' and 'head\.weight' .* differ in their numbers\. Nothing was"
    ):
        Trainer(net, "adamw", tie={PAIR: True})
    with pytest.raises(SettingError, match="differ in their numbers"):
        etude.Plan(loss=loss_of, tie={PAIR: True}, steps=2).check(net, [WORDS])


def test_a_tie_that_begins_late_needs_equal_arrays_and_memory() -> None:
    net = language()
    trainer = Trainer(net, "adamw", tie={PAIR: pieces(False, (steps(1), True))})
    train(net, trainer, 1)
    before, kept = arrays(net), copy.deepcopy(trainer.state_dict()["arrays"])
    loss_of(net).backward()
    with pytest.raises(SettingError, match="to be one from here on, and they differ in their numbers"):
        trainer.step()
    assert all(alike(before[name], array) for name, array in arrays(net).items())
    with torch.no_grad():
        net.head.weight.copy_(net.embed.weight)
    with pytest.raises(SettingError, match="differ in what the optimizer remembers of them"):
        trainer.step()
    assert all(own["count"] == kept[name]["count"] for name, own in trainer.state_dict()["arrays"].items())
    trainer.thaw(PAIR, reset=True)
    trainer.step()
    assert alike(net.embed.weight, net.head.weight)


def test_one_that_is_held_by_hand_while_the_other_would_move() -> None:
    net = language()
    trainer = made()
    trainer = Trainer(net, "adamw", tie={PAIR: True})
    loss_of(net).backward()
    net.head.weight.requires_grad = False
    with pytest.raises(
        SettingError, match=r"'embed\.weight' would move and 'head\.weight' would not, and they are tied"
    ):
        trainer.step()
    net.head.weight.requires_grad = True
    with pytest.raises(SettingError, match="differ in learning_rate"):
        trainer.freeze("head.weight")
    trainer.step()
    assert alike(net.embed.weight, net.head.weight)


def test_a_computed_update_schedule_that_parts_them() -> None:
    net = language()
    moves = schedule(lambda progress: part("embed") if progress.step == 1 else everything)
    trainer = Trainer(net, "adamw", tie={PAIR: True}, update_schedule=moves)
    train(net, trainer, 1)
    with pytest.raises(SettingError, match=r"Let tied arrays move and rest together"):
        train(net, trainer, 1)


# a run


def test_a_run_ties_for_two_thirds_and_goes_on_from_any_step(tmp_path: Any) -> None:
    data = torch.cat([(WORDS + i) % 5 for i in range(6)])

    def plan(**more: Any) -> etude.Plan:
        return etude.Plan(
            loss=loss_of_batch,
            optimizer="adamw",
            learning_rate=0.05,
            rules={"tie": {PAIR: pieces(True, (fraction(2 / 3), False))}},
            steps=9,
            batch_size=2,
            seed=1,
            **more,
        )

    net = language()
    saved = etude.Directory(tmp_path, etude.every(steps(1)))
    result = etude.Run(plan(checkpoint=saved), net, data).result()
    assert not alike(net.embed.weight, net.head.weight)
    assert len(result.checkpoints) > 2
    for path in result.checkpoints[:-1]:
        other = language()
        etude.Run(plan(), other, data, resume=str(path)).result()
        assert all(alike(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def loss_of_batch(net: nn.Module, words: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(words[:, :-1]).flatten(0, 1), words[:, 1:].flatten())


def test_the_moment_of_a_fraction_is_the_runs() -> None:
    assert pieces(True, (fraction(2 / 3), False)).at(Progress(5, extent=etude.Extent(steps=9))) is True
