"""Thirty good configurations, in which every front door, and most options, occur."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from calls import Call, Fresh, Word, call, part
from etude import FROZEN, everything

SAMPLES = 12


def net(_: Path | None = None) -> nn.Module:
    """4 numbers in, 3 out, by layers "embed", "encoder.0", "encoder.1" and "head"."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers: Any = OrderedDict(
            embed=nn.Linear(4, 6),
            encoder=nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)),
            head=nn.Linear(6, 3),
        )
        return nn.Sequential(layers)


def game(_: Path) -> dict[str, nn.Module]:
    """A generator and a discriminator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {"generator": nn.Linear(2, 4), "discriminator": nn.Linear(4, 1)}


def data(_: Path | None = None) -> tuple[Tensor, Tensor]:
    """Inputs (12, 4) and classes (12,)."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(SAMPLES, 4, generator=generator)
    return x, torch.randint(0, 3, (SAMPLES,), generator=generator)


def numbers(_: Path) -> tuple[Tensor, Tensor]:
    """Inputs (12, 4) and numbers (12, 3)."""
    x, _y = data()
    return x, x[:, :3].clone()


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Three batches of four samples."""
    x, y = data()
    return iter(zip(x.split(4), y.split(4), strict=True))


NET, DATA, NUMBERS = Fresh(net), Fresh(data), Fresh(numbers)
FOLDER = Fresh(lambda folder: folder / "run")
FILE = Fresh(lambda folder: folder / "run.safetensors")
BEST = Fresh(lambda folder: folder / "best.safetensors")
SAMPLE = Fresh(lambda _: data()[0])


def loss(name: str) -> Word:
    """The name of a loss."""
    return Word(name, "loss")


def optimizer(name: str) -> Word:
    """The name of an optimizer."""
    return Word(name, "optimizer")


def metric(name: str) -> Word:
    """The name of a metric."""
    return Word(name, "metric")


def score(name: str) -> Word:
    """The name of something that is measured."""
    return Word(name, "score")


def setting(name: str) -> Word:
    """The name of a setting, as the key of a dict."""
    return Word(name, "setting")


def choice(name: str) -> Word:
    """One of a few words that an option may be."""
    return Word(name, "choice")


def _steps(n: int) -> Call:
    return call("steps", n)


def _train(*, given: Any = DATA, of: Any = NET, **options: Any) -> Call:
    """A short silent call of `train`, with a loss and a length where the options say none."""
    said: dict[str, Any] = (
        {} if {"updates", "loss"} & options.keys() or of is not NET else {"loss": loss("cross_entropy")}
    )
    if not {"epochs", "steps"} & options.keys():
        said["epochs"] = 1
    return call("train", of, given, **said, **options, progress=False)


def _cosine() -> Call:
    return call("*", call("warmup", call("fraction", 0.5), shape=choice("linear")), call("cosine", 1e-2, end=1e-4))


def _critic(**options: Any) -> Call:
    return call("Update", "critic", loss=loss("mse"), part=part("head"), optimizer=optimizer("sgd"), **options)


def _rest(**options: Any) -> Call:
    return call("Update", "rest", loss=loss("l1"), part=part("encoder"), learning_rate=1e-3, **options)


GAME = call("GAN", Fresh(lambda folder: game(folder)["generator"]), Fresh(lambda folder: game(folder)["discriminator"]))
HINGE = Call("GAN", GAME.args, {"loss": choice("hinge"), "latent": 2})

GOOD: dict[str, Call] = {
    "short": _train(batch_size=4, seed=3),
    "a curve": _train(learning_rate=_cosine(), epochs=2, batch_size=4, optimizer=optimizer("adamw")),
    "parts at other rates": _train(
        learning_rate=1e-3,
        learning_rate_multipliers={part("embed"): FROZEN, part("encoder.0"): 0.5, part("head"): 2.0},
        update_schedule=[part("encoder"), part("head")],
        batch_size=3,
    ),
    "rules": _train(
        rules={
            setting("weight_decay"): {part("head"): 0.0, everything: 0.1},
            setting("learning_rate"): [(part("encoder"), call("times", 0.1))],
        },
        weight_decay=0.01,
        strict=True,
    ),
    "validation": _train(
        validation=0.25, metrics=[metric("accuracy"), metric("error_rate")], patience=3, min_delta=0.1
    ),
    "looks": _train(
        validation=call(
            "Evaluate",
            0.25,
            metrics=metric("accuracy"),
            every=call("every", _steps(2)),
            batch_size=2,
            best=score("accuracy"),
        ),
        steps=4,
    ),
    "averages": _train(
        averages=(
            call("ema", 0.9, name="slow", warm_up=True, buffers=choice("copy")),
            call("swa", part("head"), every=_steps(2)),
        ),
        evaluate_with=Word("slow", "average"),
        validation=0.25,
    ),
    "saved in a folder": _train(
        checkpoint=call(
            "Directory",
            FOLDER,
            call("every", call("epochs", 1), minimum=call("seconds", 5)),
            keep=call("|", call("last", 2), call("best", score("val.loss"), n=2, direction=choice("min"))),
            on_failure=choice("stop"),
        ),
        validation=0.25,
    ),
    "saved in files": _train(
        checkpoint=[
            call("File", FILE, cadence=_steps(2), final=True, export=False),
            call("File", BEST, when=call("best", score("val.accuracy"))),
        ],
        validation=0.25,
        metrics=metric("accuracy"),
    ),
    "two updates": _train(
        given=NUMBERS,
        updates=[
            _critic(learning_rate=1e-2, momentum=0.9),
            _rest(own_batch=False, update_schedule=[part("encoder.0")]),
        ],
        batch_size=4,
    ),
    "updates in turn": _train(
        given=NUMBERS,
        updates=[_critic(turn=call("when", score("rest.loss"), above=0.01, at_most=2)), _rest(weight_decay=0.1)],
        shuffle=False,
    ),
    "a game": _train(of=HINGE, given=SAMPLE, learning_rate=1e-4, clip_weights=0.1, steps=2, batch_size=4),
    "bf16": _train(precision=choice("bf16"), clip_norm=1.0, device="cpu", seed=5, ignore_stale_grad=False),
    "optimizers by part": _train(
        optimizer={part("embed"): optimizer("sgd"), everything: optimizer("lion")}, learning_rate=1e-3, noise=0.01
    ),
    "an optimizer of torch": _train(optimizer=torch.optim.RMSprop, alpha=0.9, centered=True, learning_rate=1e-3),
    "several terms": _train(
        loss={"fit": (loss("cross_entropy"), 0.5), "even": (loss("cross_entropy"), call("linear", 0.0, 1.0))}, steps=3
    ),
    "a run": call(
        "Run",
        call("Plan", loss("cross_entropy"), optimizer=optimizer("lamb"), epochs=1, time_limit=call("minutes", 5)),
        NET,
        DATA,
        accept=True,
    ),
    "gone on with": _train(
        checkpoint=call("Directory", FOLDER, keep=call("thinning", 3), when=None, final=True),
        resume=choice("auto"),
        accept=[Word("learning_rate", "option name")],
        until=call("hours", 1),
        listeners=[id],
    ),
    "a plateau": _train(
        learning_rate=call("*", 1e-3, call("plateau", score("val.loss"), factor=0.5, patience=1, cooldown=1)),
        validation=0.25,
        epochs=2,
    ),
    "pieces": _train(
        update_schedule=call(
            "pieces", part("head"), (_steps(1), call("cycle", call("part", part("encoder")), part("head")))
        ),
        learning_rate=call("one_cycle", 1e-2, start=1e-3, rise=0.5),
        batch_size=4,
    ),
    "sgd": _train(
        optimizer=optimizer("sgd"),
        momentum=call("linear", 0.5, end=0.9),
        learning_rate=call("step_decay", 0.1, factor=0.5, every=call("epochs", 1), floor=1e-3),
        non_finite=choice("skip"),
        clip_value=1.0,
        epochs=2,
    ),
    "adam": _train(
        optimizer=optimizer("adam"),
        betas=(0.9, 0.99),
        eps=1e-7,
        learning_rate=call("cyclic", 1e-4, 1e-2, _steps(2), shape=choice("cosine"), decay=0.9),
        clip_array_norm=1.0,
        shrink=0.01,
    ),
    "data by name": _train(given=Fresh(lambda _: dict(zip(("input", "target"), data(), strict=True))), workers=0),
    "batches of their own": _train(given=Fresh(lambda _: batches), round_length=3),
    "a loader": _train(given=Fresh(lambda _: DataLoader(TensorDataset(*data()), batch_size=4))),
    "a trainer": call(
        "Trainer",
        NET,
        optimizer("adamw"),
        learning_rate=1e-3,
        rules={setting("weight_decay"): {part("head"): 0.0}},
        accumulate=2,
        averages=call("ema", 0.99),
        seed=1,
    ),
    "a trainer of known length": call(
        "Trainer",
        NET,
        optimizer=optimizer("sgd"),
        learning_rate=call("polynomial", 0.1, power=2.0),
        total=call("steps", 10),
        steps_per_epoch=5,
        loss_scale=choice("dynamic"),
        momentum=0.9,
    ),
    "a trainer of a part": call(
        "Trainer",
        NET,
        optimizer("nag"),
        part=part("encoder"),
        learning_rate_multipliers={part("encoder.0"): 0.1},
        update_schedule=[part("encoder.0"), part("encoder.1")],
        non_finite=choice("raise"),
        half=choice("stochastic"),
        share=True,
        strict=True,
    ),
    "a loop": call("Checkpoints", FOLDER, keep=call("|", call("last", 1), call("best", "loss"))),
    "a game of two optimizers": _train(
        of=call("GAN", *GAME.args, loss=choice("wasserstein"), latent=2),
        given=SAMPLE,
        optimizer=optimizer("rmsprop"),
        update_schedule=[part("discriminator"), part("generator")],
        epochs=1,
        batch_size=6,
    ),
}
"""Every one is carried out without a word; what a mistake makes of it has to be refused."""
