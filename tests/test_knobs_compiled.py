"""Knobs in compiled steps: what plain steps do, with as few programs as torch allows, and never a stale one."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo as dynamo
from torch import Tensor, nn

import etude
from etude import linear, pieces, steps
from etude.errors import PlanError
from etude.step.lifted import _dropping

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="compiling for the CPU needs a C++ compiler"
)

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
Y = (X @ torch.randn(6, 3, generator=torch.Generator().manual_seed(1))).argmax(1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dynamo.reset()
    dynamo.utils.counters.clear()
    yield
    torch.set_num_threads(threads)


class Net(nn.Module):
    """A temperature, a number of rounds, dropout, and (if asked) a branch that a number decides."""

    def __init__(self, branches: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.drop, self.out = nn.Linear(6, 6), nn.Dropout(0.0), nn.Linear(6, 3)
        self.temperature, self.rounds, self.branches = 1.0, 1, branches
        self.register_buffer("gain", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.rounds):
            x = self.drop(torch.tanh(self.a(x)))
        sharp = self.branches and self.temperature > 1.5
        return self.out(x) * self.gain * (2.0 if sharp else self.temperature)


class Smoothing:
    """An object of the user's own that the loss reads."""

    def __init__(self) -> None:
        self.weight = 1.0


def trained(net: nn.Module, compile: bool, **options: Any) -> etude.Result:
    wanted = {"loss": "cross_entropy", "optimizer": "sgd", "learning_rate": 0.1, "batch_size": 8, **options}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return etude.train(net, (X, Y), steps=6, compile=compile, progress=False, **wanted)


def far(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def programs() -> int:
    return int(dynamo.utils.counters["stats"].get("unique_graphs", 0))


def test_numbers_that_change_are_inputs_of_one_program() -> None:
    plain, compiled = Net(), Net()
    # Dropout that keeps everything draws, and drops nothing: the same numbers with it and without.
    literal = {"temperature": linear(1, 2), "gain": linear(1, 3), "p": pieces(0.0, (steps(100), 0.5))}
    expected = trained(plain, False, knobs=literal)
    result = trained(compiled, True, knobs=literal)
    assert far(plain, compiled) < 1e-6
    assert programs() == 1
    assert result.history["knob.temperature"].values == expected.history["knob.temperature"].values
    assert compiled.temperature == plain.temperature
    assert "forward" not in vars(compiled.drop)


def test_dropout_that_changes_needs_one_program_and_is_not_stale() -> None:
    net = Net()
    literal = {"p": pieces(0.0, (steps(3), 1.0))}
    losses = trained(net, True, knobs=literal, learning_rate=1e-12, shuffle=False).history["loss"].values
    assert programs() == 1
    # With everything dropped only the bias is left.
    halves = [nn.functional.cross_entropy(net.out.bias.expand(8, 3), y).item() for y in (Y[:8], Y[8:])]
    whole = [nn.functional.cross_entropy(net.eval()(x), y).item() for x, y in ((X[:8], Y[:8]), (X[8:], Y[8:]))]
    assert losses[:3] == pytest.approx([whole[0], whole[1], whole[0]], abs=1e-6)
    assert losses[3:] == pytest.approx([halves[1], halves[0], halves[1]], abs=1e-6)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d])
def test_dropout_by_a_tensor_is_dropout(kind: type[Any], p: float) -> None:
    torch.manual_seed(0)
    module = kind(p)
    drop = _dropping(module, torch.tensor(p))
    x = torch.ones(200, 30, 4, 4)[..., 0] if kind is nn.Dropout1d else torch.ones(200, 30, 4, 4)
    made, theirs = drop(x), module(x)
    assert made.shape == theirs.shape
    assert set(made.unique().tolist()) == set(theirs.unique().tolist())
    assert float(made.mean()) == pytest.approx(float(theirs.mean()), abs=0.05)
    if kind is not nn.Dropout:
        # Whole channels are dropped.
        assert torch.equal(made.flatten(2).amax(2), made.flatten(2).amin(2))
    module.eval()
    assert drop(x) is x
    inplace = _dropping(kind(p, inplace=True), torch.tensor(p))
    y = x.clone()
    assert inplace(y) is y


def test_a_loss_of_torch_is_known_to_be_read_before_the_first_step() -> None:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    data = torch.randn(32, 4), torch.arange(32) % 3
    said: dict[str, Any] = {"epochs": 5, "batch_size": 8, "compile": True}
    with pytest.raises(PlanError, match=r"label_smoothing .*CrossEntropyLoss.* cannot be an input .* 20 values"):
        etude.Plan(loss, knobs={"label_smoothing": [(loss, linear(0.3, 0))]}, **said).check(nn.Linear(4, 3), data)
    plan = etude.Plan(loss, knobs={"label_smoothing": [(loss, pieces(0.3, (steps(8), 0.1)))]}, **said)
    with pytest.warns(UserWarning, match="each of its 2 values is compiled"):
        plan.check(nn.Linear(4, 3), data)


def test_what_is_found_while_a_program_is_made_may_not_take_too_many_values_either() -> None:
    inner = nn.CrossEntropyLoss(label_smoothing=0.1)
    net, data = nn.Linear(4, 3), (torch.randn(32, 4), torch.arange(32) % 3)
    before = net.weight.detach().clone()

    def hidden(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = inner(output, target)
        return made

    plan = etude.Plan(
        hidden, epochs=5, batch_size=8, compile=True, knobs={"label_smoothing": [(inner, linear(0.3, 0))]}
    )
    with pytest.raises(PlanError, match="cannot be an input of a program, and takes 20 values"):
        etude.train(net, data, plan, progress=False)
    assert torch.equal(net.weight, before)


def test_objects_that_the_loss_reads_are_found() -> None:
    def own(smoothing: Smoothing) -> Any:
        return lambda output, target: nn.functional.cross_entropy(output, target) * smoothing.weight

    plain, compiled, one, other = Net(), Net(), Smoothing(), Smoothing()
    trained(plain, False, loss=own(one), knobs={"weight": [(one, linear(1, 3))]})
    trained(compiled, True, loss=own(other), knobs={"weight": [(other, linear(1, 3))]})
    assert far(plain, compiled) < 1e-6
    assert other.weight == one.weight == pytest.approx(1 + 2 * 5 / 6)
    # The first, which would hold the number, was never run.
    assert programs() <= 2


def test_what_cannot_be_an_input_has_a_program_for_each_value_and_that_is_said() -> None:
    plain, compiled = Net(), Net()
    literal = {"rounds": pieces(1, (steps(2), 3), (steps(4), 1))}
    trained(plain, False, knobs=literal)
    with pytest.warns(UserWarning, match=r"compile=True: rounds of the net .*each of its 2 values is compiled"):
        trained(compiled, True, knobs=literal)
    assert far(plain, compiled) < 1e-6
    assert programs() == 2


def test_a_number_that_decides_a_branch_has_a_program_for_each_value() -> None:
    plain, compiled = Net(branches=True), Net(branches=True)
    literal = {"temperature": pieces(1.0, (steps(3), 1.8))}
    trained(plain, False, knobs=literal)
    with pytest.warns(UserWarning, match="temperature of the net .*each of its 2 values is compiled"):
        trained(compiled, True, knobs=literal)
    assert far(plain, compiled) < 1e-6


def test_too_many_values_are_refused_before_the_first_step() -> None:
    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.act = nn.Linear(6, 3), nn.LeakyReLU(0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.layer(x))

    plan = etude.Plan(
        "cross_entropy", steps=100, batch_size=8, compile=True, knobs={"negative_slope": linear(0.01, 0.3)}
    )
    with pytest.raises(PlanError, match=r"takes 100 values in this run.*at most 16 pieces.*leave compile out"):
        plan.check(Leaky(), (X, Y))


def test_a_precision_that_changes_has_programs_of_its_own() -> None:
    plain, compiled = Net(), Net()
    precision = pieces("fp32", (steps(3), "bf16"))
    trained(plain, False, precision=precision)
    trained(compiled, True, precision=precision)
    assert programs() == 2
    assert far(plain, compiled) < 2e-2
