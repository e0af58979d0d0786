"""The step: what moves, by how much, and nothing else. Works alone in a hand-written loop.

trainer = etude.Trainer(net, "adamw", learning_rate=1e-3, rules={"learning_rate": {"head": times(10)}})
for x, y in batches:
    loss_fn(net(x), y).sum().backward()
    trainer.step(len(x))
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from etude.bind.table import RATE, Moving, Now, Table
from etude.errors import NonFiniteError, ScheduleError, SettingError, StaleGradientError, StateError
from etude.step.gradients import GRADIENT_SETTINGS, Gradients, all_finite, clip_weights, names_not_finite, prepare
from etude.step.holder import holder
from etude.step.optim.foreign import ForeignOptimizer
from etude.step.optim.own import OwnOptimizer
from etude.step.recipe import OptimizerLike, Recipe, check_rate
from etude.values.part import PartLike
from etude.values.progress import Extent, Progress
from etude.values.rules import RulesLike
from etude.values.schedule import Schedule, schedule
from etude.values.spans import Span
from etude.values.text import write
from etude.values.tree import Tree, has_shape

Arrays: TypeAlias = "nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | Iterable[tuple[str, Tensor]]"

_FORMAT = 1
_KEYS = {"optimizer", "progress", "learning_rate", "memory", "arrays"}
_SETS = 512
"""Sets of moving arrays whose tensors are kept at hand; stale gradients can make ever new ones."""


class Trainer:
    """Steps the arrays of a net under rules and schedules.

    Args:
        net: a module; or its parameters as an iterable, pairs of name and parameter, or a dict.
        optimizer: a name ("sgd", "adam", "adamw", or any class of torch.optim in lower case), a class of torch.optim
            or of its shape, an instance, or a function from parameter groups to an instance.
        learning_rate: a number or a schedule; 1e-3 when nothing is said (an instance keeps its own).
        rules: for any setting, rules by part: `{"weight_decay": {part(nn.LayerNorm) | "*.bias": 0}}`.
        learning_rate_multipliers: numbers or schedules by part that multiply the learning rate; 0 holds the part,
            a negative one climbs. The same as `rules={"learning_rate": {part: times(r)}}`.
        update_schedule: which parts move at which step: a list of parts (one step each, `part("a") * 5` five), or a
            schedule of parts. None: everything at every step.
        part: step only the arrays of this part.
        total: how long the run will be, a span (or an Extent); needed by schedules that end with the run.
        steps_per_epoch: needed by schedules in epochs.
        non_finite: "raise" (NonFiniteError naming the arrays) or "skip" a step whose gradients are not all finite;
            None does not look. Looking waits for the device.
        strict: a rule that can never decide is an error, not a warning.
        seed: of the gradient noise.
        settings: of the update rule (`momentum=0.9`, `betas=(0.9, 0.98)`), and clip_norm, clip_value, noise,
            clip_weights; each a value or a schedule.

    Attributes:
        progress: the clock: the step about to be made has number `progress.step + 1`.
        table: what every array's settings are; `print(trainer.table.show())`.
        detach: call it to let go of the net, which then no longer tells the trainer when it is called.

    Raises:
        PartError, RuleError, ScheduleError, SettingError: before anything is changed.
    """

    def __init__(
        self,
        net: Arrays,
        optimizer: OptimizerLike = "adamw",
        *,
        learning_rate: float | Schedule | Callable[[Progress], float] | None = None,
        rules: Mapping[str, RulesLike] | None = None,
        learning_rate_multipliers: RulesLike = None,
        update_schedule: Any = None,
        part: PartLike | None = None,
        total: Span | Extent | None = None,
        steps_per_epoch: int | None = None,
        non_finite: str | None = None,
        strict: bool = False,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        self.net = net if isinstance(net, nn.Module) else None
        module = net if isinstance(net, nn.Module) else holder(net)
        self._recipe = Recipe(
            optimizer, learning_rate, rules, learning_rate_multipliers, update_schedule, part, strict, settings
        )
        self._steps_per_epoch = _count(steps_per_epoch, "steps_per_epoch")
        # A hand-written loop counts steps and samples; a run, which gives an Extent, counts everything.
        uncounted = () if isinstance(total, Extent) else ("tokens",) if self._steps_per_epoch else ("tokens", "epochs")
        self.progress = Progress(extent=_extent(total, self._steps_per_epoch)).without(*uncounted)
        self._policy = _policy(non_finite)
        self._seed = seed
        self._drawn = (-1, 0)
        self._use(self._recipe.table(Tree(module), self.progress.extent, uncounted))
        self._optimizer = self._recipe.optimizer_for(self.table)
        self._used: dict[int, tuple[Tensor, int]] = {}
        self.memory: Mapping[Schedule, Any] = self.table.start()
        self.detach: Callable[[], None] = _nothing
        if self.net is not None:
            handle = self.net.register_forward_pre_hook(_Told(self))
            # Called by the user, or when the trainer is gone: nothing stays behind on the net.
            self.detach = weakref.finalize(self, handle.remove)

    def _use(self, table: Table) -> None:
        self.table = table
        self._arrays = tuple(table.tree.arrays[name] for name in table.names)
        self._extra = frozenset(GRADIENT_SETTINGS) & frozenset(table.settings)
        self._moving: dict[Moving, tuple[list[Tensor], list[tuple[int, ...]]]] = {}
        self._still_arrays: dict[Moving, tuple[Tensor, ...]] = {}
        self._still = _still_modules(table)

    # ------------------------------------------------------------------------------------------------ the step

    def step(self, batch_size: float = 1, *, ignore_stale_grad: bool = False) -> bool:
        """Move what moves now, by gradients of a loss summed over `batch_size` samples; the clock ticks.

        Args:
            batch_size: what the summed loss is divided by; 1 if the loss is a mean already. May change every step.
            ignore_stale_grad: arrays without a new gradient stay as they are, with their memory.

        Returns:
            Whether the step was made; False if non_finite="skip" refused it (the clock ticks all the same).

        Raises:
            StaleGradientError: an array that moves now has no gradient since the last step, or an old gradient with
                a new one added; all such arrays are named, nothing is changed.
            NonFiniteError: a gradient is not finite and non_finite="raise"; nothing is changed.
            SettingError: `batch_size` is not a positive finite number.
        """
        made = self.attempt(batch_size, ignore_stale_grad, self._policy)
        # From now on every gradient that is there is an old one.
        grads = [array.grad for array in self._arrays]
        self._used = {i: (g, g._version) for i, g in enumerate(grads) if g is not None}
        epoch = (self.progress.step + 1) / self._steps_per_epoch if self._steps_per_epoch else None
        self.progress = self.progress.tick(samples=round(batch_size), epoch=epoch)
        return made

    @torch.no_grad()
    def attempt(self, batch_size: float, ignore_stale_grad: bool, non_finite: str | None) -> bool:
        """The step itself, for a run, which keeps the clock and clears gradients: nothing ticks, nothing is marked."""
        if not 0 < batch_size < inf:
            raise SettingError(f"step({batch_size!r}): the number of samples is positive and finite.")
        now = self.table.at(self.progress, self.memory)
        if now.moving not in self._moving:
            self._moving[now.moving] = self._look_up(now.moving)
        arrays, strides = self._moving[now.moving]
        gradients = [array.grad for array in arrays]
        stale = self._stale(now.moving, gradients, ignore_stale_grad)
        if stale:
            now = Now(now.columns, self._without(now.moving, stale))
            arrays, strides = self._moving[now.moving]
            gradients = [array.grad for array in arrays]
        found = cast("list[Tensor]", gradients)
        refused = non_finite is not None and bool(found) and not all_finite(found)
        if refused and non_finite == "raise":
            self._raise_non_finite(now, found)
        if found and not refused:
            self._move(now, arrays, strides, found, batch_size)
        return not refused

    def _move(
        self,
        now: Now,
        arrays: list[Tensor],
        strides: list[tuple[int, ...]],
        found: list[Tensor],
        count: float,
    ) -> None:
        gradients = Gradients(found)
        if count != 1:
            gradients.divide(count)
        if self._extra:
            prepare(gradients, now, self._extra, self._seed, self._draw())
        if strides and [gradient.stride() for gradient in gradients.values] != strides:
            gradients.shape_like(arrays, strides)
        self._optimizer.move(now, gradients.values)
        if "clip_weights" in self._extra:
            clip_weights(arrays, now)

    def _draw(self) -> tuple[int, int]:
        """Which draw of noise this is: the number of the step, and how many were drawn in it before."""
        step = int(self.progress.step)
        again = self._drawn[1] + 1 if self._drawn[0] == step else 0
        self._drawn = (step, again)
        return self._drawn

    def _raise_non_finite(self, now: Now, found: list[Tensor]) -> None:
        number = int(self.progress.step) + 1
        names = names_not_finite([self.table.names[i] for i in now.moving.indices], found)
        raise NonFiniteError(
            f"Step {number} is refused: the gradients of {_listed(names)} are not finite. Nothing was changed. "
            'Lower the learning rate, clip gradients (clip_norm=1.0), or write non_finite="skip".',
            names,
            number,
        )

    def _look_up(self, moving: Moving) -> tuple[list[Tensor], list[tuple[int, ...]]]:
        arrays = [self._arrays[i] for i in moving.indices]
        lazy = [self.table.names[i] for i in moving.indices if not has_shape(self._arrays[i])]
        if lazy:
            raise SettingError(
                f"step(): {_listed(lazy)} have no shape yet. Call the net once before the first step, or freeze them."
            )
        # Third-party optimizers look at strides themselves, and some take sparse gradients, which have none.
        own = isinstance(self._optimizer, OwnOptimizer)
        return arrays, [array.stride() for array in arrays] if own else []

    # ------------------------------------------------------------------------------------- gradients, old and new

    @contextmanager
    def only_moving(self) -> Iterator[None]:
        """Compute the loss within this, and gradients are computed only for what moves in the next step.

            with trainer.only_moving():
                loss = loss_fn(net(x), y)
            loss.backward()

        Every other array of the net is out of the graph meanwhile; afterwards all is as before. What moves gets the
        same gradients as without. Not for a net whose arrays are wrapped by FSDP, which fixes the graph beforehand.
        """
        out = self.outside(self.table.at(self.progress, self.memory).moving)
        for array in out:
            array.requires_grad = False
        try:
            yield
        finally:
            for array in out:
                array.requires_grad = True

    def outside(self, moving: Moving) -> tuple[Tensor, ...]:
        """The trainable arrays of the net that do not move."""
        if moving not in self._still_arrays:
            moved = {self.table.names[i] for i in moving.indices}
            tree = self.table.tree
            self._still_arrays[moving] = tuple(tree.arrays[name] for name in tree.trainable if name not in moved)
        return self._still_arrays[moving]

    def _stale(self, moving: Moving, gradients: list[Tensor | None], ignore: bool) -> frozenset[int]:
        """Indices of arrays without a new gradient. Raises before anything is changed unless `ignore`."""
        missing = [i for i, g in zip(moving.indices, gradients, strict=True) if g is None]
        mixed: list[int] = []
        if self._used:
            for index, gradient in zip(moving.indices, gradients, strict=True):
                old = self._used.get(index)
                if gradient is not None and old is not None and old[0] is gradient:
                    (missing if old[1] == gradient._version else mixed).append(index)
        if mixed:
            self._raise_mixed(mixed)
        if missing and not ignore:
            self.raise_stale(sorted(missing))
        return frozenset(missing)

    def _raise_mixed(self, indices: list[int]) -> None:
        names = tuple(self.table.names[i] for i in indices)
        raise StaleGradientError(
            f"Step {int(self.progress.step) + 1}: new gradients were added onto old ones that a step has used, in "
            f"{_listed(names)}. Nothing was changed. Call trainer.zero_grad() before backward, or call the net itself "
            "(its own forward starts afresh; a call of one of its children does not).",
            names,
        )

    def raise_stale(self, indices: Sequence[int], places: Sequence[int] | None = None) -> None:
        """Say that the arrays of these indices (of those at some places among them) get no gradient."""
        indices = indices if places is None else sorted(indices[place] for place in places)
        names = tuple(self.table.names[i] for i in indices)
        raise StaleGradientError(
            f"Step {int(self.progress.step) + 1}: no new gradient since the last step in {_listed(names)}. Nothing was "
            "changed. Call backward() on a loss that depends on them, freeze them, or write "
            "step(..., ignore_stale_grad=True).",
            names,
        )

    def _without(self, moving: Moving, stale: frozenset[int]) -> Moving:
        less = self.table.less(moving, stale)
        if less not in self._moving:
            if len(self._moving) >= _SETS:
                self._moving.clear()
            self._moving[less] = self._look_up(less)
        return less

    def zero_grad(self) -> None:
        """Forget all gradients of the arrays of this trainer."""
        for array in self._arrays:
            array.grad = None
        self._used = {}

    def begin_forward(self) -> None:
        """The net is about to be called: gradients that a step has used go, frozen statistics stand still."""
        if self._used and torch.is_grad_enabled():
            self.zero_grad()
        for module in self._still:
            module.training = False

    # ------------------------------------------------------------------------------------------------- the rates

    @property
    def optimizer(self) -> OwnOptimizer | ForeignOptimizer:
        """What keeps the optimizer's memory and moves the arrays; of a torch optimizer, `.optimizer.optimizer`."""
        return self._optimizer

    @property
    def shapes_gradients(self) -> bool:
        """Whether gradients or arrays are clipped, or noise is added."""
        return bool(self._extra)

    @property
    def name(self) -> str:
        """The name of the update rule, or of the optimizer's class."""
        return self._recipe.name

    def settings(self) -> dict[str, Any]:
        """The optimizer's name and the base value of every setting: a number, or the schedule as text."""
        found: dict[str, Any] = {"name": self._recipe.name}
        for setting, base in self._recipe.base.items():
            found[setting] = base.at(self.progress) if base.constant else repr(base)
        return found

    @property
    def learning_rate(self) -> float:
        """The learning rate of the step about to be made, before rules and multipliers."""
        base = self.table.base_rate
        return float(base.at(self.progress, self.memory.get(base)) or 0.0)

    def see(self, metrics: Mapping[str, float]) -> None:
        """Tell the schedules that listen to metrics what was measured: `trainer.see({"val.loss": 0.31})`."""
        self.memory = self.table.see(self.memory, metrics)

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate from the next step on; rules and multipliers stay.

        Raises:
            SettingError: the rate is not a finite number of at least 0.
            ScheduleError: the learning rate is a schedule, which would set it otherwise at the next step.
        """
        old = self._recipe.base[RATE]
        if not old.constant:
            raise ScheduleError(
                f"set_learning_rate({rate!r}): the learning rate follows the schedule {old!r}. Write the change into "
                f"the schedule, as in pieces({old!r}, (steps({int(self.progress.step)}), {rate!r}))."
            )
        check_rate(rate, "set_learning_rate: rate")
        new = schedule(float(rate))
        self._recipe.base[RATE] = new
        self._use(self.table.replaced(RATE, old, new))
        self._optimizer.forget_layout()

    # ------------------------------------------------------------------------------------------------- the state

    def state_dict(self) -> dict[str, Any]:
        """All that a later trainer of the same net needs to go on: plain values and tensors, keyed by array names."""
        progress = self.progress
        return {
            "format": _FORMAT,
            "optimizer": self._recipe.name,
            "progress": {
                "step": progress.step,
                "epoch": progress.epoch,
                "samples": progress.samples,
                "tokens": progress.tokens,
            },
            "learning_rate": self.learning_rate if self._recipe.base[RATE].constant else None,
            "memory": {write(of): kept for of, kept in self.memory.items()},
            "arrays": dict(zip(self.table.names, self._optimizer.state(), strict=True)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; tensors are copied.

        Raises:
            StateError: a state of another optimizer, other arrays or other shapes; all differences are listed and
                nothing is changed.
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT or not set(state) >= _KEYS:
            raise StateError("This is no state of a Trainer (of this version). Give what state_dict() returned.")
        if state["optimizer"] != self._recipe.name:
            raise StateError(
                f"The state is of the optimizer {state['optimizer']!r}, the trainer has {self._recipe.name!r}."
            )
        _check_names(state["arrays"], self.table.names)
        clock = _clock(state["progress"])
        try:
            self._optimizer.load([state["arrays"][name] for name in self.table.names])
        except StateError as error:
            raise StateError(f"The state does not fit the net: {error}.") from None
        epoch = clock["step"] / self._steps_per_epoch if self._steps_per_epoch else clock["epoch"]
        self.progress = Progress(clock["step"], epoch, clock["samples"], clock["tokens"], self.progress.extent)
        self.memory = {of: state["memory"].get(write(of), kept) for of, kept in self.memory.items()}
        if state["learning_rate"] is not None and self._recipe.base[RATE].constant:
            self.set_learning_rate(state["learning_rate"])
        self._used = {}


def _still_modules(table: Table) -> tuple[nn.Module, ...]:
    """Modules whose running statistics a rule freezes: they use them, and do not add to them, while training.

    Only modules that keep statistics of their own: a container with a frozen constant must go on with its dropout.
    """
    nodes, found = table.tree.nodes, []
    for name in table.frozen_buffers:
        for path in table.tree.names[name]:
            owner = nodes[path.rpartition(".")[0]]
            keeps = hasattr(owner, "track_running_stats") or not table.tree.layers(path.rpartition(".")[0])
            if isinstance(owner, nn.Module) and keeps:
                found.append(owner)
    return tuple(dict.fromkeys(found))


class _Told:
    """A hook that tells a trainer when its net is called. A copy of the net, or a file of it, has an idle one."""

    def __init__(self, trainer: Trainer | None) -> None:
        self._trainer = None if trainer is None else weakref.ref(trainer)

    def __call__(self, module: nn.Module, args: Any) -> None:
        trainer = None if self._trainer is None or torch.compiler.is_compiling() else self._trainer()
        if trainer is not None:
            trainer.begin_forward()

    def __reduce__(self) -> tuple[type[_Told], tuple[None]]:
        return (_Told, (None,))


def _clock(saved: Any) -> Mapping[str, float]:
    units = ("step", "epoch", "samples", "tokens")
    if not isinstance(saved, Mapping) or not all(isinstance(saved.get(unit), int | float) for unit in units):
        raise StateError(f"The state has no clock: {saved!r}. Give what state_dict() returned. Nothing was loaded.")
    return saved


def _check_names(found: Mapping[str, Any], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in found]
    extra = [name for name in found if name not in names]
    if missing or extra:
        lacks = f" It lacks {_listed(missing)}." if missing else ""
        more = f" It has {_listed(extra)}, which the trainer does not step." if extra else ""
        raise StateError(f"The state is of other arrays.{lacks}{more} Nothing was loaded.")


def _extent(total: Span | Extent | None, steps_per_epoch: int | None) -> Extent:
    if isinstance(total, Extent):
        return total
    if total is None:
        return Extent()
    if not isinstance(total, Span) or total.unit not in ("steps", "epochs", "samples", "tokens"):
        raise ScheduleError(
            f"total={total!r}: a span in steps, epochs, samples or tokens is needed. Write total=steps(1000)."
        )
    known: dict[str, Any] = {total.unit: total.amount}
    if steps_per_epoch and total.unit == "steps":
        known["epochs"] = total.amount / steps_per_epoch
    elif steps_per_epoch and total.unit == "epochs":
        known["steps"] = total.amount * steps_per_epoch
    return Extent(**known)


def _policy(non_finite: str | None) -> str | None:
    if non_finite not in (None, "raise", "skip"):
        raise SettingError(f'non_finite={non_finite!r}: "raise", "skip" or None is needed.')
    return non_finite


def _count(value: int | None, name: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise SettingError(f"{name}={value!r}: a whole number of at least 1 is needed.")
    return value


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _nothing() -> None:
    """What `detach` does where there is no net."""
