"""Values that options cannot have, and data, nets and files that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset

from calls import Call, call
from configurations import data, loss, metric, net

Values = dict[str, dict[str, tuple[Any, ...]]]

_PLAN_TYPES: dict[str, tuple[Any, ...]] = {
    "loss": (3, 0.5, [], ("mse", "mse", 1), nn.MSELoss, True),
    "optimizer": (3, None, object(), ["adamw"], {}),
    "learning_rate": ("1e-3", [1e-3], {"head": "1e-3"}, True, 1e-3j, (1e-3, 1e-4)),
    "learning_rate_multipliers": ("head", ["head", 2], {"head": "2"}, {"head": True}, {3.5: 1.0}, {"head"}),
    "rules": ("weight_decay", ["weight_decay"], 3, {"weight_decay": "head"}, {"weight_decay": {"head": "0"}}, {3: 0.1}),
    "update_schedule": (3.5, {"head": 1}, ["head", None], [3.5], True, b"head"),
    "epochs": ("10", 1.5, [3], True, {}, 2.0),
    "steps": ("100", 1.5, [3], True, b"3", 1e3),
    "batch_size": ("32", 3.5, [4], True, {}),
    "validation": ("20%", True, object(), [0.2, 0.8], Path("digits")),
    "metrics": (3, nn.MSELoss, [3], {"a": 3}, [None]),
    "averages": ("ema", 0.999, [0.999], {"ema": 0.9}, True),
    "evaluate_with": (3, True, ["ema"]),
    "patience": ("5", 1.5, [3], True),
    "min_delta": ("0.1", None, [0.1], True),
    "time_limit": (30, "30min", 0.5, [3], True),
    "checkpoint": (3, True, 0.5, b"run", {"a": 1}, object()),
    "precision": (16, torch.float16, True, [16]),
    "device": (3.5, [0], object()),
    "seed": ("0", 0.5, [1], None, True),
    "shuffle": ("yes", 1, [True], 0.5),
    "workers": ("2", 1.5, True, [2]),
    "round_length": ("3", 1.5, True, [3]),
    "compile": ("yes", 1, None, [True]),
    "non_finite": (True, None, 3, ["skip"]),
    "ignore_stale_grad": ("yes", 1, None, [True]),
    "strict": ("no", 0, None, [True]),
    "updates": ("critic", 3, [3], {"critic": "mse"}, [None]),
    "weight_decay": ("0.1", None, [0.1], {"head": "0.1"}, True),
    "clip_norm": ("1", {"head": "1"}, [1.0], True),
    "noise": ("0.1", [0.1], {"head": "0.1"}),
}
_TRAIN_TYPES: dict[str, tuple[Any, ...]] = {
    "progress": ("yes", 3, None, [True]),
    "listeners": (3, [3], "print", [None]),
    "resume": (True, 3, b"run", [3]),
    "accept": (3, [3], {3: 4}, 0.5),
    "until": (30, "11h", True, 0.5),
}
SEEN_LATER = (("validation", [0.2, 0.8]),)
"""Of these the ones that only the net and the data show to be wrong: told once all else is right."""

WRONG_TYPES: Values = {
    "Plan": _PLAN_TYPES,
    "train": {**_PLAN_TYPES, **_TRAIN_TYPES},
    "Run": {key: _TRAIN_TYPES[key] for key in ("resume", "accept", "until")},
    "Directory": {
        "cadence": (10, "epoch", True, [3]),
        "keep": (3, "best", True, [2], 0.5),
        "when": ("val.loss", 3, True),
        "final": ("yes", 1, 0.5),
        "export": ("yes", 1, None),
        "on_failure": (True, 3, None),
    },
    "File": {
        "cadence": (10, "epoch", True, [3]),
        "when": ("val.loss", 3, True),
        "final": ("yes", 1, 0.5),
        "export": ("yes", 1, None),
        "on_failure": (True, 3, None),
    },
    "Evaluate": {
        "every": (10, "epoch", None, True),
        "batch_size": ("8", 2.5, True, [4]),
        "best": (3, None, ["accuracy"], True),
        "metrics": (3, nn.MSELoss, [3]),
    },
    "Update": {
        "loss": (3, None, [], nn.MSELoss),
        "part": (3.5, ["head"], b"head", True),
        "optimizer": (3, None, ["sgd"]),
        "learning_rate": ("1e-3", [1e-3], True),
        "rules": ("weight_decay", 3, ["weight_decay"]),
        "turn": ("now", [1, 2], 0.5, {"a": 1}),
        "own_batch": ("yes", 1, None),
        "update_schedule": (3.5, {"head": 1}),
    },
    "ema": {
        "name": (3, None, True),
        "warm_up": ("yes", 1),
        "when": (3, "now"),
        "every": (3, "epoch"),
        "buffers": (True, 3),
    },
    "swa": {"name": (3, None), "when": (3, 0.5), "every": (3, "epoch"), "buffers": (None, 3)},
    "GAN": {"loss": (3, None, True), "latent": ("2", 2.5, {}, [2.5])},
    "Trainer": {
        "optimizer": (3, None, ["adamw"], {}),
        "learning_rate": ("1e-3", [1e-3], True),
        "rules": ("weight_decay", 3, ["weight_decay"]),
        "learning_rate_multipliers": ("head", {"head": "2"}, {3.5: 1}),
        "update_schedule": (3.5, {"head": 1}, True),
        "part": (3.5, ["head"], True),
        "total": (100, "100", True),
        "steps_per_epoch": ("5", 1.5, True),
        "non_finite": (True, 3),
        "strict": ("no", 0),
        "seed": ("0", 0.5, None),
        "accumulate": ("4", 0.5, [4], None),
        "averages": ("ema", 0.999),
        "loss_scale": ("big", True, [2]),
        "half": (True, None, 16),
        "share": ("yes", 1),
    },
    "Checkpoints": {"keep": (3, "best", True)},
    "plateau": {
        "factor": ("0.5", None, True),
        "patience": ("1", 1.5, True),
        "cooldown": ("1", 0.5),
        "low": ("0", None),
    },
    "when": {"above": ("0.5", True, [1]), "at_most": ("2", 1.5, True)},
    "warmup": {"start": ("0", True, [0]), "shape": (3, None, True)},
    "cosine": {"end": ("0", None, True), "over": (100, "epoch", True), "ahead": ("yes", 1, None)},
    "one_cycle": {"rise": ("0.3", None, True), "over": (100, True)},
    "step_decay": {"factor": ("0.5", None, True), "every": (10, "epoch", None), "floor": ("0", None, True)},
    "every": {"minimum": (5, "5s", True)},
    "best": {"n": ("2", 1.5, True), "direction": (3, True)},
}

_PLAN_VALUES: dict[str, tuple[Any, ...]] = {
    "loss": ("", {}, {"fit": ("mse", nan)}, "nothing"),
    "optimizer": ("", "adamx.y.z", "timm.nothing"),
    "learning_rate": (-1e-3, nan, inf, -inf, call("cosine", nan)),
    "learning_rate_multipliers": ({"head": nan}, {"head": inf}, {"": 1.0}, {"..": 1.0}, {99: 2.0}),
    "rules": (
        {"weight_decay": {"head": nan}},
        {"weight_decay": {"head": -1.0}},
        {"": 0.1},
        {"learning_rate": {"head": nan}},
    ),
    "update_schedule": ([], [""], ["head."], call("pieces", "head")),
    "epochs": (0, -1, -(10**9)),
    "steps": (0, -5),
    "batch_size": (0, -4),
    "validation": (0.0, 1.0, 1.5, -0.2, nan, 0),
    "metrics": ("nothing", {"loss": "accuracy"}),
    "patience": (-1,),
    "min_delta": (-0.1, nan, inf),
    "time_limit": (call("seconds", 0), call("steps", 10), call("seconds", nan)),
    "checkpoint": ("", "run.pt", "s3://bucket/run", "~/run", ["File"], "a\0b"),
    "precision": ("", "fp8", "double"),
    "device": ("", "gpu7", "cuda:99", "nothing"),
    "seed": (-1, 1 << 80),
    "workers": (-1,),
    "round_length": (0, -3),
    "non_finite": ("", "ignore"),
    "updates": ([],),
    "weight_decay": (-0.1, nan, inf, call("linear", 0.1, nan)),
    "clip_norm": (-1.0, nan),
    "clip_value": (-1.0, nan),
    "noise": (-0.1, inf),
    "nothing_of_the_kind": (1,),
}
IMPOSSIBLE: Values = {
    "Plan": _PLAN_VALUES,
    "train": {
        **_PLAN_VALUES,
        "until": (call("steps", 3), call("seconds", 0)),
        "accept": (["sede"], "epohcs"),
        "resume": ("", "latest"),
    },
    "Directory": {"cadence": (call("every", call("steps", 0)),), "on_failure": ("", "ignore")},
    "File": {"cadence": (call("steps", 0),), "on_failure": ("ignore",)},
    "Evaluate": {"batch_size": (0, -1), "best": ("nothing", ("accuracy", "up")), "metrics": ("nothing",)},
    "Update": {"learning_rate": (-1.0, nan), "turn": (-1,), "part": ("", "..")},
    "ema": {"name": ("", "a b"), "every": (call("steps", 0),), "when": (False,), "buffers": ("", "none")},
    "swa": {"name": ("", "a.b"), "every": (call("steps", 0),), "buffers": ("mean",)},
    "GAN": {"loss": ("", "kl"), "latent": (0, -2, (2, 0))},
    "Trainer": {
        "learning_rate": (-1.0, nan, inf),
        "steps_per_epoch": (0, -1),
        "accumulate": (0, -1),
        "loss_scale": (0, -1.0, nan),
        "half": ("", "full"),
        "non_finite": ("stop", ""),
        "part": ("", "nothing"),
        "total": (call("seconds", 3), call("fraction", 0.5)),
    },
    "plateau": {"factor": (0.0, 1.0, nan), "patience": (-1,), "cooldown": (-1,), "low": (-1.0, 2.0)},
    "when": {"above": (nan,), "at_most": (0, -1)},
    "warmup": {"start": (-0.5, 2.0, nan), "shape": ("", "quadratic")},
    "cosine": {"end": (nan, inf)},
    "one_cycle": {"rise": (0.0, 1.0, nan)},
    "step_decay": {"factor": (0.0, 2.0, nan), "every": (call("steps", 0),)},
    "every": {"minimum": (call("steps", 5),)},
    "best": {"n": (0, -1), "direction": ("up", "")},
}

Scene = Callable[[Path, Random], tuple[Call, str, tuple[str, ...]]]
"""Puts what it needs into a folder; the configuration, the mistake in words, and what has to be told."""


def _with(given: Any, of: Any = None, **options: Any) -> Call:
    said: dict[str, Any] = {"loss": loss("cross_entropy"), "epochs": 1, "batch_size": 4, "progress": False, **options}
    return call("train", net() if of is None else of, given, **said)


def _rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = data()
    return x[:count], y[:count]


class _Nothing(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


def _bad_data(_: Path, chance: Random) -> tuple[Call, str, tuple[str, ...]]:
    x, y = data()
    spoilt = x.clone()
    spoilt[chance.randrange(len(x)), chance.randrange(4)] = chance.choice((nan, inf))
    cases: list[tuple[Any, str, str]] = [
        (_rows(0), "no samples", "empty"),
        ([], "an empty list", "empty"),
        ({}, "an empty dict", "empty"),
        (_Nothing(), "a stream of nothing", "no batch"),
        ((x, y[:7]), "arrays of two lengths", "different numbers of samples"),
        ((x[:, :3], y), "inputs of another width", "first batch"),
        ((x[None], y[None]), "a dimension too many", "first batch"),
        ((x, y + 5), "classes that the output does not have", "classes"),
        ((x, y.float()), "targets of another type", "first batch"),
        ((x.double(), y), "inputs of another type", "first batch"),
        ((spoilt, y), "NaN or infinity", "NaN or infinity"),
        (None, "None", "None"),
        ("digits", "a name", "digits"),
        (3, "a number", "3"),
        (iter([(x, y)]), "what is read only once", "only once"),
        (lambda: iter([(x, y)]), "a function without a length", "round_length"),
        (x, "inputs alone", "first batch"),
    ]
    given, what, told = chance.choice(cases)
    return _with(given), f"data: {what}", (told,)


def _bad_net(_: Path, chance: Random) -> tuple[Call, str, tuple[str, ...]]:
    frozen, tied = net().requires_grad_(False), nn.Sequential(nn.Linear(4, 3), nn.Sigmoid())
    cases: list[tuple[Any, str, str]] = [
        (frozen, "nothing is trainable", "trainable"),
        (nn.Linear(5, 3), "another width", "first batch"),
        (nn.Linear, "a class", "Module"),
        (None, "None", "Module"),
        (lambda x: x, "a function", "Module"),
        (torch.jit.script(nn.Linear(4, 3)), "a scripted module", "ScriptModule"),
        (nn.Sequential(tied, _Leaves()), "an output without a graph", "graph"),
        (nn.Identity(), "no arrays", "trainable"),
    ]
    given, what, told = chance.choice(cases)
    return call("train", given, data(), loss=loss("cross_entropy"), epochs=1, progress=False), f"net: {what}", (told,)


class _Leaves(nn.Module):
    """Leaves the graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


def _bad_place(folder: Path, chance: Random) -> tuple[Call, str, tuple[str, ...]]:
    (folder / "taken").write_text("notes")
    (folder / "there").mkdir()
    (folder / "there" / "run.safetensors").mkdir()
    os.symlink(folder / "nowhere" / "at all", folder / "link")
    cases: list[tuple[Any, str, str]] = [
        (call("Directory", folder / "taken"), "a file has the name of the folder", "taken"),
        (call("Directory", folder / "taken" / "run"), "a file is in the way", "taken"),
        (call("File", folder / "there"), "a folder has the name of the file", "there"),
        (call("File", folder / "there" / "run.safetensors"), "a folder has the name of the file", "run.safetensors"),
        (call("File", folder / "taken" / "run.safetensors"), "a file is in the way", "taken"),
        (call("File", Path("/proc/run.safetensors")), "no files can be made there", "/proc"),
        (call("Directory", Path("/proc/run")), "no folder can be made there", "/proc"),
        (call("Directory", folder / ("long" * 80)), "the name is too long", "longlong"),
        (call("File", folder / ("long" * 80 + ".safetensors")), "the name is too long", "longlong"),
        ([folder / "there", folder / "there"], "the same folder twice", "there"),
        (folder / "run.pt", "a file of another kind", "run.pt"),
    ]
    given, what, told = chance.choice(cases)
    return _with(data(), checkpoint=given), f"checkpoint: {what}", (told,)


def _foreign(folder: Path, chance: Random) -> tuple[Call, str, tuple[str, ...]]:
    import etude

    path, other = folder / "foreign.safetensors", folder / "other.safetensors"
    made = etude.train(net(), data(), loss="cross_entropy", steps=2, batch_size=4, checkpoint=other, progress=False)
    made.save(folder / "weights.json", net=True)
    torch.save(net().state_dict(), folder / "weights.pt")
    path.write_bytes(chance.choice((b"", b"notes", chance.randbytes(500), other.read_bytes()[:-40])))
    cases: list[tuple[dict[str, Any], Any, str, str]] = [
        ({"resume": path}, None, "no checkpoint", "foreign.safetensors"),
        ({"resume": folder / "weights.pt"}, None, "a pickle", "weights.pt"),
        ({"resume": folder / "weights.safetensors"}, None, "a net alone", "weights.safetensors"),
        ({"resume": folder / "missing.safetensors"}, None, "no such file", "missing.safetensors"),
        ({"resume": folder}, None, "a folder", "resume"),
        ({"resume": "auto"}, None, "nowhere to look", "resume"),
        ({"resume": other, "seed": 4}, None, "a run with another seed", "seed"),
        ({"resume": other, "learning_rate": 0.5}, None, "a run with another rate", "learning_rate"),
        ({"resume": other, "optimizer": "sgd"}, None, "a run with another optimizer", "optimizer"),
        ({"resume": other}, nn.Linear(4, 3), "a run of another net", "net"),
        ({"resume": other, "accept": True}, nn.Linear(4, 3), "arrays of another net", "other.safetensors"),
        ({"checkpoint": other, "resume": "latest"}, None, "a word that means nothing", "latest"),
    ]
    options, of, what, told = chance.choice(cases)
    return _with(data(), of, **options), f"resume: {what}", (told,)


def _bad_plan(_: Path, chance: Random) -> tuple[Call, str, tuple[str, ...]]:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"patience": 2, "round_length": 3}, "a length that arrays have of their own", "round_length"),
        ({"metrics": metric("accuracy")}, "metrics of nothing", "validation"),
        ({"evaluate_with": "ema", "validation": 0.25}, "an average that is not there", "ema"),
        ({"learning_rate": call("warmup", call("steps", 100))}, "a warm-up longer than the run", "warmup"),
        ({"min_delta": 0.1}, "min_delta without patience", "min_delta"),
        ({"until": call("hours", 1)}, "until without a place", "until"),
        ({"learning_rate_multipliers": {"head": 0.0, "head.*": 2.0}, "strict": True}, "a covered rule", "head"),
        ({"update_schedule": ["relu"]}, "a part that is not there", "relu"),
        ({"precision": "fp16", "optimizer": "lbfgs"}, "a scale that cannot be", "fp16"),
    ]
    options, what, told = chance.choice(cases)
    return _with(data(), **options), f"plan: {what}", (told,)


SCENES: tuple[Scene, ...] = (_bad_data, _bad_net, _bad_place, _foreign, _bad_plan)
