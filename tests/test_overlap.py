"""Two trainers that move the same array by turns are told; one that follows another is not."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn

import etude
from etude.errors import SettingError
from etude.step.trainer import Trainer
from nets import arrays, chain, changed, data, give_gradients, graph

X, Y = data(1)[0]
MOVES = "Another trainer moves '0.weight', '0.bias', '2.weight', '2.bias' in turn with this one. Nothing was changed"


def step(net: nn.Module, trainer: Trainer, seed: int = 0) -> None:
    give_gradients(net, seed)
    trainer.step()
    trainer.zero_grad()


def test_two_trainers_in_turn_are_refused_at_the_first_step_of_the_second() -> None:
    net = chain()
    first, second = Trainer(net), Trainer(net)
    step(net, first)
    give_gradients(net, 1)
    before = arrays(net)
    with pytest.raises(SettingError, match=MOVES):
        second.step()
    assert changed(before, net) == set()
    assert second.progress.step == 0
    first.step()


@pytest.mark.parametrize("act", ["allreduce_grads", "clip_grads", "update", "step"])
def test_every_half_of_a_step_is_refused(act: str) -> None:
    net = chain()
    first, second = Trainer(net), Trainer(net)
    step(net, first)
    give_gradients(net, 1)
    gradient = net[0].weight.grad.clone()
    with pytest.raises(SettingError, match="Another trainer moves"):
        getattr(second, act)(*([1e-3] if act == "clip_grads" else []))
    assert torch.equal(net[0].weight.grad, gradient)


def test_a_new_trainer_in_place_of_the_old_is_none() -> None:
    """A cell of a notebook that is run again."""
    net = chain()
    kept = []
    for n in range(3):
        trainer = Trainer(net)
        kept.append(trainer)
        step(net, trainer, n)
        step(net, trainer, n)


def test_the_one_left_behind_may_not_come_back() -> None:
    net = chain()
    first = Trainer(net)
    step(net, first)
    second = Trainer(net)
    step(net, second)
    give_gradients(net, 1)
    before = arrays(net)
    with pytest.raises(SettingError, match=MOVES):
        first.step()
    assert changed(before, net) == set()


def test_the_one_left_behind_may_come_back_when_the_other_is_gone() -> None:
    net = chain()
    first = Trainer(net)
    step(net, first)
    second = Trainer(net)
    step(net, second)
    del second
    gc.collect()
    step(net, first)


def test_who_lets_go_is_no_other() -> None:
    net = chain()
    first, second = Trainer(net), Trainer(net)
    step(net, first)
    first.detach()
    step(net, second)
    third = Trainer(net)
    second.detach()
    step(net, third)


def test_trainers_that_say_so_share() -> None:
    net = chain()
    first, second = Trainer(net, share=True), Trainer(net, share=True)
    before = arrays(net)
    for n in range(2):
        step(net, first, n)
        step(net, second, n)
    assert len(changed(before, net)) == 4


def test_one_that_shares_and_one_that_does_not() -> None:
    """Both have to say it, as the message has it; or who says it is free of the question."""
    net = chain()
    first, second = Trainer(net, share=True), Trainer(net)
    step(net, first)
    step(net, second)
    step(net, first)


def test_parts_of_their_own_are_no_overlap() -> None:
    net = graph()
    first, second = Trainer(net, part="a"), Trainer(net, part="b")
    for n in range(2):
        step(net, first, n)
        step(net, second, n)


def test_only_what_they_share_is_named() -> None:
    net = graph()
    first, second = Trainer(net, part="a"), Trainer(net, part=etude.part("a.weight") | "b")
    step(net, first)
    give_gradients(net, 1)
    with pytest.raises(SettingError, match=r"Another trainer moves 'a.weight' in turn"):
        second.step()


def test_what_a_rule_freezes_for_ever_is_not_moved() -> None:
    net = graph()
    first = Trainer(net, learning_rate_multipliers={"a": 0})
    second = Trainer(net, part="a")
    for n in range(2):
        step(net, first, n)
        step(net, second, n)


def test_parameters_given_by_themselves_are_the_nets() -> None:
    net = chain()
    first, second = Trainer(net), Trainer(list(net.parameters()))
    step(net, first)
    give_gradients(net, 1)
    with pytest.raises(SettingError, match="Another trainer moves '0', '1', '2', '3' in turn"):
        second.step()


def test_a_copy_of_the_net_is_another_net() -> None:
    net = chain()
    twin = copy.deepcopy(net)
    first, second = Trainer(net), Trainer(twin)
    for n in range(2):
        step(net, first, n)
        step(twin, second, n)


def test_who_has_not_stepped_is_in_nobodys_way() -> None:
    net = chain()
    kept = [Trainer(net) for _ in range(3)]
    step(net, kept[1])
    step(net, kept[1])


def test_freezing_by_hand_takes_the_overlap_away() -> None:
    net = chain()
    first, second = Trainer(net), Trainer(net)
    step(net, first)
    first.freeze(2)
    second.freeze(0)
    step(net, second)
    step(net, first)
    step(net, second)


def test_thawing_into_what_another_moves_is_found() -> None:
    net = chain()
    first, second = Trainer(net), Trainer(net)
    first.freeze(2)
    second.freeze(0)
    step(net, first)
    step(net, second)
    first.thaw(2)
    before = arrays(net)
    give_gradients(net, 1)
    with pytest.raises(SettingError, match=r"Another trainer moves '2\.weight', '2\.bias' in turn"):
        first.step()
    assert changed(before, net) == set()


def test_a_run_beside_a_trainer() -> None:
    """The run is over when it is over; the trainer goes on."""
    net = chain()
    trainer = Trainer(net)
    step(net, trainer)
    result = etude.train(net, (X, Y), loss="mse", steps=2, batch_size=8, progress=False)
    assert result is not None
    del result
    gc.collect()
    step(net, trainer)


def test_a_trainer_after_a_run() -> None:
    net = chain()
    result = etude.train(net, (X, Y), loss="mse", steps=2, batch_size=8, progress=False)
    trainer = Trainer(net)
    step(net, trainer)
    step(net, trainer)
    assert result is not None


def test_a_trainer_kept_alive_by_an_error_has_to_be_let_go() -> None:
    net = chain()
    first, second = Trainer(net), Trainer(net)
    step(net, first)
    with pytest.raises(etude.StaleGradientError) as kept:
        first.step()
    del first
    gc.collect()
    give_gradients(net, 1)
    with pytest.raises(SettingError, match=r"let go of the other one \(other.detach\(\)\)"):
        second.step()
    del kept
    gc.collect()
    second.step()
