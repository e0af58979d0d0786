"""The tutorial of Gluon's Trainer, walked through with étude's: every one of its steps, and what there is instead.

    python examples/gluon_trainer.py [--quick]

What to look at: `trainer.step(batch_size)` is the same call with the same meaning. What has gone is around it: no
optimizer_params, no grad_req, no store; and a step that would go wrong says so before it changes anything.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import etude
from etude import Progress, Schedule, cosine, multi_step, polynomial, step_decay, steps, warmup

Seen = dict[str, Any]


def main(quick: bool = False, data: tuple[Tensor, Tensor] | None = None, weight: Tensor | None = None) -> Seen:
    """What was seen on the way, by section. `data`: inputs (n, 4) and targets (n,); `weight`: the first one, (1, 4)."""
    torch.manual_seed(0)
    x, y = (torch.rand(8, 4), torch.rand(8)) if data is None else data
    seen: Seen = {"data": (x, y)}
    net, seen["a step"] = a_step(x, y, weight)
    seen["twice the batch"] = twice_the_batch(net, x, y)
    seen["an instance"] = an_instance(net, x, y)
    seen["in pieces"] = in_pieces(net, x, y)
    seen["taken apart"] = taken_apart(net, x, y)
    seen["warm-up"] = warm_up(net, x, y)
    seen["schedule"] = a_schedule(net, x, y, 20 if quick else 200)
    return seen


def forward_backward(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of each sample. Backward is of their sum, which `step` divides by how many there are."""
    losses = (net(x).flatten() - y).square() / 2
    losses.sum().backward()
    return losses.detach()


def a_step(x: Tensor, y: Tensor, weight: Tensor | None) -> tuple[nn.Module, Seen]:
    """Network and trainer, forward and backward, and one step."""
    print("# A step")
    net = nn.LazyLinear(1)  # how many inputs there are shows when it is first called
    trainer = etude.Trainer(net, "sgd", learning_rate=1.0)
    print(f"the rate is {trainer.learning_rate}")
    unshaped = refused(trainer.step)

    net(x)
    if weight is not None:
        net.load_state_dict({"weight": weight, "bias": torch.zeros(1)})
    current = net.weight.detach().clone()
    stale = refused(trainer.step)
    assert torch.equal(net.weight, current)

    losses = forward_backward(net, x, y)
    start = {"losses": losses, **look(net)}
    assert torch.equal(net.weight, current)  # backward moves nothing
    trainer.step(len(x))
    left = net.weight.detach() - (current - net.weight.grad / len(x))  # gradients can still be read
    print(f"{shown(current)} became {shown(net.weight)}")
    print(f"by hand: current - gradient / {len(x)}; largest difference {left.abs().max():g}\n")
    after = look(net)
    trainer.detach()  # lets go of the net, for the next trainer
    return net, {"unshaped": unshaped, "stale": stale, "before": start, "after": after, "difference": left}


def refused(call: Callable[[], object]) -> str:
    """The words with which a call is refused."""
    try:
        call()
    except etude.EtudeError as error:
        print(f"refused: {error}")
        return str(error)
    raise AssertionError("it was not refused")


def shown(array: Tensor) -> str:
    return "[" + " ".join(f"{number:7.4f}" for number in array.flatten().tolist()) + "]"


def look(net: nn.Module) -> Seen:
    """Copies of the arrays and their gradients, by name."""
    found: Seen = {}
    for name, array in net.named_parameters():
        found[name] = array.detach().clone()
        found[f"{name}.grad"] = None if array.grad is None else array.grad.clone()
    return found


def stepped(net: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Seen:
    """The arrays of a copy of the net after one step of plain gradient descent."""
    twin = copy.deepcopy(net)
    trainer = etude.Trainer(twin, "sgd", learning_rate=1.0, **options)
    forward_backward(twin, x, y)
    trainer.step(len(x))
    return look(twin)


def twice_the_batch(net: nn.Module, x: Tensor, y: Tensor) -> Seen:
    """The size of the batch does not change the size of the step."""
    print("# Twice the batch, the same step")
    once, twice = stepped(net, x, y), stepped(net, x.repeat(2, 1), y.repeat(2))
    print(f"{len(x)} samples       {shown(once['weight'])}")
    print(f"the same twice  {shown(twice['weight'])}\n")
    return {"once": once, "twice": twice}


def an_instance(net: nn.Module, x: Tensor, y: Tensor) -> Seen:
    """An optimizer that was made elsewhere, and a new learning rate on the way."""
    print("# An optimizer instance, and a new learning rate")
    trainer = etude.Trainer(net, torch.optim.Adam(net.parameters(), lr=1.0))
    moments = [{"losses": forward_backward(net, x, y), **look(net), "rate": trainer.learning_rate}]
    trainer.step(len(x))
    moments.append({**look(net), "rate": trainer.learning_rate})
    print(f"Adam's first step goes by its rate: {shown(moments[1]['weight'] - moments[0]['weight'])}")

    trainer.set_learning_rate(0.1)
    moments.append({"losses": forward_backward(net, x, y), **look(net), "rate": trainer.learning_rate})
    trainer.step(len(x))
    moments.append({**look(net), "rate": trainer.learning_rate})
    print(f"its second, at a rate of {trainer.learning_rate}:  {shown(moments[3]['weight'] - moments[2]['weight'])}")
    trainer.detach()
    misspelt = refused(lambda: etude.Trainer(net, "adam", lr=1.0))
    print()
    return {"moments": moments, "misspelt": misspelt}


def in_pieces(net: nn.Module, x: Tensor, y: Tensor) -> Seen:
    """There is no store to choose. Where the batch is too big for one pass, its pieces add up to the same step."""
    print("# In pieces")
    twin = copy.deepcopy(net)
    trainer = etude.Trainer(twin, "sgd", learning_rate=1.0, accumulate=2)
    made = []
    for rows in torch.arange(len(x)).split((len(x) + 1) // 2):
        forward_backward(twin, x[rows], y[rows])
        made.append(trainer.step(len(rows)))
    whole, pieces = stepped(net, x, y), look(twin)
    print(f"a step was made: {made}")
    print(f"the whole  {shown(whole['weight'])}\nin pieces  {shown(pieces['weight'])}\n")
    return {"made": made, "whole": whole, "pieces": pieces}


def taken_apart(net: nn.Module, x: Tensor, y: Tensor) -> Seen:
    """The parts of a step one by one, here to clip by a norm that is looked at."""
    print("# A step taken apart")
    twin = copy.deepcopy(net)
    trainer = etude.Trainer(twin, "sgd", learning_rate=1.0)
    forward_backward(twin, x, y)
    trainer.allreduce_grads()  # sums over processes: nothing to do in one
    norm = trainer.clip_grads(0.1, len(x))
    trainer.update(len(x))
    whole = stepped(net, x, y, clip_norm=0.1)
    print(f"the norm of the mean gradient was {norm:.4f}, and is 0.1 at most now")
    print(f"taken apart    {shown(twin.weight)}\nclip_norm=0.1  {shown(whole['weight'])}\n")
    return {"norm": norm, "apart": look(twin), "whole": whole}


SCHEDULES: Mapping[str, Schedule] = {
    "every 2 steps a tenth": step_decay(1.0, 0.1, steps(2)),
    "a tenth at 3 and 6": multi_step(1.0, 0.1, at=[steps(3), steps(6)]),
    "a parabola": polynomial(1.0, 0.1, power=2, over=steps(10)),
    "half a wave": cosine(1.0, 0.1, over=steps(10)),
}


def warm_up(net: nn.Module, x: Tensor, y: Tensor) -> Seen:
    """A rate set by hand before every step, and the same rate as a schedule."""
    print("# A warm-up, by hand and as a schedule")
    seen: Seen = {}
    for name, falling in SCHEDULES.items():
        rate = warmup(steps(4)) * falling
        by_hand, given = copy.deepcopy(net), copy.deepcopy(net)
        setter = etude.Trainer(by_hand, "sgd", learning_rate=0.0)
        follower = etude.Trainer(given, "sgd", learning_rate=rate)
        for i in range(10):
            setter.set_learning_rate(rate.at(Progress(i)))
            for each, trainer in ((by_hand, setter), (given, follower)):
                forward_backward(each, x, y)
                trainer.step(len(x))
        seen[name] = (look(by_hand), look(given))
        same = torch.equal(by_hand.weight, given.weight)
        print(f"{name:<22} {[round(rate.at(Progress(i)), 4) for i in range(6)]} ... the same weights: {same}")
    print()
    return seen


def a_schedule(net: nn.Module, x: Tensor, y: Tensor, count: int) -> Seen:
    """A schedule in place of the learning rate: the trainer's own clock asks it."""
    print("# A schedule")
    twin, rate = copy.deepcopy(net), step_decay(0.5, 0.1, steps(count // 2))
    trainer = etude.Trainer(twin, "sgd", learning_rate=rate, momentum=0.9)
    rates, losses = [], []
    for number in range(count):
        rates.append(trainer.learning_rate)
        losses.append(forward_backward(twin, x, y).mean().item())
        trainer.step(len(x))
        if number % (count // 4) == 0:
            print(f"step {number + 1:>3}  rate {rates[-1]:<5g} loss {losses[-1]:.4f}")
    return {"rates": rates, "losses": losses, "refused": refused(lambda: trainer.set_learning_rate(1.0))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds, for tests")
    main(parser.parse_args().quick)
