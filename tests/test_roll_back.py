"""Going back to a snapshot when numbers break: everything goes back but the clock and the data, and rates shrink."""

from __future__ import annotations

import copy
import io
import json
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude import Directory, NonFiniteError, Run, Update, ema, every, linear, steps
from etude.errors import StateError
from etude.listen.bar import Bar
from etude.run.events import Event, RolledBack, Skipped, Stepped
from etude.step.averaging import Averages
from etude.step.policies import policy, roll_back
from etude.step.precision import Precision
from etude.step.snapshots import Snapshots
from etude.step.work import Manner, Work
from etude.values.progress import Extent, Progress
from small import Noisy, arrays, classified, close, kinds, mlp, options, run, same, trained

X, Y = classified(48)
TWO = roll_back(every=steps(2))


def spoiled(*numbers: int, size: int = 4) -> tuple[Tensor, Tensor]:
    """Data by which, in batches of `size` in their order, the steps with these numbers see NaN."""
    x = X.clone()
    x[[size * (number - 1) for number in numbers]] = nan
    return x, Y


def events(net: nn.Module, data: Any, **changed: Any) -> list[Event]:
    return list(run(net, data, shuffle=False, **changed))


def of(kind: type[Any], seen: list[Event]) -> list[Any]:
    return [event for event in seen if isinstance(event, kind)]


class ByHand:
    """The same in plain torch: Adam, a snapshot of net and optimizer each `span` steps, and back to it at NaN."""

    def __init__(self, net: nn.Module, rate: float, span: int, factor: float) -> None:
        self.net, self.rate, self.span, self.factor = net, rate, span, factor
        self.optimizer = torch.optim.Adam(net.parameters(), lr=rate)
        self.made_at: list[int] = []
        self._keep()

    def _keep(self) -> None:
        self.kept = copy.deepcopy((self.net.state_dict(), self.optimizer.state_dict()))

    def step(self, number: int, x: Tensor, y: Tensor) -> None:
        before = copy.deepcopy(self.net.state_dict())
        loss = functional.cross_entropy(self.net(x), y)
        if not torch.isfinite(loss):
            del before
            net, optimizer = copy.deepcopy(self.kept)
            self.net.load_state_dict(net)
            self.optimizer.load_state_dict(optimizer)
            self.rate *= self.factor
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        last = self.made_at[-1] if self.made_at else 0
        self.made_at.append(number)
        if number // self.span > last // self.span or (number - 1) // self.span > last // self.span:
            self._keep()


class Normed(nn.Module):
    """A batch norm without dropout: what it computes is the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.body = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x)
        return made


@pytest.mark.parametrize("bad", [(1,), (4,), (5, 6), (3, 4, 9), (2, 3, 4, 5)])
@pytest.mark.parametrize("optimizer", ["adam", "torch.adam"])
def test_it_is_that_of_plain_torch(bad: tuple[int, ...], optimizer: str) -> None:
    data = spoiled(*bad)
    mine, theirs = Normed(), Normed()
    seen = events(mine, data, optimizer=optimizer, learning_rate=0.05, non_finite=TWO)
    hand = ByHand(theirs, 0.05, 2, 0.5)
    for number in range(1, 13):
        rows = slice(4 * (number - 1), 4 * number)
        hand.step(number, data[0][rows], data[1][rows])
    assert [int(event.progress.step) for event in of(Stepped, seen)] == hand.made_at
    assert len(of(RolledBack, seen)) == len(bad)
    assert close(arrays(mine), arrays(theirs), 1e-5)


def test_what_is_told() -> None:
    seen = events(mlp(), spoiled(4), non_finite=TWO, learning_rate=0.1, epochs=1)
    at = next(place for place, event in enumerate(seen) if isinstance(event, RolledBack))
    assert kinds(seen)[at - 1 : at + 2] == ["Skipped", "RolledBack", "Settled"]
    event = seen[at]
    assert isinstance(event, RolledBack)
    assert (event.progress.step, event.to_step, event.factor) == (4, 2, 0.5)
    assert event.why == "the loss 'loss' is not finite. The batch has NaN or infinity in batch[0]."
    rates = {int(made.progress.step): made.rate for made in of(Stepped, seen)}
    assert rates == {step: 0.1 if step < 4 else 0.05 for step in range(1, 13) if step != 4}


def test_the_net_is_that_of_the_snapshot_right_after() -> None:
    net, kept = Noisy(), {}
    for event in run(net, spoiled(6), shuffle=False, non_finite=roll_back(every=steps(3)), optimizer="adam"):
        if isinstance(event, Stepped) and event.progress.step in (3, 5):
            kept[int(event.progress.step)] = arrays(net)
        if isinstance(event, RolledBack):
            assert same(arrays(net), kept[3])
            assert not same(kept[3], kept[5])
            break
    else:
        raise AssertionError("it never went back")


def test_before_the_first_snapshot_it_is_the_net_as_it_was_given() -> None:
    net = Noisy()
    before = arrays(net)
    for event in run(net, spoiled(2), shuffle=False, non_finite=roll_back()):
        if isinstance(event, RolledBack):
            assert event.to_step == 0
            assert same(arrays(net), before)
            return
    raise AssertionError("it never went back")


def test_every_rate_shrinks_and_schedules_go_on() -> None:
    rates = linear(0.1, 0.0)
    known = {"learning_rate_multipliers": {"0": 0.5, "2.weight": -0.7}}
    made = run(mlp(), spoiled(3, 7), shuffle=False, non_finite=TWO, learning_rate=rates, optimizer="sgd", **known)
    table = made.checked.table
    plain = run(mlp(), spoiled(3, 7), shuffle=False, non_finite="skip", learning_rate=rates, optimizer="sgd", **known)
    seen = {int(event.progress.step): event.rate for event in made if isinstance(event, Stepped)}
    other = {int(event.progress.step): event.rate for event in plain if isinstance(event, Stepped)}
    assert seen == {step: pytest.approx(rate * 0.5 ** ((step > 3) + (step > 7))) for step, rate in other.items()}
    for step in range(12):
        progress = Progress(step, extent=made.checked.extent)
        mine = table.at(progress).columns["learning_rate"]
        theirs = plain.checked.table.at(progress).columns["learning_rate"]
        assert mine == pytest.approx([rate / 4 for rate in theirs])


def test_averages_and_optimizer_memory_go_back_too() -> None:
    """A run in which nothing was ever done after the snapshot is the run that went back to it, but for the clock."""
    bad = spoiled(5, 6, 7, 8, 9, 10, 11, 12)
    back = trained(mlp(), bad, shuffle=False, non_finite=roll_back(every=steps(4), most=8), averages=ema(0.5))
    short = trained(mlp(), (X, Y), shuffle=False, steps=4, epochs=None, averages=ema(0.5))
    assert same(arrays(back.net), arrays(short.net))
    assert same(dict(back.averages["ema"]), dict(short.averages["ema"]))
    once = trained(mlp(), spoiled(6, 7, 8, 9, 10, 11, 12), shuffle=False, non_finite=roll_back(every=steps(4), most=7))
    assert same(arrays(once.net), arrays(short.net)), "step 5 was undone"


def test_losses_that_keep_arrays_go_back_too() -> None:
    class Centred(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            self.seen += 1
            return functional.cross_entropy(output, target)

    loss = Centred()
    found = []
    for event in run(mlp(), spoiled(4, 6), shuffle=False, loss=loss, non_finite=TWO):
        if isinstance(event, Stepped | RolledBack):
            found.append(float(loss.seen))
    assert [count - found[0] + 1 for count in found] == [1, 2, 3, 2, 3, 3, 4, 5, 6, 7, 8, 9]


def test_after_so_many_times_it_is_an_error() -> None:
    net = Noisy()
    with pytest.raises(NonFiniteError) as caught:
        events(net, spoiled(3, 6, 9), non_finite=roll_back(0.1, steps(2), most=2))
    error = caught.value
    assert error.step == 9
    assert error.names == ("batch[0]",)
    for piece in (
        "Step 9 is refused: the loss 'loss' is not finite",
        "went back 2 times before",
        "at 0.01 of",
        "clip_norm",
    ):
        assert piece in str(error)
    expected = Noisy()
    events(expected, spoiled(3, 6), non_finite=roll_back(0.1, steps(2), most=2), steps=8)
    assert same(arrays(net), arrays(expected)), "the step that raised has left a trace"


def test_of_several_updates_all_go_back() -> None:
    def adversary(net: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(net(batch[0].nan_to_num()), batch[1])

    both = [
        Update("one", adversary, "body", optimizer="sgd", learning_rate=0.5),
        Update("two", "cross_entropy", "head", optimizer="adam", learning_rate=0.1),
    ]
    net, kept = Noisy(), {}
    seen = []
    for event in run(net, spoiled(4), shuffle=False, loss=None, updates=both, non_finite=TWO):
        seen.append(event)
        if isinstance(event, Stepped) and event.progress.step == 2:
            kept = arrays(net)
        if isinstance(event, RolledBack):
            assert same(arrays(net), kept), "what the first update moved in that step is undone"
    (skipped,) = of(Skipped, seen)
    assert skipped.progress.step == 4
    assert [e.rate for e in of(Stepped, seen) if e.progress.step > 4] == [0.25] * 8
    net = Noisy()
    with pytest.raises(NonFiniteError, match="In this step 'one' had acted"):
        events(net, spoiled(4, 5), loss=None, updates=both, non_finite=roll_back(most=1))


def test_a_net_that_broke_without_a_word_is_not_taken() -> None:
    """An array becomes infinite by a step whose gradient was finite: the older snapshot is gone back to."""
    net = mlp()
    last: list[RolledBack] = []
    for event in run(net, (X, Y), shuffle=False, non_finite=TWO, optimizer="sgd"):
        if isinstance(event, Stepped) and event.progress.step == 3:
            with torch.no_grad():
                net.get_parameter("2.bias")[0] = torch.inf
        if isinstance(event, RolledBack):
            last.append(event)
            assert torch.isfinite(net.get_parameter("2.bias")).all()
    assert [(event.progress.step, event.to_step) for event in last] == [(4, 2)]


def test_infinities_that_belong_to_a_net_keep_nothing_from_being_taken() -> None:
    class Masked(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*mlp())
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    back = of(RolledBack, events(Masked(), spoiled(6), non_finite=TWO))
    assert [event.to_step for event in back] == [4]


@pytest.mark.parametrize("changed", [{}, {"optimizer": "torch.adamw"}, {"averages": ema(0.9)}, {"precision": "bf16"}])
def test_gone_on_with_anywhere_it_is_the_same(changed: dict[str, Any], tmp_path: Path) -> None:
    data = spoiled(3, 6, 7, 11)
    plan = options(shuffle=False, non_finite=TWO, learning_rate=0.05, **changed)
    whole_net = Noisy()
    whole = etude.train(
        whole_net, data, progress=False, checkpoint=Directory(tmp_path, every(steps(1)), keep=None), **plan
    )
    alone = etude.train(Noisy(), data, progress=False, **plan)
    assert same(arrays(whole.net), arrays(alone.net)), "saving changed the run"
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) >= 12
    for path in files:
        resumed = Run(etude.Plan(**plan), Noisy(9), data, resume=path).result()
        assert same(arrays(resumed.net), arrays(whole.net)), path.name
        assert resumed.history["rate"].values == whole.history["rate"].values
        for name, one in whole.averages.items():
            assert same(dict(resumed.averages[name]), dict(one))


def test_a_run_without_it_pays_and_saves_nothing(tmp_path: Path) -> None:
    made = run(non_finite="skip")
    list(made)
    record, tensors = made._going.state()
    assert record["roll_back"] == {}
    assert not any(name.startswith("roll_back:") for name in tensors)
    rolling = run(non_finite=TWO)
    list(rolling)
    assert any(name.startswith("roll_back:") for name in rolling._going.state()[1])


def test_compiled_steps_go_back() -> None:
    data = spoiled(3, 6)
    plain, compiled = mlp(), mlp()
    changed: dict[str, Any] = {"non_finite": TWO, "learning_rate": 0.05, "optimizer": "adam"}
    assert len(of(RolledBack, events(plain, data, **changed))) == 2
    assert len(of(RolledBack, events(compiled, data, compile=True, **changed))) == 2
    assert close(arrays(plain), arrays(compiled), 1e-5)


def test_listeners_tell_of_it(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = tmp_path / "log.jsonl"
    with Bar(stream) as bar, etude.JsonLines(log) as lines:
        for _ in run(mlp(), spoiled(4, 8), shuffle=False, non_finite=TWO).to(bar, lines):
            pass
    assert "rolled back 2 times, last to step 6, rates x 0.25" in stream.getvalue()
    told = [json.loads(line) for line in log.read_text().splitlines()]
    (first, second) = [one for one in told if one["event"] == "rolled_back"]
    assert (first["step"], first["to_step"], first["factor"]) == (4, 2, 0.5)
    assert (second["step"], second["to_step"], second["factor"]) == (8, 6, 0.25)
    assert "not finite" in first["reason"]


# ----------------------------------------------------------------------------------------------------------- by hand


def snapshots(net: nn.Module) -> tuple[Work, Snapshots]:
    extent, made = Extent(steps=10), policy(TWO)
    precision = Precision("fp32", torch.device("cpu"))
    work = Work(Update("loss", "cross_entropy"), net, precision, extent, Manner(made))
    return work, Snapshots([work], Averages((), work.stepper.table.tree, extent), net, made)


def test_in_a_loop_of_ones_own() -> None:
    net = mlp()
    work, kept = snapshots(net)
    clock = Progress(extent=Extent(steps=10))
    kept.begin(clock)
    before = arrays(net)
    report = work.step(clock, (X[:4], Y[:4]))
    assert kept.back([(work, report)], 1) == ""
    report = work.step(clock, (X[:4] * nan, Y[:4]))
    assert "not finite" in kept.back([(work, report)], 2)
    assert same(arrays(net), before)
    assert (kept.times, kept.factor, work.rate(clock)) == (1, 0.5, 0.0005)


def test_a_state_of_another_net_is_refused() -> None:
    _, kept = snapshots(mlp())
    clock = Progress(extent=Extent(steps=10))
    kept.begin(clock)
    state = kept.state()
    _, other = snapshots(Noisy())
    with pytest.raises(StateError, match=r"The snapshot is of another net: it differs in 'body\.0\.weight'"):
        other.load(state)
    _, third = snapshots(mlp())
    with pytest.raises(StateError, match="The snapshot is of the updates 'critic'"):
        third.load({**state, "optimizers": {"critic": state["optimizers"]["loss"]}})
    third.load(state)
    assert third.step == 0
    third.load({})
