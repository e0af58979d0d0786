"""Steps compiled as one program: what plain steps do, to the last but rounding, with the same refusals."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import Probe, cosine, epochs, linear, losses, pieces, steps
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
    "options",
    [
        {"optimizer": "sgd", "clip_norm": linear(0.5, 0.05), "noise": 0.01, "l2": 0.1, "centralise": True},
        {"optimizer": "torch.adamw", "eps": 1e-3, "weight_dropout": linear(0.3, 0.1), "weight_noise": {"out": 0.1}},
        {"optimizer": "muon", "max_norm": 0.5, "drop_non_finite": True, "eps": 1e-3},
        {"optimizer": "sgd", "carry": "sum", "update_schedule": ["a", "out"]},
        {"optimizer": "sgld", "drop_norm": 0.8},
    ],
    ids=["clipped, noise, decay", "torch's, perturbed", "two rules, bounded", "carried", "draws, dropped"],
)
def test_an_update_that_is_not_in_the_program_is_made_beside_it(options: dict[str, Any]) -> None:
    given = {"learning_rate": 0.02, **options}
    plain, compiled = trained(Net(), **given), trained(Net(), compile=True, **given)
    assert far(plain.net, compiled.net) < 1e-5
    assert compiled.history["loss"].values == pytest.approx(plain.history["loss"].values, rel=1e-4)


TWO = {"far": ("cross_entropy", linear(1, 0.5)), "near": (nn.CrossEntropyLoss(label_smoothing=0.1), 0.1)}


def of_the_first_class(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """A sum and a count, which the batch alone does not tell, and which may be 0."""
    kept = target == 0
    return -(output.log_softmax(1)[:, 0] * kept).sum(), kept.sum()


@pytest.mark.parametrize("loss", [TWO, {"all": "cross_entropy", "first": of_the_first_class}, of_the_first_class])
def test_micro_batches_of_one_step_have_programs_too(loss: Any) -> None:
    data = X[:18], Y[:18]  # six micro-batches of 3: no program but one
    given = {"loss": loss, "batch_size": 3, "accumulate": 2, "precision": "fp64", "learning_rate": 0.1, "eps": 1e-3}
    plain, compiled = trained(Net(), data, **given), trained(Net(), data, compile=True, **given)
    assert far(plain.net, compiled.net) < 1e-10
    assert compiled.history["loss"].values == pytest.approx(plain.history["loss"].values, rel=1e-10)


def test_a_loss_that_is_scaled() -> None:
    def small(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target) / 1000

    given = {"loss": small, "precision": "fp16", "optimizer": "sgd", "learning_rate": 50.0}
    plain, compiled = trained(Net(), **given), trained(Net(), compile=True, **given)
    assert far(plain.net, compiled.net) < 0.01
    assert compiled.history["loss"].values == pytest.approx(plain.history["loss"].values, rel=0.01)


def test_gradients_are_probed_before_they_are_clipped() -> None:
    given = {"probes": [Probe("out", "norm", of="gradient", every=steps(1))], "optimizer": "sgd", "clip_norm": 0.01}
    plain, compiled = trained(Net(), **given), trained(Net(), compile=True, **given)
    assert compiled.history["probe.out.gradient.norm"].values == pytest.approx(
        plain.history["probe.out.gradient.norm"].values, rel=1e-4
    )


def test_gradients_that_are_equal_are_not_one_tensor() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] + (self.a + self.b)

    given = {"optimizer": "sgd", "learning_rate": {"a": 0.1, "b": 0.2}, "clip_norm": 0.3, "weight_dropout": {"b": 0.5}}
    plain, compiled = trained(Twice(), **given), trained(Twice(), compile=True, **given)
    assert far(plain.net, compiled.net) < 1e-6


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["whole", "up to the gradients"])
def test_a_step_that_is_not_finite_is_refused_in_either_form(options: dict[str, Any]) -> None:
    net = Net()
    with pytest.raises(NonFiniteError, match="Step 3 is refused") as caught:
        trained(net, broken, round_length=4, batch_size=None, epochs=1, optimizer="sgd", compile=True, **options)
    assert caught.value.step == 3
    early = trained(Net(), broken, round_length=4, batch_size=None, steps=2, epochs=None, optimizer="sgd", **options)
    assert far(net, early.net) < 1e-5


class Scaled(nn.Linear):
    """Has an array without dimensions."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.size = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.size


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_an_array_without_dimensions(precision: str) -> None:
    given = {"precision": precision, "optimizer": "adamw", "learning_rate": 0.02, "weight_decay": linear(0.1, 0)}
    torch.manual_seed(0)
    net = Scaled()
    plain, compiled = trained(copy.deepcopy(net), **given), trained(net, compile=True, **given)
    assert far(plain.net, compiled.net) < (1e-5 if precision == "fp32" else 1e-12)


def test_many_shapes_of_batches() -> None:
    def data() -> Iterator[tuple[Tensor, Tensor]]:
        for size in range(2, 12):
            yield X[:size], Y[:size]

    given = {"data": data, "round_length": 10, "batch_size": None, "epochs": 1, "optimizer": "sgd"}
    assert far(trained(nn.Linear(6, 3), compile=True, **given).net, nn.Linear(6, 3)) > 0


def test_sparse_gradients() -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(10, 6, sparse=True), nn.Linear(6, 3))

    given = {"data": (torch.arange(20) % 10, Y), "optimizer": "torch.sgd", "learning_rate": 0.1}
    assert far(trained(net(), **given).net, trained(net(), compile=True, **given).net) < 1e-5


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0, "accumulate": 2, "batch_size": 5}], ids=["one", "two"])
def test_hooks_on_parameters_run_as_ever(options: dict[str, Any]) -> None:
    def hooked() -> nn.Module:
        net, calls = Net(), []

        def change(array: Tensor) -> None:
            calls.append(1)
            assert array.grad is not None
            array.grad.mul_(len(calls))

        net.out.weight.register_post_accumulate_grad_hook(change)
        return net

    given = {"precision": "fp64", "optimizer": "sgd", "learning_rate": 0.02, **options}
    plain, compiled = trained(hooked(), **given), trained(hooked(), compile=True, **given)
    assert far(plain.net, compiled.net) < 1e-10


class Tagger(nn.Module):
    """Five classes for each frame of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.drop, self.out = nn.Linear(4, 8), nn.Dropout(0.0), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(torch.tanh(self.a(x))))


def sequences() -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(3)
    return {
        "x": torch.randn(12, 10, 4, generator=drawn),
        "x_lengths": torch.randint(6, 11, (12,), generator=drawn),
        "y": torch.randint(1, 5, (12, 4), generator=drawn),
        "y_lengths": torch.randint(1, 5, (12,), generator=drawn),
    }


def of_all_kinds() -> dict[str, Any]:
    """Terms that no program can have, beside one that could be in one."""
    taught = losses.distillation(Net().double(), temperature=linear(2, 1))
    return {"ce": "cross_entropy", "taught": taught, "gp": (losses.r1(), 0.1), "sharp": (losses.spectral("out"), 0.1)}


@pytest.mark.parametrize(
    ("net", "data", "options"),
    [
        (Tagger, sequences(), {"loss": losses.ctc(), "accumulate": 2, "batch_size": 3, "clip_norm": 1.0}),
        (Net, (X, Y), {"loss": of_all_kinds(), "update_schedule": ["a", "out"], "weight_dropout": 0.2}),
    ],
    ids=["ctc, accumulated", "teacher, derivatives, singular values"],
)
def test_a_loss_that_no_program_can_have_is_taken_of_a_compiled_net(net: Any, data: Any, options: Any) -> None:
    given = {"precision": "fp64", "learning_rate": 0.02, "eps": 1e-3, **options}
    plain, compiled = trained(net(), data, **given), trained(net(), data, compile=True, **given)
    assert far(plain.net, compiled.net) < 1e-10
    assert compiled.history["loss"].values == pytest.approx(plain.history["loss"].values, rel=1e-10)


def test_a_knob_is_an_input_of_the_program_of_a_net_alone() -> None:
    from torch._dynamo.utils import counters

    given = {"loss": losses.ctc(), "batch_size": 6, "epochs": 3, "knobs": {"p": {nn.Dropout: linear(0.0, 0.5)}}}
    counters.clear()
    compiled = trained(Tagger(), sequences(), compile=True, **given)
    assert counters["stats"]["unique_graphs"] == 1
    assert compiled.history["knob.p"].values == trained(Tagger(), sequences(), **given).history["knob.p"].values


def test_an_optimizer_that_asks_for_the_loss_again_is_refused_before_the_first_step() -> None:
    net, fresh = Net(), Net()
    with pytest.raises(PlanError, match="LBFGS computes them again and again"):
        trained(net, compile=True, optimizer="lbfgs")
    assert far(net, fresh) == 0


def test_a_net_that_asks_for_numbers_is_named() -> None:
    class Asks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2.0 if float(x.sum().item()) > 0 else 1.0)

    with pytest.raises(PlanError, match="cannot be compiled as one program"):
        trained(Asks(6, 3), compile=True)
