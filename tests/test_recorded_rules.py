"""Every update rule beside the recorded steps of MXNet's, step by step.

The numbers are those of MXNet 1.9.1 (rules without decay and clipping) and of 2.0 (everything). Where its rule is not
torch's, torch's stands: those cases are listed with the reason, and must differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.step.trainer import Trainer
from etude.values.part import everything
from etude.values.progress import Progress

FOLDER = Path(__file__).parents[2] / "shared" / "fixtures"
if not (FOLDER / "gluon_dev.json").exists():
    pytest.skip("the recorded steps lie beside the repository, and are not there", allow_module_level=True)

TOLERANCE = 2e-5
Case = dict[str, Any]

_GRAVES = "centred RMSProp: eps is inside the root there, beside it in torch"

DIFFERENT = {
    "1 rmsprop_centered_plain": _GRAVES,
    "2 rmsprop_centered_plain": _GRAVES,
    "2 rmsprop_centered_full": _GRAVES,
    "2 rmsprop_centered_single": _GRAVES,
    "2 rmsprop_centered_sched": _GRAVES,
    "2 rmsprop_centered_setlr": _GRAVES,
}
"""The cases that differ, with the reason."""


def _cases() -> dict[str, Case]:
    made = {}
    for mark, file in (("1", "gluon_dev.json"), ("2", "gluon_mx2_dev.json")):
        for case in json.loads((FOLDER / file).read_text())["optimizers"]:
            if mark == "2" or case["id"].endswith("_plain"):
                made[f"{mark} {case['id']}"] = case
    return made


CASES = _cases()


# --------------------------------------------------------------------------------------- from their words to ours


def _renamed(given: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in given.items()}


def _betas(given: dict[str, Any]) -> dict[str, Any]:
    return {"betas": (given.pop("beta1"), given.pop("beta2")), **given}


def _signum(given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if given["momentum"]:
        return "signum", {"weight_decay": 0.0, **_renamed(given, weight_decay="l2", wd_lh="weight_decay")}
    del given["momentum"]
    return "signsgd", given


def _adam(name: str) -> Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]:
    def made(given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if not given.pop("correct_bias", True):
            return "lamb", {"adapt": False, "bias_correction": False, **given}
        # Their eps is added before the square is corrected for the first steps.
        eps, beta2 = given.pop("eps"), given["beta2"]
        return name, {**given, "eps": lambda progress: eps / math.sqrt(1 - beta2 ** (progress.step + 1))}

    return made


def _lbsgd(given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A few gradients make one step; their warm-up is a schedule, and their "lars" is LARS."""
    settings = {"accumulate": given.pop("batch_scale", 1), **{key: given[key] for key in ("momentum", "weight_decay")}}
    if given.get("warmup_strategy") == "lars":
        return "lars", {"trust": 1.0, "eps": 0.0, **settings}
    return "sgd", settings


OPTIMIZERS: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "sgd": lambda given: ("sgd", given),
    "nag": lambda given: ("sgd", {"nesterov": True, **given}),
    "ccsgd": lambda given: ("sgd", given),
    "lbsgd": _lbsgd,
    "signum": _signum,
    "adam": _adam("adam"),
    "adamw": _adam("adamw"),
    "contrib.adamw_update": _adam("adamw"),
    "adagrad": lambda given: ("adagrad", given),
    "adadelta": lambda given: ("adadelta", given),
    "rmsprop": lambda given: ("rmsprop", _renamed(given, rho="alpha")),
    "ftrl": lambda given: ("ftrl", given),
    "ftml": lambda given: ("ftml", given),
    "adamax": lambda given: ("adamax", _betas(given)),
    "nadam": lambda given: ("nadam", _renamed(_betas(given), schedule_decay="momentum_decay")),
    "dcasgd": lambda given: ("dcasgd", _renamed(given, lamda="compensation")),
    "lamb": lambda given: ("lamb", given),
    "lans": lambda given: ("lans", given),
    "lars": lambda given: ("lars", {"momentum": 0.0, **_renamed(given, eta="trust")}),
    "adabelief": lambda given: ("adabelief", given),
    "groupadagrad": lambda given: ("rowwise_adagrad", given),
}
"""For each of their optimizers ours, and the settings in our words."""

WORDS = {"epsilon": "eps", "lamda1": "l1", "gamma1": "alpha", "gamma2": "momentum", "wd": "weight_decay"}
OUTSIDE = {"learning_rate", "clip_gradient"}
WARM_UPS: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "power2": lambda share: share**2,
    "sqrt": lambda share: share**0.5,
}


def translated(case: Case) -> tuple[str, dict[str, Any]]:
    """Our optimizer and its settings, besides the learning rate and clipping."""
    theirs = case["optimizer_params"]
    given = {WORDS.get(key, key): value for key, value in theirs.items() if key not in OUTSIDE}
    optimizer, settings = OPTIMIZERS[case["optimizer"]]({"weight_decay": 0.0, **given})
    if "clip_gradient" in theirs:
        # The first two take norms of gradients that are not clipped yet, the third clips what decay was added to.
        late = case["optimizer"] in ("lars", "lans", "adabelief")
        settings["clip" if late else "clip_value"] = theirs["clip_gradient"]
    return optimizer, settings


def by_part(case: Case, settings: dict[str, Any]) -> dict[str, Any]:
    """Rules for what differs from array to array; takes the decay out of the settings."""
    decay = "l2" if "l2" in settings else "weight_decay"
    given = settings.pop(decay)
    made: dict[str, Any] = {decay: {p["name"]: given * p["wd_mult"] for p in case["params"]}}
    if "trust" in settings and not case["param_idx2name_given"]:
        made["adapt"] = {everything: True}
    return made


def rate_of(case: Case) -> Callable[[int], float]:
    """The rate of the step with a number from 1."""
    given = case["optimizer_params"]
    first = given.get("learning_rate", 1.0)
    if case["optimizer"] == "adadelta" and case["lr_scheduler"] is None:
        first = 1.0
    if case["lr_scheduler"]:
        made = case["lr_scheduler"]["kwargs"]
        return lambda n: made["base_lr"] * made["factor"] ** sum(n > step for step in made["step"])
    if given.get("warmup_strategy") in WARM_UPS:
        curve, scale = WARM_UPS[given["warmup_strategy"]], given["batch_scale"]
        end = given["warmup_epochs"] * given["updates_per_epoch"]
        return lambda n: first * (1 + (scale - 1) * curve(min(1.0, n * scale / end)))
    changes = {1: first, **{int(step): rate for step, rate in (case["set_learning_rate_before_step"] or {}).items()}}
    return lambda n: changes[max(step for step in changes if step <= n)]


# ------------------------------------------------------------------------------------------------------- the steps


def arrays_of(case: Case) -> dict[str, nn.Parameter]:
    return {p["name"]: nn.Parameter(torch.tensor(p["init"]).reshape(p["shape"])) for p in case["params"]}


def apart(case: Case, trainer: Trainer, arrays: Mapping[str, Tensor], count: Callable[[int, float], float]) -> float:
    """The largest difference from the recorded weights after any gradient."""
    expected: Sequence[Sequence[Any]] = case.get("weights_intended") or case["weights"]
    changes = case["set_learning_rate_before_step"] or {}
    largest = 0.0
    for number, size in enumerate(case["batch_sizes"]):
        for array, gradient in zip(arrays.values(), case["grads"][number], strict=True):
            new = torch.tensor(gradient).reshape(array.shape)
            array.grad = new if array.grad is None else array.grad.add_(new)
        if str(number + 1) in changes and not inside(case):
            trainer.set_learning_rate(changes[str(number + 1)])
        if trainer.step(count(int(trainer.progress.step) + 1, size)):
            trainer.zero_grad()
        for array, now in zip(arrays.values(), expected[number], strict=True):
            largest = max(largest, float((array.detach() - torch.tensor(now).reshape(array.shape)).abs().max()))
    return largest


def inside(case: Case) -> bool:
    """Whether the rate changes and their buffer holds gradients that were multiplied by it."""
    given = case["optimizer_params"]
    warms = given.get("warmup_strategy") in WARM_UPS
    changes = case["lr_scheduler"] is not None or case["set_learning_rate_before_step"] is not None or warms
    return changes and case["optimizer"] in ("sgd", "nag", "ccsgd", "lbsgd") and given.get("momentum", 0) > 0


def differs(case: Case) -> float:
    """Run a case with our rule, in the words of the migration table."""
    optimizer, settings = translated(case)
    rules, rate, arrays = by_part(case, settings), rate_of(case), arrays_of(case)
    multipliers = {p["name"]: p["lr_mult"] for p in case["params"]}
    if inside(case):
        # Their momentum remembers the old rate. Ours does if the gradients are multiplied by it, and the decay too.
        (name,) = arrays
        decay = rules["weight_decay"][name]
        settings["weight_decay"] = lambda progress: decay * rate(int(progress.step) + 1)
        trainer = Trainer(arrays, optimizer, learning_rate=1.0, **settings)
        return apart(case, trainer, arrays, lambda n, size: size / rate(n))
    if case["optimizer"] in ("adamw", "contrib.adamw_update") and optimizer == "adamw":
        rules["weight_decay"] = {name: _stepped(decay, settings) for name, decay in rules["weight_decay"].items()}
    first: Any = rate(1) if case["lr_scheduler"] is None else lambda progress: rate(int(progress.step) + 1)
    trainer = Trainer(
        arrays, optimizer, learning_rate=first, rules=rules, learning_rate_multipliers=multipliers, **settings
    )
    return apart(case, trainer, arrays, lambda n, size: size)


def _stepped(decay: float, settings: Mapping[str, float]) -> Any:
    """Their AdamW multiplies the decay, too, by what corrects the averages of the first steps."""
    if not decay:
        return 0.0
    beta1, beta2 = settings["beta1"], settings["beta2"]

    def at(progress: Progress) -> float:
        n = int(progress.step) + 1
        return float(decay * math.sqrt(1 - beta2**n) / (1 - beta1**n))

    return at


@pytest.mark.parametrize("name", [name for name in CASES if name not in DIFFERENT])
def test_the_steps_are_the_recorded_ones(name: str) -> None:
    assert differs(CASES[name]) < TOLERANCE


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_listed_as_different_is(name: str) -> None:
    assert differs(CASES[name]) > TOLERANCE


# ------------------------------------------------------------------------------------------------- sparse gradients

SPARSE = {case["id"]: case for case in json.loads((FOLDER / "gluon_dev.json").read_text())["sparse"]}


def _sparse(case: Case) -> tuple[str, dict[str, Any]]:
    given = {WORDS.get(key, key): value for key, value in case["optimizer_params"].items()}
    if given.pop("lazy_update", False):
        return {"sgd": "lazy_sgd", "adam": "lazy_adam"}[case["optimizer"]], given
    if case["optimizer"] == "groupadagrad":
        return "rowwise_adagrad", {**given, "eps": 1e-5}
    return case["optimizer"], ({**given, "eps": 1e-7} if case["optimizer"] == "adagrad" else given)


@pytest.mark.parametrize("name", SPARSE)
def test_the_steps_on_sparse_gradients_are_the_recorded_ones(name: str) -> None:
    case = SPARSE[name]
    optimizer, settings = _sparse(case)
    array = nn.Parameter(torch.tensor(case["init"]).reshape(case["shape"]))
    trainer = Trainer({"w": array}, optimizer, **settings)
    for step, expected in zip(case["grad_steps"], case["weights"], strict=True):
        rows, values = torch.tensor([step["rows"]]), torch.tensor(step["values"])
        shape = case["shape"]
        array.grad = torch.sparse_coo_tensor(rows, values.reshape(-1, *shape[1:]), shape, check_invariants=True)
        trainer.step(case["batch_size"])
        trainer.zero_grad()
        assert float((array.detach().reshape(-1) - torch.tensor(expected)).abs().max()) < TOLERANCE
