"""Steps compiled as one program: what plain steps do, to the last but rounding, with the same refusals."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import cosine, epochs, linear, pieces, steps
from etude.errors import NonFiniteError, PlanError, StaleGradientError
from etude.optim import Setting, UpdateRule

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="compiling for the CPU needs a C++ compiler"
)

# Two sizes of batch: 8 and, at the end of an epoch, 4.
X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
Y = (X @ torch.randn(6, 3, generator=torch.Generator().manual_seed(1))).argmax(1)

ENDING = pieces(0.1, (epochs(1), linear(0.1, 0.02, over=epochs(2))), (epochs(3), 0))


class Net(nn.Module):
    """Statistics, a shared array, and (if asked) a layer that nobody calls."""

    def __init__(self, idle: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm1d(6)
        self.idle = nn.Linear(2, 2) if idle else None
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(torch.tanh(self.b(torch.tanh(self.a(x))))))


def trained(net: nn.Module, data: Any = (X, Y), **options: Any) -> etude.Result:
    wanted = {"loss": "cross_entropy", "epochs": 2, "batch_size": 8, "progress": False, **options}
    return etude.train(net, data, **wanted)


def far(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of any array."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1, "learning_rate": cosine(0.05)},
        {"optimizer": "adamw", "eps": 1e-3, "update_schedule": ["a", "out"], "learning_rate": 0.01},
        {
            "optimizer": "sgd",
            "learning_rate_multipliers": {"out.bias": -1, "norm": 0},
            "loss": {"far": ("cross_entropy", linear(1, 0.5)), "near": (nn.CrossEntropyLoss(label_smoothing=0.1), 0.1)},
        },
    ],
    ids=["sgd on a curve", "adamw in turn", "climbing, frozen, two terms"],
)
def test_a_compiled_run_is_the_plain_one(options: dict[str, Any]) -> None:
    plain, compiled = trained(Net(), **options), trained(Net(), compile=True, **options)
    assert far(plain.net, compiled.net) < 1e-5
    assert compiled.history["loss"].values == pytest.approx(plain.history["loss"].values, rel=1e-4)
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "programs"),
    [
        ({"optimizer": "adam", "beta1": linear(0.95, 0.85), "weight_decay": etude.decay(linear(0.1, 0.05))}, 1),
        ({"optimizer": "sgd", "momentum": linear(0.85, 0.95), "dampening": 0.1, "weight_decay": ENDING}, 2),
    ],
)
def test_settings_that_change_are_inputs_of_one_program(settings: dict[str, Any], programs: int) -> None:
    from torch._dynamo.utils import counters

    data, options = (X[:16], Y[:16]), {"epochs": 4, "learning_rate": 0.05, **settings}
    plain = trained(Net(), data, **options)
    counters.clear()
    compiled = trained(Net(), data, compile=True, **options)
    # Where decay is 0 its part of the formula is left out.
    assert counters["stats"]["unique_graphs"] == programs
    assert far(plain.net, compiled.net) < 1e-5


class Ending(UpdateRule):
    """Descent that asks what its setting is, which no program can."""

    name = "ending"
    settings: ClassVar[Mapping[str, Setting]] = {"weight_decay": Setting(0.0)}
    memories: ClassVar[tuple[str, ...]] = ()
    rate: ClassVar[float] = 0.1

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        if settings["weight_decay"] > 0.05:
            array.mul_(1 - settings["weight_decay"])
        array.sub_(gradient * settings["learning_rate"])


def test_a_formula_that_asks_what_a_setting_is_has_a_program_for_each_value() -> None:
    options: dict[str, Any] = {"optimizer": Ending, "weight_decay": pieces(0.1, (steps(2), 0.02)), "epochs": 1}
    plain = trained(Net(), **options)
    with pytest.warns(UserWarning, match="weight_decay cannot be an input of the program, as .*ending.* is written"):
        compiled = trained(Net(), compile=True, **options)
    assert far(plain.net, compiled.net) < 1e-5


def broken() -> Iterator[tuple[Tensor, Tensor]]:
    """Four batches, of which the third has a NaN."""
    for start in range(0, 16, 4):
        x = X[start : start + 4].clone()
        x[0, 0] = float("nan") if start == 8 else x[0, 0]
        yield x, Y[start : start + 4]


def test_a_step_that_is_not_finite_leaves_no_trace() -> None:
    options: dict[str, Any] = {"data": broken, "round_length": 4, "batch_size": None, "epochs": 1, "optimizer": "sgd"}
    plain, compiled = Net(), Net()
    trained(plain, non_finite="skip", **options)
    result = trained(compiled, non_finite="skip", compile=True, **options)
    assert far(plain, compiled) < 1e-5
    assert result.history["rate"].steps == [1, 2, 4]
    assert [value == value for value in result.history["loss"].values] == [True, True, False, True]
    stopped = Net()
    with pytest.raises(NonFiniteError, match="Step 3 is refused") as caught:
        trained(stopped, compile=True, **options)
    assert caught.value.step == 3
    early = Net()
    trained(early, steps=2, **options)
    assert far(stopped, early) < 1e-5


def test_arrays_that_the_loss_does_not_reach() -> None:
    net, fresh = Net(idle=True), Net(idle=True)
    with pytest.raises(StaleGradientError) as caught:
        trained(net, compile=True)
    assert caught.value.names == ("idle.weight", "idle.bias")
    assert far(net, fresh) == 0
    plain = trained(Net(idle=True), ignore_stale_grad=True, optimizer="sgd")
    assert far(plain.net, trained(net, compile=True, ignore_stale_grad=True, optimizer="sgd").net) < 1e-5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "rmsprop"}, "not one of étude's own rules"),
        ({"clip_norm": 1.0}, "clip_norm= is not compiled: no setting besides those of the update rule"),
        ({"precision": "fp16"}, "fp16 needs a loss scale"),
    ],
)
def test_what_cannot_be_compiled_is_said_before_the_first_step(options: dict[str, Any], said: str) -> None:
    net, fresh = Net(), Net()
    with pytest.raises(PlanError, match=said):
        trained(net, compile=True, **options)
    assert far(net, fresh) == 0


def test_a_net_that_asks_for_numbers_is_named() -> None:
    class Asks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2.0 if float(x.sum().item()) > 0 else 1.0)

    with pytest.raises(PlanError, match="cannot be compiled as one program"):
        trained(Asks(6, 3), compile=True)
