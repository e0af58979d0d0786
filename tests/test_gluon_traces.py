"""What Gluon's Trainer did, operation by operation, replayed through étude's.

The recorded traces hold a few arrays of two equal numbers each, and what was seen after every operation: weights,
gradients, the learning rate, and the error if there was one. Where étude is meant to do otherwise, `CORRECTED` says
what and why; what needs several replicas is in `SEVERAL`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import etude
from etude import ScheduleError, StaleGradientError, StateError, step_decay, steps, times

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
FILES = ("gluon_dev.json", "gluon_mx2_dev.json")

pytestmark = pytest.mark.skipif(
    not all((FIXTURES / name).exists() for name in FILES), reason="the recorded traces are not here"
)


@dataclass(frozen=True)
class Corrected:
    """Where étude differs from the record on purpose: fields that hold instead, by the number of the operation."""

    reason: str
    instead: Mapping[int, Mapping[str, Any]]


CORRECTED = {
    "gluon_dev.json stale_subset_raises_then_gradient_is_lost": Corrected(
        "A step that is refused changes nothing, so the gradient of x is still new for the step that passes over y.",
        {4: {"weights": {"x": 0.0, "y": -2.5}}},
    ),
    "gluon_dev.json grad_req_add_accumulates": Corrected(
        "Gradients add up until a step uses them. Adding onto a used one is an error; zero_grad() starts afresh.",
        {
            5: {"error": StaleGradientError, "weights": {"x": 0.0}},
            6: {"weights": {"x": 0.0}},
            7: {"weights": {"x": 0.0}},
            8: {"weights": {"x": -0.25}},
        },
    ),
    "gluon_dev.json set_learning_rate": Corrected(
        "The momentum holds gradients, as in torch, not gradients times the rate of their time: a new rate acts whole.",
        {4: {"weights": {"x": 0.425}}, 5: {"weights": {"x": 0.425}}, 6: {"weights": {"x": 0.3375}}},
    ),
    "gluon_dev.json save_load_wins_over_optimizer_class": Corrected(
        "The state of another optimizer is an error and changes nothing: the trainer stays what it is.",
        {
            4: {"error": StateError, "learning_rate": 0.001},
            5: {"learning_rate": 0.001},
            6: {"weights": {"x": 0.499}, "learning_rate": 0.001},
        },
    ),
}
CORRECTED |= {key.replace("dev", "mx2_dev"): value for key, value in CORRECTED.items()}
CORRECTED["gluon_mx2_dev.json set_learning_rate_with_scheduler_raises"] = Corrected(
    "The rate of a schedule is written once, in the schedule: no default of the optimizer replaces it.",
    {
        0: {"learning_rate": 0.5},
        1: {"learning_rate": 0.5},
        2: {"learning_rate": 0.5, "weights": {"x": 0.5}},
        3: {"learning_rate": 0.5, "weights": {"x": 0.5}},
        4: {"learning_rate": 0.25, "weights": {"x": 0.25}},
        5: {"learning_rate": 0.25, "weights": {"x": 0.25}},
        6: {"learning_rate": 0.125, "weights": {"x": 0.125}},
    },
)

SEVERAL = {
    "replicas_sum": "one process for each device; gradients are summed and divided by the whole count",
    "replicas_update_on_kvstore_rejects_update": "there is no store: update and allreduce_grads are always there",
    "replicas_stale_check_is_off_with_update_on_kvstore": "there is no store: the check is always on",
    "replicas_local_update": "the check comes before the summing",
    "replicas_set_data_drops_momentum": "there is no store: memory is kept, as on one device",
    "replicas_without_kvstore_diverge": "cannot be written: one process moves one copy",
    "replicas_set_learning_rate_and_mult": "the same on one process, see set_learning_rate and lr_mult_live",
}
"""Traces of several replicas in one process, and what is there instead of them."""

ERRORS = {"step": StaleGradientError, "set_learning_rate": ScheduleError}
"""What étude raises where Gluon raised UserWarning."""


def traces() -> list[tuple[str, Mapping[str, Any]]]:
    """Every recorded trace with its name, "file id"."""
    found = []
    for name in FILES:
        path = FIXTURES / name
        if path.exists():
            found += [(f"{name} {each['id']}", each) for each in json.loads(path.read_text())["traces"]]
    return found


def of_one_process() -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, each) for name, each in traces() if each.get("replicas", 1) == 1]


class Replay:
    """The arrays and the trainer of a trace, and one method for each operation."""

    def __init__(self, trace: Mapping[str, Any], freezes: bool) -> None:
        self.trace = trace
        self.freezes = freezes
        self.arrays = {name: nn.Parameter(torch.full((2,), value)) for name, value in trace["params"].items()}
        self.adds: set[str] = set()
        self.written: set[str] = set()
        self.files: dict[str, Any] = {}
        self.trainer = self.made(trace["optimizer"], trace.get("optimizer_params", {}))

    def made(self, optimizer: str, params: Mapping[str, Any]) -> etude.Trainer:
        """The trainer, with Gluon's words in étude's."""
        told = dict(params)
        self.factor = told.pop("rescale_grad", 1.0)
        if "wd" in told:
            told["l2"] = told.pop("wd")
        if "scheduler" in self.trace:
            kind, given = self.trace["scheduler"]
            assert kind == "factor"
            told["learning_rate"] = step_decay(given["base_lr"], given["factor"], steps(given["step"]), floor=1e-8)
        return etude.Trainer(self.arrays, optimizer, **told)

    def backward(self, gradients: Mapping[str, float]) -> None:
        # 'write' is zero_grad before backward, 'add' is not to call it.
        if not self.adds:
            self.trainer.zero_grad()
        torch.stack([(self.arrays[name] * gradient).sum() for name, gradient in gradients.items()]).sum().backward()
        self.written = set(gradients)

    def step(self, batch_size: int, ignore: int = 0) -> None:
        self.trainer.step(batch_size / self.factor, ignore_stale_grad=bool(ignore))

    def update(self, batch_size: int) -> None:
        self.trainer.update(batch_size)

    def allreduce_grads(self) -> None:
        self.trainer.allreduce_grads()

    def clip_global_norm(self, most: float) -> float:
        return self.trainer.clip_grads(most)

    def set_learning_rate(self, rate: float) -> None:
        self.trainer.set_learning_rate(rate)

    def lr_mult(self, name: str, factor: float) -> None:
        self.trainer.change("learning_rate", {name: times(factor)})

    def wd_mult(self, name: str, factor: float) -> None:
        self.trainer.change("l2", {name: times(factor)})

    def grad_req(self, name: str, how: str) -> None:
        if how == "add":
            self.adds.add(name)
        elif not self.freezes:
            self.arrays[name].requires_grad_(how == "write")
        elif how == "null":
            self.trainer.freeze(name)
        else:
            self.trainer.thaw(name)

    def zero_grad(self, name: str) -> None:
        assert set(self.arrays) == {name}
        self.trainer.zero_grad()
        self.written = set()

    def set_data(self, name: str, value: float) -> None:
        with torch.no_grad():
            self.arrays[name].fill_(value)

    def save_states(self, file: str) -> None:
        self.files[file] = self.trainer.state_dict()

    def load_states(self, file: str) -> None:
        self.trainer.load_state_dict(self.files[file], keep="saved")
        self.written = set()

    def new_trainer(self, told: Mapping[str, Any]) -> None:
        self.trainer.detach()
        self.written = set()  # gradients that it has used are forgotten, as they are when a state is loaded
        params = told.get("optimizer_params", self.trace.get("optimizer_params", {}))
        self.trainer = self.made(told.get("optimizer", self.trace["optimizer"]), params)

    def __call__(self, operation: str, *given: Any) -> Any:
        return getattr(self, operation)(*given)


def one(value: Any) -> float:
    """A record has one number for each replica."""
    return float(value[0] if isinstance(value, list) else value)


@pytest.mark.parametrize("freezes", [True, False], ids=["freeze", "requires_grad"])
@pytest.mark.parametrize(("name", "trace"), of_one_process(), ids=[name for name, _ in of_one_process()])
def test_a_trace_replays(name: str, trace: Mapping[str, Any], freezes: bool) -> None:
    """Alike at every operation, but for what CORRECTED says."""
    replay = Replay(trace, freezes)
    corrected = CORRECTED.get(name, Corrected("", {})).instead
    rate = replay.trainer.learning_rate
    for number, recorded in enumerate(trace["trace"]):
        operation, *given = recorded["op"]
        expected = {**recorded, **corrected.get(number, {})}
        error = ERRORS[operation] if expected["error"] == "UserWarning" else expected["error"]
        # Gluon tells the rate of the last update, étude that of the step to be made: under a schedule they differ.
        if operation == "step":
            rate = replay.trainer.learning_rate
        returned = None
        if error is None:
            returned = replay(operation, *given)
        else:
            with pytest.raises(error):
                replay(operation, *given)
        check(replay, expected, f"operation {number}, {recorded['op']}")
        rate = rate if "scheduler" in trace else replay.trainer.learning_rate
        assert rate == pytest.approx(expected["learning_rate"])
        if recorded["returned"] is not None:
            assert returned == pytest.approx(recorded["returned"], abs=1e-6)


def check(replay: Replay, expected: Mapping[str, Any], said: str) -> None:
    for key, weight in expected["weights"].items():
        assert replay.arrays[key].tolist() == pytest.approx([one(weight)] * 2, abs=1e-6), f"{said}: {key}"
    for key in replay.written:
        gradient, recorded = replay.arrays[key].grad, expected["grads"][key]
        if recorded is not None:
            assert gradient is not None
            assert gradient.tolist() == pytest.approx([one(recorded)] * 2, abs=1e-6), f"{said}: gradient of {key}"


def test_every_correction_is_of_a_trace_and_differs_from_it() -> None:
    known = dict(of_one_process())
    assert set(CORRECTED) <= set(known)
    for name, corrected in CORRECTED.items():
        for number, fields in corrected.instead.items():
            recorded = known[name]["trace"][number]
            plain = {key: {k: one(v) for k, v in recorded[key].items()} for key in ("weights",)}
            assert any(plain.get(key, recorded[key]) != value for key, value in fields.items()), (name, number)


@pytest.mark.parametrize("name", sorted(SEVERAL))
def test_of_several_replicas(name: str) -> None:
    pytest.skip(f"needs several processes; instead: {SEVERAL[name]}")


def test_every_trace_of_several_replicas_is_accounted_for() -> None:
    assert {each["id"] for _, each in traces() if each.get("replicas", 1) > 1} == set(SEVERAL)
