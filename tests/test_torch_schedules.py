"""Schedules from torch's schedulers and back: value for value, in any order, alone and in trainers."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as peers

import etude
from etude import (
    Extent,
    Progress,
    Schedule,
    ScheduleError,
    SettingError,
    cosine,
    epochs,
    pieces,
    plateau,
    samples,
    steps,
    warmup,
)
from etude.optim import from_torch, to_torch
from etude.values.marks import FROZEN

pytestmark = pytest.mark.filterwarnings("error")

Make = Callable[[Optimizer], Any]
COUNT = 60


def sequence(o: Optimizer) -> Any:
    warm, rest = peers.LinearLR(o, 0.1, total_iters=5), peers.CosineAnnealingLR(o, 40)
    return peers.SequentialLR(o, [warm, rest], milestones=[5])


def chain(o: Optimizer) -> Any:
    return peers.ChainedScheduler([peers.ConstantLR(o, 0.1, total_iters=5), peers.ExponentialLR(o, 0.9)], o)


MAKERS: dict[str, Make] = {
    "StepLR": lambda o: peers.StepLR(o, 7, gamma=0.3),
    "MultiStepLR": lambda o: peers.MultiStepLR(o, [3, 11, 40]),
    "ConstantLR": lambda o: peers.ConstantLR(o, 0.25, total_iters=9),
    "LinearLR": lambda o: peers.LinearLR(o, 0.1, 0.8, total_iters=20),
    "ExponentialLR": lambda o: peers.ExponentialLR(o, 0.95),
    "CosineAnnealingLR": lambda o: peers.CosineAnnealingLR(o, 20, eta_min=0.01),
    "CosineAnnealingWarmRestarts": lambda o: peers.CosineAnnealingWarmRestarts(o, 7, 2),
    "OneCycleLR": lambda o: peers.OneCycleLR(o, 0.7, total_steps=COUNT),
    "OneCycleLR of three": lambda o: peers.OneCycleLR(o, 0.7, total_steps=COUNT, three_phase=True),
    "CyclicLR": lambda o: peers.CyclicLR(o, 0.1, 0.6, 6, mode="exp_range", gamma=0.98, cycle_momentum=False),
    "CyclicLR of a function": lambda o: peers.CyclicLR(o, 0.1, 0.6, 6, scale_fn=lambda x: 0.8**x),
    "PolynomialLR": lambda o: peers.PolynomialLR(o, 30, power=2.0),
    "LambdaLR": lambda o: peers.LambdaLR(o, lambda n: 0.9**n + n / 100),
    "MultiplicativeLR": lambda o: peers.MultiplicativeLR(o, lambda n: 0.97 if n % 2 else 1.01),
    "SequentialLR": sequence,
    "ChainedScheduler": chain,
}

RATE_ALONE = [name for name in MAKERS if "OneCycle" not in name and name != "CyclicLR of a function"]
"""Those that leave the momentum alone."""


def plain(rate: float = 0.5) -> Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=rate, momentum=0.9)


def driven(optimizer: Optimizer, scheduler: Any, count: int = COUNT, key: str = "lr") -> list[float]:
    """What the optimizer's first group holds at each step while a scheduler drives it."""
    seen = []
    for _ in range(count):
        seen.append(float(optimizer.param_groups[0][key]))
        optimizer.step()
        scheduler.step()
    return seen


def theirs(make: Make, count: int = COUNT, key: str = "lr") -> list[float]:
    optimizer = plain()
    return driven(optimizer, make(optimizer), count, key)


def ours(made: Schedule, count: int = COUNT) -> list[float]:
    return [made.at(Progress(step)) for step in range(count)]


# from_torch


@pytest.mark.parametrize("name", MAKERS)
def test_every_scheduler_of_torch_is_a_schedule_in_any_order(name: str) -> None:
    expected = theirs(MAKERS[name])
    assert ours(from_torch(MAKERS[name], 0.5)) == pytest.approx(expected, rel=0, abs=1e-12)
    made = from_torch(MAKERS[name], rate=0.5)
    order = list(range(COUNT)) * 2
    random.Random(name).shuffle(order)
    assert [made.at(Progress(n)) for n in order] == pytest.approx([expected[n] for n in order], rel=0, abs=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_a_scheduler_that_was_not_stepped_is_copied_and_left_alone(name: str) -> None:
    expected, optimizer = theirs(MAKERS[name]), plain()
    scheduler = MAKERS[name](optimizer)
    group = copy.deepcopy({key: value for key, value in optimizer.param_groups[0].items() if key != "params"})
    made = from_torch(scheduler)
    assert made.at(Progress(30)) == pytest.approx(expected[30], abs=1e-12)
    assert {key: value for key, value in optimizer.param_groups[0].items() if key != "params"} == group
    # What the two do from here on does not meet.
    assert driven(optimizer, scheduler) == pytest.approx(expected, abs=1e-12)
    assert ours(made) == pytest.approx(expected, rel=0, abs=1e-12)


def test_the_net_of_a_copied_scheduler_is_not_copied() -> None:
    class Uncopied(nn.Parameter):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("a parameter was copied")

    optimizer = torch.optim.Adam([Uncopied(torch.ones(3))], lr=0.1)
    made = from_torch(peers.OneCycleLR(optimizer, 0.4, total_steps=20))
    assert max(ours(made, 20)) == pytest.approx(0.4)
    assert from_torch(peers.OneCycleLR(optimizer, 0.4, total_steps=20), setting="momentum").at(Progress()) == 0.95


def test_some_schedulers_set_the_rate_themselves() -> None:
    make = MAKERS["OneCycleLR"]
    assert ours(from_torch(make)) == ours(from_torch(make, 0.5))
    for name in set(MAKERS) - {"OneCycleLR", "OneCycleLR of three", "CyclicLR", "CyclicLR of a function"}:
        with pytest.raises(
            ScheduleError, match=r"its rate follows that of its optimizer. Write from_torch\(..., rate="
        ):
            from_torch(MAKERS[name])


def test_the_momentum_that_a_scheduler_moves_is_a_schedule_too() -> None:
    make = MAKERS["OneCycleLR"]
    made = from_torch(make, setting="momentum")
    assert ours(made) == pytest.approx(theirs(make, key="momentum"), rel=0, abs=1e-12)
    assert ours(made)[0] == 0.95
    assert min(ours(made)) < 0.86


def test_a_scheduler_that_is_stepped_by_the_epoch() -> None:
    made, expected = from_torch(MAKERS["StepLR"], 0.5, every=epochs(1)), theirs(MAKERS["StepLR"])
    assert [made.at(Progress(n, n / 10)) for n in range(200)] == [expected[n // 10] for n in range(200)]
    by_samples = from_torch(MAKERS["StepLR"], 0.5, every=samples(64))
    assert [by_samples.at(Progress(n, samples=32 * n)) for n in range(30)] == [expected[n // 2] for n in range(30)]


def test_it_joins_what_torch_does_not() -> None:
    tail = from_torch(MAKERS["ExponentialLR"], 1.0)
    made = warmup(steps(4)) * pieces(0.2, (steps(6), 0.2 * tail)) * plateau("loss", patience=0, factor=0.5)
    made.check(Extent(steps=20))
    assert [made.at(Progress(n)) for n in (0, 5, 6, 8)] == pytest.approx([0.05, 0.2, 0.2, 0.2 * 0.95**2])
    memory = made.see(made.see(made.start(), {"loss": 1.0}), {"loss": 1.0})
    assert made.at(Progress(8), memory) == pytest.approx(0.1 * 0.95**2)
    assert cosine(1.0, over=steps(3)).then(tail).at(Progress(5)) == pytest.approx(0.95**2)


@pytest.mark.parametrize("name", RATE_ALONE)
def test_a_trainer_steps_as_torch_does_with_the_scheduler(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    peer = copy.deepcopy(net)
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.5)
    scheduler = MAKERS[name](optimizer)
    trainer = etude.Trainer(net, "sgd", learning_rate=from_torch(MAKERS[name], 0.5))
    for _ in range(20):
        x = torch.randn(4, 3)
        (net(x) ** 2).mean().backward()
        trainer.step()
        optimizer.zero_grad()
        (peer(x) ** 2).mean().backward()
        optimizer.step()
        scheduler.step()
    assert trainer.learning_rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
    for mine, his in zip(net.parameters(), peer.parameters(), strict=True):
        assert torch.allclose(mine, his, atol=1e-6)


def test_a_trainer_follows_one_cycle_of_rate_and_momentum() -> None:
    make, optimizer = MAKERS["OneCycleLR"], plain()
    scheduler = make(optimizer)
    trainer = etude.Trainer(
        {"w": nn.Parameter(torch.ones(1))},
        "sgd",
        learning_rate=from_torch(make),
        momentum=from_torch(make, setting="momentum"),
    )
    (his,), mine = optimizer.param_groups[0]["params"], trainer.table.tree.arrays["w"]
    for step in range(COUNT - 1):
        for array in (his, mine):
            array.grad = torch.tensor([float(step % 3)])
        optimizer.step()
        scheduler.step()
        trainer.step()
    assert mine.item() == pytest.approx(his.item(), rel=1e-5)


def test_a_trainer_resumes_in_the_middle() -> None:
    def trainer() -> etude.Trainer:
        return etude.Trainer(nn.Linear(1, 1), "sgd", learning_rate=from_torch(MAKERS["CosineAnnealingLR"], 0.5))

    made, again = trainer(), trainer()
    for _ in range(13):
        made.net(torch.ones(1, 1)).sum().backward()
        made.step()
    again.load_state_dict(made.state_dict())
    assert again.learning_rate == made.learning_rate == pytest.approx(theirs(MAKERS["CosineAnnealingLR"])[13])


def test_a_trainer_that_ends_nobody_knows_when_plays_it_forward_only_so_far() -> None:
    class Counting(peers.ConstantLR):
        called = 0

        def step(self, *given: Any) -> None:
            Counting.called += 1
            super().step(*given)

    etude.Trainer(nn.Linear(1, 1), "sgd", learning_rate=from_torch(lambda optimizer: Counting(optimizer), 0.5))
    assert 1000 < Counting.called < 100_000


def test_a_value_among_schedules() -> None:
    make = MAKERS["StepLR"]
    made = from_torch(make, 0.5)
    assert made == from_torch(make, 0.5)
    assert hash(made) == hash(from_torch(make, 0.5))
    assert made.at(Progress(50)) > 0
    assert made == from_torch(make, 0.5)
    others = [from_torch(make, 0.4), from_torch(make, 0.5, every=epochs(1)), from_torch(MAKERS["LinearLR"], 0.5)]
    assert made not in others
    scheduler = make(plain())
    assert from_torch(scheduler) == from_torch(scheduler) != from_torch(make(plain()))
    assert (made.kind, made.constant, made.reactive, made.length) == ("number", False, False, None)


def test_it_says_what_it_is_and_has_no_text_form() -> None:
    assert repr(from_torch(MAKERS["StepLR"], 0.5)) == "from_torch(<StepLR>, 0.5)"
    assert repr(from_torch(MAKERS["StepLR"](plain()), every=epochs(1))) == "from_torch(<StepLR>, every=epochs(1))"
    momentum = from_torch(MAKERS["OneCycleLR"], setting="momentum")
    assert repr(momentum) == "from_torch(<OneCycleLR>, setting='momentum')"
    for made in (momentum, 0.1 * momentum):
        with pytest.raises(
            SettingError, match=r"<OneCycleLR>.* has no text form: .*a scheduler of torch cannot be wri"
        ):
            etude.write(made)


def test_the_end_of_a_scheduler_is_seen_before_the_run() -> None:
    made = from_torch(lambda o: peers.OneCycleLR(o, 0.1, total_steps=10))
    made.check(Extent(steps=11))
    for _ in range(2):
        with pytest.raises(ScheduleError, match=r"has 11 values and refuses.*Tried to step .*\.until\(steps\(11\)\)"):
            made.check(Extent(steps=12))
    assert made.at(Progress(3)) > 0
    made.until(steps(11)).then(0.01).check(Extent(steps=50))
    with pytest.raises(ScheduleError, match=r"OneCycleLR.*refuses the next step"):
        etude.Trainer(nn.Linear(1, 1), learning_rate=made, total=steps(20))
    with pytest.raises(ScheduleError, match="The position in epochs is not known here"):
        etude.Trainer(nn.Linear(1, 1), learning_rate=from_torch(MAKERS["StepLR"], 0.1, every=epochs(1)))


def stepped(make: Make) -> Any:
    scheduler = make(optimizer := plain())
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    return scheduler


def several() -> Any:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.1, 0.2)]
    return peers.StepLR(torch.optim.SGD(groups, lr=0.1), 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_torch(peers.StepLR), r"<StepLR>.: a class is given; a function.*StepLR\(optimizer, 30\), rate"),
        (lambda: from_torch(3), r"from_torch\(<int>\): a int is given; a function from an optimizer"),  # type: ignore[arg-type]
        (lambda: from_torch(lambda o: 3, 0.1), "a scheduler of torch.optim.lr_scheduler is needed, not a int"),  # type: ignore[arg-type,return-value]
        (lambda: from_torch(lambda o: peers.StepLR(o), 0.1), "cannot be made: TypeError: .*step_size"),  # type: ignore[call-arg]
        (lambda: from_torch(lambda o: peers.StepLR(plain(), 3), 0.1), "is of another optimizer than the one"),
        (lambda: from_torch(peers.ReduceLROnPlateau, 0.1), "a class is given"),
        (
            lambda: from_torch(peers.ReduceLROnPlateau(plain())),
            r'ReduceLROnPlateau follows a score.*Write plateau\("val.loss", factor=0.1, patience=10\)',
        ),
        (lambda: from_torch(lambda o: peers.ReduceLROnPlateau(o), 0.1), "ReduceLROnPlateau follows a score"),
        (lambda: from_torch(stepped(MAKERS["StepLR"])), "the scheduler has been stepped 3 times; a schedule begins at"),
        (lambda: from_torch(stepped(chain)), "the scheduler has been stepped 3 times"),
        (lambda: from_torch(stepped(sequence)), "the scheduler has been stepped 3 times"),
        (lambda: from_torch(several()), "its optimizer has 2 groups, and a schedule is one number"),
        (lambda: from_torch(MAKERS["StepLR"](plain()), 0.1), "has the rate of its optimizer already. Leave out rate="),
        (
            lambda: from_torch(peers.StepLR(torch.optim.Adagrad([torch.ones(1)]), 3), setting="momentum"),
            "its optimizer has no momentum. Leave out setting='momentum'",
        ),
        (lambda: from_torch(MAKERS["StepLR"], 0), "rate=0: a positive number is needed. Write rate=0.1"),
        (lambda: from_torch(MAKERS["StepLR"], "a"), "rate='a': a finite number is needed"),  # type: ignore[arg-type]
        (lambda: from_torch(MAKERS["StepLR"], 0.1, every=3), "3 of what"),  # type: ignore[arg-type]
        (lambda: from_torch(MAKERS["StepLR"], 0.1, every=steps(0)), "longer than nothing"),
        (lambda: from_torch(MAKERS["StepLR"], 0.1, setting="lr"), "setting='lr' is not known: 'learning_rate' or"),
    ],
)
def test_what_is_no_scheduler_to_begin_with(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


# The trap: a scheduler where a schedule is taken


@pytest.mark.parametrize("place", ["learning_rate", "momentum"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (MAKERS["StepLR"](plain()), r"StepLR: a scheduler of torch.* is no schedule. Write .*from_torch\(scheduler\)"),
        (peers.OneCycleLR, r"class OneCycleLR: .*from_torch\(lambda optimizer: OneCycleLR\(optimizer, ...\)"),
        (peers.ReduceLROnPlateau(plain()), r"ReduceLROnPlateau: .* Write plateau\(\"val.loss\""),
        (peers.ReduceLROnPlateau, r"class ReduceLROnPlateau: .* Write plateau\(\"val.loss\""),
        (MAKERS["StepLR"], r"TypeError: Progress is not an Optimizer. Write .*from_torch\(function, rate=0.1\)"),
        (partial(peers.StepLR, step_size=3), r"Progress is not an Optimizer. Write .*from_torch\(function"),
    ],
)
def test_a_scheduler_of_torch_where_a_schedule_is_taken_names_the_way(place: str, given: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        etude.Trainer(nn.Linear(1, 1), "sgd", **{place: given})


# to_torch


SCHEDULES: list[Schedule] = [
    cosine(0.3, 0.01),
    warmup(steps(10)) * cosine(0.3, over=steps(50)),
    etude.step_decay(0.3, 0.5, steps(9)),
    etude.cycle(0.1, etude.repeat(0.2, 3)),
    etude.polynomial(0.3, power=2, over=steps(20), ahead=True),
    etude.schedule(lambda progress: 0.9**progress.step),
    from_torch(sequence, 0.3),
]


@pytest.mark.parametrize("made", SCHEDULES, ids=repr)
def test_any_schedule_drives_a_plain_optimizer(made: Schedule) -> None:
    optimizer = plain(0.25)
    scheduler = to_torch(made, optimizer, total=steps(COUNT))
    expected = [made.at(Progress(n, extent=Extent(steps=COUNT))) for n in range(COUNT)]
    assert driven(optimizer, scheduler) == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_there_and_back_again(name: str) -> None:
    optimizer = plain(0.25)
    scheduler = to_torch(from_torch(MAKERS[name], 0.5), optimizer)
    assert driven(optimizer, scheduler) == pytest.approx(theirs(MAKERS[name]), rel=0, abs=1e-12)
    back = from_torch(to_torch(from_torch(MAKERS[name], 0.5), plain(0.25)))
    assert ours(back) == pytest.approx(theirs(MAKERS[name]), rel=0, abs=1e-12)


def test_epochs_are_counted_where_their_steps_are_said() -> None:
    made = pieces(0.3, (epochs(2), cosine(0.3)))
    for total in (steps(40), epochs(4), Extent(steps=40, epochs=4)):
        optimizer = plain()
        scheduler = to_torch(made, optimizer, total, steps_per_epoch=10)
        expected = [made.at(Progress(n, n / 10, extent=Extent(40, 4))) for n in range(40)]
        assert driven(optimizer, scheduler, 40) == pytest.approx(expected, abs=1e-12)


def test_groups_keep_their_rates_under_a_factor() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.1, 0.02, 0.0)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = to_torch(warmup(steps(4)), optimizer, relative=True)
    seen = []
    for _ in range(5):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert seen == [pytest.approx([0.1 * f, 0.02 * f, 0.0]) for f in (0.25, 0.5, 0.75, 1, 1)]


def test_its_state_is_the_count_of_steps() -> None:
    made = warmup(steps(10)) * cosine(0.3, over=steps(50))
    optimizer = plain()
    scheduler = to_torch(made, optimizer)
    driven(optimizer, scheduler, 17)
    state = copy.deepcopy(scheduler.state_dict())
    later = plain()
    again = to_torch(made, later)
    later.load_state_dict(optimizer.state_dict())
    again.load_state_dict(state)
    expected = [made.at(Progress(n)) for n in range(17, 40)]
    assert driven(later, again, 23) == pytest.approx(expected, abs=1e-12)
    assert driven(optimizer, scheduler, 23) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: to_torch(0.1 * plateau("val.loss"), plain()),
            "listens to 'val.loss', and a LambdaLR hears no metrics",
        ),
        (
            lambda: to_torch(cosine(0.1), plain()),
            r"the run's length is not known on its clock. Write over=steps\(1000\)",
        ),
        (lambda: to_torch(cosine(0.1, over=epochs(3)), plain(), steps(9)), "The position in epochs is not known"),
        (lambda: to_torch(cosine(0.1), plain(), 100), "the length of the run: 100 of what"),  # type: ignore[arg-type]
        (lambda: to_torch(0.1, plain(), steps_per_epoch=0), "steps_per_epoch=0: a whole number, at least 1"),
        (lambda: to_torch(0.1, plain(0.0)), "the optimizer's groups have the rate 0, which no one factor takes"),
        (lambda: to_torch(0.1, several().optimizer), "have the rates 0.1, 0.2, .* write relative=True"),
        (lambda: to_torch(FROZEN, plain()), "at step 0: a finite number is needed, not FROZEN"),
        (lambda: to_torch(etude.constant(True), plain()), "at step 0: a finite number is needed, not True"),
        (lambda: to_torch(peers.StepLR, plain()), "class StepLR: a scheduler of torch"),
        (lambda: to_torch(0.1, nn.Linear(1, 1)), "to_torch.*an optimizer of torch is needed, not a Linear"),  # type: ignore[arg-type]
    ],
)
def test_what_a_lambda_of_torch_cannot_follow(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


def test_nothing_warns() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for make in MAKERS.values():
            ours(from_torch(make, 0.5))
            ours(from_torch(make(plain())))
            optimizer = plain()
            driven(optimizer, to_torch(from_torch(make, 0.5), optimizer))
    assert [str(each.message) for each in caught] == []
