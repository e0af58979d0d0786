"""Runs and loops in which one value of one step is not finite, and what has to come of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from subjects import alike

STEPS, SIZE = 5, 4
"""Of each run or loop, and the samples of a batch."""
PLACES = ("data", "target", "loss", "gradient", "buffer", "kept buffer")
"""Where it is put. A buffer is written to in the forward of the step, a kept one between two steps."""
VALUES = (math.nan, math.inf, -math.inf)
OPTIMIZERS = ("adamw", "adam", "sgd", "lion", "lamb", "rmsprop", "adagrad")
BY_CLOSURE = "lbfgs"
"""The optimizer that computes the loss of a step several times; of its runs here each has one update."""


@dataclass(frozen=True, slots=True)
class Case:
    """One value at one step.

    Attributes:
        place: where it is put. value: it. step: the step in which it appears, from 1 on. policy: what is asked for.
        optimizer: by name. updates: how many, of a run. accumulate: micro-batches of a step, of a loop.
        precision: of a run; fp16 has a loss scale in a loop, too. compiled: whether a run is.
    """

    place: str
    value: float
    step: int
    policy: str
    optimizer: str
    updates: int
    accumulate: int
    precision: str
    compiled: bool


class Net(nn.Module):
    """Two layers with a batch norm and a buffer of its own between them; poisoned at one step of its clock.

    Attributes:
        now: the step that is being made.
    """

    def __init__(self, case: Case) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 2)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("scale", torch.ones(6))
        self.now, self._case = 0, case
        if case.place == "gradient":
            self.second.weight.register_hook(self._spoilt)

    @property
    def _struck(self) -> bool:
        return self.now == self._case.step

    def forward(self, x: Tensor) -> Tensor:
        if self._case.place == "buffer" and self.training and self._struck:
            self.scale.fill_(self._case.value)
        return self.second(torch.tanh(self.norm(self.first(x))) * self.scale)

    def _spoilt(self, gradient: Tensor) -> Tensor:
        if not self._struck:
            return gradient
        spoilt = gradient.clone()
        spoilt[0, 0] = self._case.value
        return spoilt

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean square, or what is put in its place."""
        loss = functional.mse_loss(output, target)
        return loss * self._case.value if self._case.place == "loss" and self.training and self._struck else loss

    def arrays(self) -> dict[str, Tensor]:
        """A copy of every array."""
        return {name: array.detach().clone() for name, array in (*self.named_parameters(), *self.named_buffers())}


class Samples(Dataset[Any]):
    """Samples in the order of the steps; one of those of the step is poisoned."""

    def __init__(self, case: Case, steps: int = STEPS) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(steps * SIZE, 3, generator=generator)
        self.y = torch.randn(steps * SIZE, 2, generator=generator)
        spoilt = {"data": self.x, "target": self.y}.get(case.place)
        self.row = (case.step - 1) * SIZE + 2
        if spoilt is not None:
            spoilt[self.row, 1] = case.value

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index]


class Trial(ABC):
    """A case carried out."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.net = Net(case)

    @abstractmethod
    def wrong(self) -> list[str]:
        """What is wrong with what comes of it."""

    @abstractmethod
    def arrives(self) -> bool:
        """Whether some array is not finite in the end."""


def drawn(kind: type[Trial], chance: Random, policy: str = "", compiled: bool = False) -> Trial:
    """A case by chance."""
    runs = kind is Run
    policies = ("raise", "skip", "stop") if runs else ("raise", "skip")
    places = ("data", "target", "kept buffer") if compiled else PLACES if policy != "apply" else PLACES[:4]
    updates = 1 if compiled or not runs else chance.choice((1, 1, 2))
    precision = "fp32"
    if not compiled and updates == 1:
        # A scale that finds its size leaves steps out that overflow, whatever was asked for.
        precision = chance.choice(("fp32", "bf16", "fp64", *(("fp16", "fp16") if policy != "apply" else ())))
    optimizers = (*OPTIMIZERS, BY_CLOSURE) if runs and updates == 1 and precision != "fp16" else OPTIMIZERS
    optimizer = "adamw" if compiled else chance.choice(optimizers)
    return kind(
        Case(
            place=chance.choice(places),
            value=chance.choice(VALUES),
            step=chance.randint(1, STEPS),
            policy=policy or chance.choice(policies),
            optimizer=optimizer,
            updates=updates,
            accumulate=1 if runs else chance.choice((1, 1, 2, 3)),
            precision=precision,
            compiled=compiled,
        )
    )


# ---------------------------------------------------------------------------------------------------------------- runs


@final
class Run(Trial):
    """`etude.Run`, event by event."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self._seen: list[Any] = []
        self._states: dict[int, dict[str, Tensor]] = {}
        self._error: Any = None
        self._result: Any = None

    def arrives(self) -> bool:
        self._carry_out()
        return not _all_finite(self._after)

    def wrong(self) -> list[str]:
        self._carry_out()
        wrong = self._kept()
        if self.case.place != "kept buffer" and not _all_finite(self._after):
            wrong.append("an array or a memory is not finite in the end")
        return wrong + self._told()

    def _carry_out(self) -> None:
        import etude
        from etude.errors import NonFiniteError
        from etude.run.events import Began, Settled

        case = self.case
        self._run = run = etude.Run(self._plan(), self.net, Samples(case))
        self.net.now = 1
        try:
            for event in run:
                self._seen.append(event)
                if isinstance(event, Began | Settled):
                    step = int(event.progress.step)
                    self.net.now = step + 1
                    if case.place == "kept buffer" and self.net._struck:
                        self.net.scale[2] = case.value
                    self._states[step] = self._state()
            self._result = run.result()
        except NonFiniteError as error:
            self._error = error
        self._after = self._state()

    def _plan(self) -> Any:
        import etude

        case, net = self.case, self.net
        options: dict[str, Any] = {
            "epochs": 1,
            "batch_size": SIZE,
            "shuffle": False,
            "non_finite": case.policy,
            "averages": etude.ema(0.9),
            "precision": case.precision,
            "compile": case.compiled,
        }
        if case.updates == 1:
            # A loss of its own would be a constant of a compiled step.
            return etude.Plan(
                "mse" if case.compiled else net.loss, optimizer=case.optimizer, learning_rate=1e-2, **options
            )
        own = {"optimizer": case.optimizer, "learning_rate": 1e-2}
        return etude.Plan(
            updates=[
                etude.Update("body", net.loss, etude.part("first") | "norm", **own),
                etude.Update("head", net.loss, "second", **own),
            ],
            **options,
        )

    def _state(self) -> dict[str, Tensor]:
        """Arrays, averages and memories as they are, by name."""
        found = self.net.arrays()
        for work in self._run.checked.works:
            found.update(_flat(f"{work.name}:", work.state()["arrays"]))
        found.update(_flat("average:", self._run.checked.averages.state()["each"]))
        return found

    def _kept(self) -> list[str]:
        """What is wrong with the arrays after the step that was refused: they are as before it."""
        step = self.case.step
        before, after = self._states[step - 1], self._states.get(step, self._after)
        if self.case.updates == 2 and self.case.place == "gradient":
            # The first update had acted, and nothing was wrong with it.
            after = {name: array for name, array in after.items() if name.startswith(("second", "head:"))}
        return _changed(before, after)

    def _told(self) -> list[str]:
        case = self.case
        by_scale = case.precision == "fp16" and case.place == "gradient"
        if case.policy == "skip" or by_scale:
            return self._skipped()
        if case.policy == "stop":
            ended = self._result.stop_reason if self._result is not None else "an error"
            wrong = [] if ended == "non-finite" else [f"the run ended by {ended}"]
            return wrong + _named(case, self._result.stop_message, self._rows())
        if self._error is None:
            return ["no error"]
        wrong = [] if self._error.step == case.step else [f"the error is of step {self._error.step}"]
        return wrong + _named(case, str(self._error), self._rows())

    def _rows(self) -> str:
        return str(Samples(self.case).row) if self.case.place in ("data", "target") else ""

    def _skipped(self) -> list[str]:
        from etude.run.events import Skipped, Stepped

        case = self.case
        if self._result is None:
            return [f"the run did not go on: {self._error}"]
        wrong = [] if self._result.steps == STEPS else [f"the run has {self._result.steps} steps"]
        last = STEPS if case.place == "kept buffer" else case.step
        asked = list(range(case.step, last + 1))
        both = case.updates == 1 or case.place != "gradient"
        skipped = [int(event.progress.step) for event in self._seen if isinstance(event, Skipped)]
        by_scale = skipped != asked and case.precision == "fp16" and set(asked) <= set(skipped)
        if both and skipped != asked and not by_scale:
            wrong.append(f"skipped were {skipped}")
        stepped = [event for event in self._seen if isinstance(event, Stepped)]
        if not both and [event.updates for event in stepped][case.step - 1] != ("body",):
            wrong.append("not the one update alone was refused")
        return wrong + self._shown(asked)

    def _shown(self, steps: list[int]) -> list[str]:
        """What is wrong with the history: the loss of every step is there, and as it was measured."""
        history = self._result.history
        names = ["loss"] if self.case.updates == 1 else ["body.loss", "head.loss"]
        wrong = []
        for name in names:
            series = history[name]
            found = dict(zip(series.steps, series.values, strict=True))
            if list(found) != list(range(1, STEPS + 1)):
                wrong.append(f"{name} is in the history at the steps {list(found)}")
            # Of a gradient alone the loss is a number.
            bad = [] if self.case.place == "gradient" else steps
            shown = [step for step, value in found.items() if not math.isfinite(value)]
            wrong += [] if shown == bad else [f"{name} is not finite in the history at the steps {shown}"]
        return wrong


# --------------------------------------------------------------------------------------------------------------- loops


@final
class Loop(Trial):
    """A hand-written loop with `etude.Trainer`."""

    def wrong(self) -> list[str]:
        return [line for line in self._carried_out() if line]

    def arrives(self) -> bool:
        return bool(list(self._carried_out()))

    def _carried_out(self) -> Iterator[str]:
        import etude
        from etude.errors import NonFiniteError

        case, net = self.case, self.net
        policy, scaled = case.policy, case.precision == "fp16"
        trainer = etude.Trainer(
            net,
            case.optimizer,
            learning_rate=1e-2,
            accumulate=case.accumulate,
            averages=etude.ema(0.9),
            non_finite=policy,
            loss_scale="dynamic" if scaled else None,
            seed=1,
        )
        batches = self._batches()
        for step in range(1, STEPS + 1):
            before, kept = self._state(trainer), net.arrays()
            bad = step == case.step or (step > case.step and case.place == "kept buffer")
            try:
                made = self._step(trainer, batches, step)
                yield "" if made != bad else f"step {step} {'was made' if made else 'was refused'}"
            except NonFiniteError as error:
                yield "" if bad and policy == "raise" and not scaled else f"step {step}: {error}"
                yield from _named(case, str(error), "", of_loop=True)
                yield "" if error.step == case.step else f"the error is of step {error.step}"
                trainer.zero_grad()
            if bad:
                yield from _changed(before, self._state(trainer))
                # What the net's own forward did to its buffers is the loop's to undo.
                for name, buffer in net.named_buffers():
                    buffer.copy_(kept[name])
        refused = STEPS - case.step + 1 if case.place == "kept buffer" else 1
        done = STEPS if policy == "skip" or scaled else STEPS - refused
        yield "" if trainer.progress.step == done else f"the clock is at {trainer.progress.step}, not {done}"
        yield "" if _all_finite(self._state(trainer)) else "an array or a memory is not finite in the end"

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        samples = Samples(self.case, STEPS * self.case.accumulate)
        if self.case.place in ("data", "target"):
            # One micro-batch of the step, perhaps not its last.
            samples = Samples(_at_micro(self.case), STEPS * self.case.accumulate)
        return iter(zip(samples.x.split(SIZE), samples.y.split(SIZE), strict=True))

    def _step(self, trainer: Any, batches: Iterator[tuple[Tensor, Tensor]], step: int) -> bool:
        case, net = self.case, self.net
        made = False
        for micro in range(case.accumulate):
            net.now = step if micro == 0 else -step
            if case.place == "kept buffer" and step >= case.step:
                net.scale[2] = case.value
            x, y = next(batches)
            trainer.scale(net.loss(net(x), y) * len(x)).backward()
            made = trainer.step(len(x))
        return made

    def _state(self, trainer: Any) -> dict[str, Tensor]:
        state = trainer.state_dict()
        found = {name: array.detach().clone() for name, array in self.net.named_parameters()}
        return {**found, **_flat("", state["arrays"]), **_flat("average:", state["averages"]["each"])}


def _at_micro(case: Case) -> Case:
    """The case with its step counted in micro-batches: the first of the step."""
    from dataclasses import replace

    return replace(case, step=(case.step - 1) * case.accumulate + 1)


# ----------------------------------------------------------------------------------------------------------- together


def _named(case: Case, text: str, row: str, of_loop: bool = False) -> list[str]:
    """What is wrong with a message: it has the step and what was not finite first."""
    first = {
        "data": "batch[0]",
        "target": "batch[1]",
        "loss": "the loss",
        "gradient": "'second.weight'",
        "buffer": "the loss",
        "kept buffer": "'scale'",
    }[case.place]
    if of_loop:
        # Only the gradients are seen there.
        first = "'second.weight'"
    asked = (f"Step {case.step} ", first)
    wrong = [f"{piece!r} is not told: {text}" for piece in asked if piece not in text]
    if case.place == "gradient" and "'first.weight'" in text:
        wrong.append(f"more is named than what is not finite: {text}")
    if row and not of_loop and f"Samples: {row}." not in text:
        wrong.append(f"the sample {row} is not told: {text}")
    return wrong


def _flat(prefix: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A copy of every tensor of a nested state, by its path."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value.detach().clone()
        elif isinstance(value, Mapping):
            found.update(_flat(f"{prefix}{key}.", value))
    return found


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    moved = [name for name, array in after.items() if name not in before or not alike({"": array}, {"": before[name]})]
    return [f"changed by the step that was refused: {', '.join(moved[:5])}"] if moved else []


def _all_finite(arrays: Mapping[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(array).all()) for array in arrays.values() if array.is_floating_point())
