"""The kernels of native.c beside the rules' formulas: settings by array, storage that changes, threads."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.step.optim import native
from etude.step.optim.compiler import library
from etude.step.optim.own import OwnOptimizer
from etude.step.optim.registry import by_name
from etude.step.optim.rule import UpdateRule
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.rules import times
from etude.values.spans import steps
from nets import alike, arrays, give_gradients, graph, memory_of

SRC = Path(__file__).parents[1] / "src"
NATIVE: dict[str, list[dict[str, Any]]] = {
    "sgd": [{}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}],
    "adam": [{}, {"weight_decay": 0.1, "betas": (0.5, 0.6)}, {"amsgrad": True}],
    "adamw": [{"weight_decay": 0.1}, {"amsgrad": True, "eps": 1e-3}],
}
CASES = [(rule, settings) for rule, each in NATIVE.items() for settings in each]
needs_library = pytest.mark.skipif(library() is None, reason="there is no compiler, or ETUDE_NATIVE=0")


def formulas_only(trainer: Trainer) -> Trainer:
    """Without native.c and torch's fused kernels."""
    optimizer = trainer.optimizer
    assert isinstance(optimizer, OwnOptimizer)
    optimizer._kernel = None
    optimizer._way = lambda arrays: optimizer.rule.formulas  # type: ignore[method-assign]
    optimizer.forget_layout()
    return trainer


def walk(net: nn.Module, trainer: Trainer, count: int = 4, sizes: tuple[float, ...] = (1, 3, 8, 0.5)) -> None:
    for step in range(count):
        give_gradients(net, step)
        trainer.step(sizes[step % len(sizes)])
        trainer.zero_grad()


def both(rule: str, settings: dict[str, Any], **options: Any) -> tuple[nn.Module, nn.Module, Trainer, Trainer]:
    net, twin = graph(), graph()
    options = {"learning_rate": 0.01, **settings, **options}
    return net, twin, Trainer(net, rule, **options), formulas_only(Trainer(twin, rule, **options))


def close(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def is_native(trainer: Trainer) -> bool:
    optimizer = trainer.optimizer
    assert isinstance(optimizer, OwnOptimizer)
    return any(plan.entries is not None for plan in optimizer._plans.values())


@needs_library
@pytest.mark.parametrize(("rule", "settings"), CASES)
@pytest.mark.parametrize("options", [{}, {"learning_rate_multipliers": -1}, {"clip_norm": 0.5}], ids=str)
def test_kernels_do_as_formulas_do(rule: str, settings: dict[str, Any], options: dict[str, Any]) -> None:
    net, twin, trainer, other = both(rule, settings, **options)
    for own, running in ((net, trainer), (twin, other)):
        walk(own, running)
    assert is_native(trainer)
    assert not is_native(other)
    assert close(net, twin)
    assert not close(net, graph())
    mine, theirs = memory_of(trainer), memory_of(other)
    for name, own in mine.items():
        assert own.keys() == theirs[name].keys()
        assert all(torch.allclose(torch.as_tensor(own[k]), torch.as_tensor(theirs[name][k]), atol=1e-6) for k in own)


@needs_library
@pytest.mark.parametrize(("rule", "settings"), CASES)
def test_every_array_has_settings_of_its_own_in_one_call(rule: str, settings: dict[str, Any]) -> None:
    decays = {"a.weight": 0.3, "b": 0.1, "out.bias": linear(0.5, 0.0, over=steps(3))}
    rates = {"a.bias": times(-2), "b.weight": 0.5, "out.weight": times(linear(1, 0.1, over=steps(3)))}
    net, twin, trainer, other = both(rule, settings, rules={"weight_decay": decays, "learning_rate": rates})
    for own, running in ((net, trainer), (twin, other)):
        walk(own, running)
    assert is_native(trainer)
    assert close(net, twin)


@needs_library
@pytest.mark.parametrize("rule", NATIVE)
def test_arrays_take_turns(rule: str) -> None:
    net, twin, trainer, other = both(rule, {}, update_schedule=["a", "*.bias", "out.weight"])
    for own, running in ((net, trainer), (twin, other)):
        walk(own, running, 7)
    assert close(net, twin)
    counts = {name: own.get("count", 0) for name, own in memory_of(trainer).items()}
    assert counts == {"a.weight": 3, "a.bias": 5, "b.weight": 0, "b.bias": 2, "out.weight": 2, "out.bias": 2}


@needs_library
@pytest.mark.parametrize("rule", NATIVE)
@pytest.mark.parametrize("storage", ["moved", "smaller", "turned", "double", "half", "gaps", "swapped"])
def test_arrays_may_be_given_other_storage(rule: str, storage: str) -> None:
    """`p.data = ...` leaves the parameter and takes its memory away."""
    whole = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    array, other = nn.Parameter(whole.clone()), nn.Parameter(torch.ones(5))
    kept = Trainer({"array": array, "other": other}, rule, learning_rate=0.1)
    for parameter in (array, other):
        parameter.grad = torch.ones_like(parameter)
    kept.step()
    kept.zero_grad()
    old = array.data
    data = {
        "moved": lambda: old.clone(),
        "smaller": lambda: old[:2],
        "turned": lambda: old.t(),
        "double": lambda: old.double(),
        "half": lambda: old.to(torch.bfloat16),
        "gaps": lambda: torch.stack([old, old], 2)[:, :, 0],
        "swapped": lambda: old.clone(),
    }[storage]()
    if storage == "swapped":
        array.data, other.data = other.data.clone(), data
    else:
        array.data = data
    if storage in ("smaller", "turned", "swapped"):
        # Its memory does not fit: begun anew it moves as a new one does.
        for name in range(2):
            kept.optimizer.forget(name)
    before = {name: p.detach().clone() for name, p in (("array", array), ("other", other))}
    remains = old[2:].clone()
    gradients = {name: torch.arange(1.0, p.numel() + 1).reshape(p.shape).to(p.dtype) for name, p in before.items()}
    array.grad, other.grad = (gradients[name].clone() for name in ("array", "other"))
    memory = memory_of(kept)
    kept.step()
    for name, parameter in (("array", array), ("other", other)):
        alone = nn.Parameter(before[name].float() if storage == "half" else before[name].clone().contiguous())
        expected = Trainer({name: alone}, rule, learning_rate=0.1)
        if memory[name]:
            fits = {k: v.to(alone.dtype) if isinstance(v, Tensor) and v.dim() else v for k, v in memory[name].items()}
            expected.load_state_dict({**expected.state_dict(), "arrays": {name: fits}})
        alone.grad = gradients[name].to(alone.dtype).clone()
        expected.step()
        close = {"rtol": 1e-2, "atol": 1e-2} if storage == "half" else {"atol": 1e-6}
        assert torch.allclose(parameter.detach().float(), alone.detach().float(), **close)
    if storage == "smaller":
        assert torch.equal(old[2:], remains)


@needs_library
def test_memory_that_does_not_fit_an_array_any_more_is_not_walked_beyond_its_end() -> None:
    """An array that was cut down in place, with the memory of its former self."""
    array = nn.Parameter(torch.zeros(1000))
    trainer = Trainer({"array": array}, "sgd", learning_rate=1.0, momentum=0.9)
    array.grad = torch.ones(1000)
    trainer.step()
    trainer.zero_grad()
    whole = array.data
    array.data = whole[:2]
    array.grad = torch.ones(2)
    rest = whole[2:].clone()
    # Whatever is said of it: better than other people's memory.
    with suppress(Exception):
        trainer.step()
    assert torch.equal(whole[2:], rest)
    assert bool(torch.isfinite(whole).all())


@needs_library
def test_the_net_may_change_its_type_between_steps() -> None:
    net, twin = graph(), graph().double()
    trainer = Trainer(net, "adamw", learning_rate=0.01)
    walk(net, trainer, 2)
    net.double()
    other = Trainer(twin, "adamw", learning_rate=0.01)
    twin.load_state_dict(net.state_dict())
    other.load_state_dict(trainer.state_dict())
    for own, running in ((net, trainer), (twin, other)):
        walk(own, running, 3)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert all(own["mean"].dtype == torch.float64 for own in memory_of(trainer).values())


@needs_library
def test_what_kernels_take() -> None:
    assert native.takes(torch.zeros(3, 4))
    assert native.takes(torch.zeros(3, 4).t())
    assert native.takes(torch.zeros(0))
    assert native.takes(torch.zeros(()))
    assert not native.takes(torch.zeros(3, dtype=torch.float64))
    assert not native.takes(torch.zeros(3, dtype=torch.bfloat16))
    assert not native.takes(torch.zeros(3, dtype=torch.complex64))
    assert not native.takes(torch.zeros(4, 6)[:, ::2])
    assert not native.takes(torch.zeros(1).expand(4))
    assert not native.takes(torch.zeros(3, device="meta"))


@needs_library
def test_a_large_array_is_of_several_threads_if_there_are() -> None:
    before = torch.get_num_threads()
    large = torch.zeros((1 << 16) + 1)
    try:
        torch.set_num_threads(2)
        assert not native.takes(large)
        assert native.takes(large[1:])
        torch.set_num_threads(1)
        assert native.takes(large)
    finally:
        torch.set_num_threads(before)


@needs_library
@pytest.mark.parametrize("rule", NATIVE)
def test_threads_do_not_change_a_bit(rule: str) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            net = graph()
            trainer = Trainer(net, rule, learning_rate=0.1)
            walk(net, trainer)
            found.append(arrays(net))
    finally:
        torch.set_num_threads(before)
    assert all(alike(found[0][name], found[1][name]) for name in found[0])


@needs_library
def test_trainers_in_several_threads_at_once() -> None:
    nets = [graph(seed) for seed in range(4)]
    expected = [copy.deepcopy(net) for net in nets]
    errors: list[BaseException] = []

    def train(net: nn.Module) -> None:
        try:
            walk(net, Trainer(net, "adamw", learning_rate=0.01), 30)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=train, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for net, twin in zip(nets, expected, strict=True):
        train(twin)
        assert all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@needs_library
@pytest.mark.parametrize("divisor", [1, 2, 1024, 3, 7.5, 0.1, 1e-3])
def test_a_mean_is_a_division_to_the_last_bit(divisor: float) -> None:
    gradient = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    array = nn.Parameter(torch.zeros(1000))
    trainer = Trainer({"x": array}, "sgd", learning_rate=1.0)
    array.grad = gradient.clone()
    trainer.step(divisor)
    assert is_native(trainer)
    assert torch.equal(-array, gradient / divisor)


@needs_library
def test_an_array_without_elements_moves_nothing() -> None:
    net = nn.ParameterDict({"none": nn.Parameter(torch.zeros(0, 3)), "some": nn.Parameter(torch.zeros(2))})
    trainer = Trainer(net, "adamw", learning_rate=0.1)
    for parameter in net.values():
        parameter.grad = torch.ones_like(parameter)
    trainer.step()
    assert net["some"].tolist() == pytest.approx([-0.1, -0.1], abs=1e-6)


def test_a_rule_that_is_not_in_native_c_has_no_kernel() -> None:
    for name in ("lion", "adam", "sgd"):
        rule = by_name(name)
        assert isinstance(rule, UpdateRule)
        assert (native.kernel_of(rule) is not None) == (name != "lion" and library() is not None)


SCRIPT = """
import sys, torch
sys.path[:0] = [{tests!r}]
from etude.step.optim.compiler import library
from etude.step.trainer import Trainer
from nets import give_gradients, graph
found = []
for rule in ("sgd", "adam", "adamw"):
    net = graph()
    trainer = Trainer(net, rule, learning_rate=0.01, weight_decay=0.1, rules={{"weight_decay": {{"a": 0.3}}}})
    for step in range(4):
        give_gradients(net, step)
        trainer.step(3)
        trainer.zero_grad()
    found.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
torch.save(torch.stack(found), sys.argv[1])
print("library" if library() is not None else "none")
"""


def stepped_elsewhere(target: Path, **environment: str) -> tuple[str, Tensor]:
    """Steps in a process of its own: whether it had the library, and the arrays."""
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    inherited = {**os.environ, "PYTHONPATH": str(SRC), **environment}
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)], env=inherited, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: Tensor = torch.load(target)
    return done.stdout.strip(), found


@needs_library
def test_the_same_numbers_come_without_the_library(tmp_path: Path) -> None:
    said, with_it = stepped_elsewhere(tmp_path / "with", ETUDE_NATIVE="1")
    assert said == "library"
    said, without = stepped_elsewhere(tmp_path / "without", ETUDE_NATIVE="0")
    assert said == "none"
    assert torch.allclose(with_it, without, atol=1e-6)
