"""The same questions to every update rule that has no torch counterpart to be compared with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.step.optim.adabelief import AdaBelief
from etude.step.optim.dcasgd import DcAsgd
from etude.step.optim.ftml import Ftml
from etude.step.optim.ftrl import Ftrl
from etude.step.optim.lamb import Lamb
from etude.step.optim.lans import Lans
from etude.step.optim.lars import Lars
from etude.step.optim.lazy import LazyAdam, LazySGD
from etude.step.optim.lion import Lion
from etude.step.optim.rowwise import RowwiseAdagrad
from etude.step.optim.rule import UpdateRule
from etude.step.optim.sgld import Sgld
from etude.step.optim.signum import SignSGD, Signum
from etude.step.trainer import Trainer
from rule_alone import alone, drawn

CASES: list[tuple[UpdateRule, dict[str, Any]]] = [
    (Signum(), {}),
    (Signum(), {"momentum": 0.0}),
    (SignSGD(), {}),
    (Lion(), {}),
    (Ftrl(), {}),
    (Ftrl(), {"l1": 0.0, "beta": 0.0}),
    (Ftml(), {}),
    (Ftml(), {"eps": 0.0}),
    (Lamb(), {}),
    (Lamb(), {"bias_correction": False, "upper_bound": 2.0, "lower_bound": 0.5, "eps": 0.0}),
    (Lamb(), {"adapt": False}),
    (Lans(), {}),
    (Lans(), {"clip": 0.1, "eps": 0.0}),
    (Lars(), {}),
    (Lars(), {"momentum": 0.0, "clip": 0.5, "eps": 0.0}),
    (Lars(), {"adapt": False}),
    (AdaBelief(), {}),
    (AdaBelief(), {"eps": 0.0, "clip": 0.5}),
    (DcAsgd(), {}),
    (DcAsgd(), {"momentum": 0.9}),
    (Sgld(), {"temperature": 0.1}),
    (Sgld(), {"precondition": True, "temperature": 0.01, "eps": 0.0}),
    (RowwiseAdagrad(), {}),
    (RowwiseAdagrad(), {"eps": 0.0}),
    (LazySGD(), {"momentum": 0.9, "nesterov": True}),
    (LazyAdam(), {}),
]
SILENT = [case for case in CASES if not case[0].draws]
STILL = [case for case in CASES if case[0].name != "ftrl"]


def each_of(cases: list[tuple[UpdateRule, dict[str, Any]]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("rule", "settings"), cases, ids=lambda value: getattr(value, "name", str(value)))


every = each_of(CASES)
SHAPES = ((), (5,), (3, 4), (2, 3, 2))


@every
@pytest.mark.parametrize("shape", SHAPES)
def test_climbing_is_descending_what_is_turned_over(
    rule: UpdateRule, settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    """Decay and noise are not turned over with the gradient."""
    start, gradients = drawn(shape, seed=9)[0], drawn(shape)
    settings = {**settings, "weight_decay": 0.1}
    down = alone(rule, start, **settings).walk(gradients)
    up = alone(rule, start, climb=True, **settings).walk([-gradient for gradient in gradients])
    assert torch.equal(down, up)
    assert not torch.equal(down, start)
    assert bool(torch.isfinite(down).all())


@every
@pytest.mark.parametrize("climb", [False, True])
def test_decay_shrinks_whichever_way(rule: UpdateRule, settings: dict[str, Any], climb: bool) -> None:
    start = torch.tensor([[1.0, -2.0], [0.5, -0.25]])
    settings = {**settings, "weight_decay": 0.1, "learning_rate": 0.01} | (
        {"temperature": 0.0} if "temperature" in rule.settings else {}
    )
    after = alone(rule, start, climb=climb, **settings).walk([torch.zeros(2, 2)] * 3)
    assert bool((after.abs() < start.abs()).all())
    assert bool((after * start >= 0).all())


# FTRL holds at zero what has never had a gradient.
@each_of(STILL)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_zero_move_nothing(rule: UpdateRule, settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    settings = {**settings, "temperature": 0.0} if "temperature" in rule.settings else settings
    start = drawn(shape)[0]
    after = alone(rule, start, **settings).walk([torch.zeros(shape)] * 3)
    assert torch.allclose(after, start, rtol=1e-6, atol=0)


@every
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e4])
def test_extreme_gradients_and_arrays_of_zero_give_numbers(
    rule: UpdateRule, settings: dict[str, Any], size: float
) -> None:
    gradients = [torch.tensor([[1.0, -2.0], [0.0, 0.0]]) * size] * 3
    for start in (torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [-1.0, 2.0]])):
        for climb in (False, True):
            for decay in (0.0, 0.1):
                running = alone(rule, start, climb=climb, **{**settings, "weight_decay": decay})
                running.walk(gradients)
                assert all(bool(torch.isfinite(one).all()) for one in (running.array, *running.memory.values()))


@every
@pytest.mark.parametrize("shape", SHAPES)
def test_memory_order_is_of_no_importance(rule: UpdateRule, settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    start, gradients = drawn(shape, seed=9)[0], drawn(shape)
    gapped = torch.zeros(*shape, 2)[..., 0].copy_(start)
    turned = torch.empty(shape[::-1]).permute(tuple(reversed(range(len(shape))))).copy_(start)
    expected = alone(rule, start, **settings).walk(gradients)
    for other in (gapped, turned):
        assert torch.allclose(alone(rule, other, **settings).walk(gradients), expected, rtol=1e-6, atol=1e-7)


@every
def test_the_rate_may_be_a_scalar_tensor(rule: UpdateRule, settings: dict[str, Any]) -> None:
    start, gradients = drawn((3, 4), seed=9)[0], drawn((3, 4))
    plain = alone(rule, start, learning_rate=0.25, weight_decay=0.1, **settings).walk(gradients)
    rate = torch.tensor(0.25)
    other = alone(rule, start, learning_rate=rate, weight_decay=0.1, **settings).walk(gradients)
    assert torch.allclose(plain, other, rtol=1e-6, atol=1e-7)
    assert rate.item() == 0.25


@every
def test_gradients_are_left_alone(rule: UpdateRule, settings: dict[str, Any]) -> None:
    gradient = drawn((3, 4))[0]
    kept = gradient.clone()
    alone(rule, torch.ones(3, 4), weight_decay=0.1, **settings).walk([gradient, gradient])
    assert torch.equal(gradient, kept)


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_are_kept(rule: UpdateRule, settings: dict[str, Any], dtype: torch.dtype) -> None:
    for shape in SHAPES:
        start, gradients = drawn(shape, seed=9)[0], drawn(shape)
        running = alone(rule, start.to(dtype), weight_decay=0.1, **settings)
        running.walk([gradient.to(dtype) for gradient in gradients])
        assert {one.dtype for one in (running.array, *running.memory.values())} == {dtype}
        exact = alone(rule, start, weight_decay=0.1, **settings).walk(gradients)
        wide = 1e-5 if dtype is torch.float64 else 0.1
        if rule.name not in ("signum", "signsgd", "lion", "ftrl") or dtype is torch.float64:
            assert torch.allclose(running.array.float(), exact, atol=wide, rtol=wide)


@every
def test_a_compiler_sees_one_graph(rule: UpdateRule, settings: dict[str, Any]) -> None:
    def move(array: Tensor, gradient: Tensor, memory: dict[str, Tensor], count: Tensor, rate: Tensor) -> None:
        rule.formula(array, gradient, memory, count, {**run.settings, "learning_rate": rate}, False)

    torch.compiler.reset()
    run = alone(rule, drawn((3, 4), seed=9)[0], weight_decay=0.1, **settings)
    plain = alone(rule, drawn((3, 4), seed=9)[0], weight_decay=0.1, **settings)
    compiled = torch.compile(move, backend="eager", fullgraph=True)
    for count, gradient in enumerate(drawn((3, 4), count=2)):
        noise = {key: drawn((3, 4), seed=count)[0] for key in rule.draws}
        number, rate = torch.tensor(count + 1.0), torch.tensor(rule.rate)
        compiled(run.array, gradient, {**run.memory, **noise}, number, rate)
        rule.formula(plain.array, gradient, {**plain.memory, **noise}, number, plain.settings, False)
    assert torch.allclose(run.array, plain.array, rtol=1e-6, atol=1e-7)


@each_of(SILENT)
def test_through_a_trainer_it_moves_as_alone(rule: UpdateRule, settings: dict[str, Any]) -> None:
    """And what is held keeps its bits and has no memory."""
    arrays = {"a.weight": nn.Parameter(drawn((3, 4), seed=9)[0]), "b.weight": nn.Parameter(torch.ones(2, 2))}
    trainer = Trainer(arrays, rule, learning_rate=0.1, rules={"learning_rate": {"b": 0}}, **settings)
    reference = alone(rule, arrays["a.weight"].detach(), learning_rate=0.1, **settings)
    for gradient in drawn((3, 4)):
        arrays["a.weight"].grad, arrays["b.weight"].grad = gradient.clone(), torch.ones(2, 2)
        trainer.step()
        trainer.zero_grad()
        reference.step(gradient)
    assert torch.allclose(arrays["a.weight"], reference.array, rtol=1e-5, atol=1e-6)
    assert torch.equal(arrays["b.weight"], torch.ones(2, 2))
    assert not trainer.state_dict()["arrays"].get("b.weight")


@every
def test_it_is_known_by_name_and_brings_its_rate(rule: UpdateRule, settings: dict[str, Any]) -> None:
    for name in (rule.name, rule.name.upper().replace("_", "")):
        trainer = Trainer(nn.Linear(2, 2), name, **settings)
        assert (trainer.name, trainer.learning_rate) == (rule.name, rule.rate)


def test_names_are_lower_case_and_each_ones_own() -> None:
    names = [kind.name for kind in {type(rule) for rule, _ in CASES}]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() for name in names)
