"""The step in a hand-written loop: counts, old and new gradients, accumulation, changes while training, the state.

trainer = etude.Trainer(net, "adamw", learning_rate=1e-3, rules={"learning_rate": {"head": times(10)}})
for x, y in batches:
    loss_fn(net(x), y).sum().backward()
    trainer.step(len(x))
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from etude.arguments import Faults, named_class
from etude.bind.knobs import Knobs, KnobsLike, read_knobs
from etude.bind.table import Table
from etude.errors import (
    EtudeError,
    NonFiniteError,
    PartError,
    SettingError,
    StaleGradientError,
    StateError,
    nearest,
    warn,
)
from etude.step import closure as with_closure
from etude.step import states
from etude.step.averages import Average, averages_in
from etude.step.averaging import Averaged, Averages
from etude.step.by_hand import check_flags, check_not_going_back, check_seed, count_of, extent_of, samples_of
from etude.step.changes import Changes
from etude.step.clipping import joint_norm
from etude.step.holder import holder
from etude.step.ledger import gradients_of
from etude.step.optim.half import check_way
from etude.step.overlap import Claim
from etude.step.policies import PolicyLike, Tolerance, policy_by_hand
from etude.step.recipe import Optimizer, OptimizerLike, Recipe
from etude.step.scale import LossScale
from etude.step.states import listed
from etude.step.stepper import Stepper
from etude.step.window import Window
from etude.values.part import PartLike
from etude.values.part import part as part_of
from etude.values.progress import Extent, Progress
from etude.values.rules import RulesLike
from etude.values.schedule import Schedule
from etude.values.spans import Span

Arrays: TypeAlias = "nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | Iterable[tuple[str, Tensor]]"


@named_class
class Trainer:
    """Steps the arrays of a net under rules and schedules.

    Args:
        net: a module; or its parameters as an iterable, pairs of name and parameter, or a dict.
        optimizer: a name ("adamw", "lion", "muon", any class of torch.optim in lower case, ...), a class of torch.optim
            or of its shape, an instance, a function from parameter groups to an instance, an `UpdateRule`, or a dict of
            such by part: `{"embed": "sparseadam", everything: "adamw"}`.
        learning_rate: a number or a schedule; the optimizer's own default when nothing is said.
        rules: for any setting, rules by part: `{"weight_decay": {part(nn.LayerNorm) | "*.bias": 0}}`.
        learning_rate_multipliers: numbers or schedules by part that multiply the learning rate; 0 holds the part,
            a negative one climbs. The same as `rules={"learning_rate": {part: times(r)}}`.
        update_schedule: which parts move at which step: a list of parts (one step each, `part("a") * 5` five), or a
            schedule of parts. None: everything at every step.
        part: step only the arrays of this part.
        total: how long the run will be, a span (or an Extent); needed by schedules that end with the run.
        steps_per_epoch: needed by schedules in epochs: steps of the optimizer, so with `accumulate=4` a quarter of the
            batches.
        non_finite: "raise" (NonFiniteError naming the arrays) or "skip" a step whose gradients are not all finite;
            `skip(most=3)` not more of them in a row; None does not look. Looking waits for the device.
        strict: a rule that can never decide is an error, not a warning.
        seed: of gradient noise, and of update rules that draw.
        accumulate: how many calls of `step` make one step of the optimizer; a whole number or a schedule of such.
        averages: averages of the arrays, `(ema(0.999), swa("head", every=steps(100)))`, taken after each step.
        loss_scale: for float16: `trainer.scale(loss).backward()` multiplies the loss by this; "dynamic" lets it follow
            the gradients and leaves out steps that overflow.
        half: how arrays that are float16 or bfloat16 themselves move: "master" keeps float32 copies, "stochastic"
            rounds by chance, "plain" computes in the array's own numbers.
        share: other trainers may move the same arrays.
        knobs: what is scheduled besides the settings: for the name of an attribute rules by part of the net or by
            object, `{"p": {nn.Dropout: linear(0, 0.2)}, "strength": [(augment, linear(0, 1))]}`. The values of the
            next step are written when the trainer is made and after each step.
        settings: of the update rule (`momentum=0.9`, `betas=(0.9, 0.98)`), and those of every trainer: clip_value,
            clip_array_norm, clip_mean_norm, clip_norm, drop_norm, drop_non_finite, noise, centralise, l2, shrink,
            clip_weights, max_norm, carry, tie, and, within `perturbed()`, weight_noise and weight_dropout; each a
            value, a schedule, or rules by part: `weight_decay=decay(0.1)`, `clip_norm={"encoder": 1.0}`.

    Attributes:
        net: the module, or None where parameters were given.

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
        non_finite: PolicyLike | None = None,
        strict: bool = False,
        seed: int = 0,
        accumulate: Any = 1,
        averages: Average | Sequence[Average] = (),
        loss_scale: float | str | None = None,
        half: str = "master",
        share: bool = False,
        knobs: KnobsLike = None,
        **settings: Any,
    ) -> None:
        self.net = net if isinstance(net, nn.Module) else None
        module = holder(net) if self.net is None else self.net
        faults = Faults()
        take = faults.take
        recipe = take(
            Recipe,
            optimizer,
            learning_rate=learning_rate,
            rules=rules,
            multipliers=learning_rate_multipliers,
            update_schedule=update_schedule,
            part=part,
            strict=strict,
            settings=settings,
            asked_by=Trainer,
        )
        self._steps_per_epoch = take(count_of, steps_per_epoch, "steps_per_epoch")
        extent, is_run = take(extent_of, total, self._steps_per_epoch), isinstance(total, Extent)
        policy = take(policy_by_hand, non_finite)
        self._scale = take(LossScale, loss_scale)
        averages = take(averages_in, averages)
        half = take(check_way, half)
        take(check_flags, {"strict": strict, "share": share})
        take(check_seed, seed)
        take(read_knobs, knobs)
        faults.tell()
        self._tolerance = Tolerance(policy)
        self._scaled = False
        self._perturbing, self._perturbed = False, False
        # A hand-written loop counts steps and samples; a run, which gives an Extent, counts everything.
        uncounted = () if is_run else ("tokens",) if self._steps_per_epoch else ("tokens", "epochs")
        clock = Progress(extent=extent).without(*uncounted)
        self._window = Window(accumulate, clock.extent, uncounted)
        self._stepper = Stepper(module, recipe, clock, uncounted, seed, half)
        self._changes = Changes(self._stepper)
        if self._stepper.optimizer.needs_closure and (accumulate != 1 or self._scale.active):
            raise SettingError(
                f"{self.name} computes the loss of the whole step itself, so nothing is accumulated or scaled. Leave "
                "out accumulate= and loss_scale=."
            )
        self._stepper.prove_ties()
        self._averages = Averages(averages, self.table.tree, clock.extent, uncounted)
        check_not_going_back((*self._stepper.memory, *self._averages.schedules()))
        self._knobs = Knobs(self.table.tree, knobs, clock.extent, uncounted, strict) if knobs else None
        self._idle = self._find_idle()
        self._claim = Claim(share)
        handle = None if self.net is None else self.net.register_forward_pre_hook(_ForwardHook(self._stepper))
        # Called by the user, or when the trainer is gone: nothing stays behind on the net.
        self._let_go = weakref.finalize(self, _leave, handle, self._stepper)
        self._let_go.atexit = False
        self._write_knobs()

    # ------------------------------------------------------------------------------------------------ the step

    def step(
        self,
        batch_size: float = 1,
        *,
        ignore_stale_grad: bool = False,
        closure: Callable[[], Tensor] | None = None,
    ) -> bool:
        """Move what moves now, by gradients of a loss summed over `batch_size` samples; the clock ticks.

        Args:
            batch_size: what the summed loss is divided by; 1 if the loss is a mean already. May change every step.
            ignore_stale_grad: arrays without a new gradient stay as they are, with their memory.
            closure: for an optimizer that computes the loss several times a step (L-BFGS): a function that calls
                `backward()` on the summed loss and returns it. Clearing gradients is not its task.

        Returns:
            Whether a step was made; False if non_finite="skip" or a dynamic loss scale refused it (the clock ticks all
            the same), or if `accumulate` waits for more (it does not tick).

        Raises:
            StaleGradientError: an array that moves now has no gradient since the last step, or an old gradient with
                a new one added; all such arrays are named, nothing is changed.
            NonFiniteError: a gradient is not finite and non_finite="raise"; nothing is changed.
            SettingError: `batch_size` is not a positive finite number; another trainer moves the same arrays.
        """
        return self.update(batch_size, ignore_stale_grad=ignore_stale_grad, closure=closure)

    def allreduce_grads(self, *, ignore_stale_grad: bool = False) -> None:
        """The first half of `step` by itself; then `clip_grads` or what you like with the gradients, then `update`.

        Gradients are looked at, and in one process there is nothing to sum.

        Raises:
            StaleGradientError: as for `step`.
            SettingError: there are several processes, whose gradients this does not sum.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            ranks = torch.distributed.get_world_size()
            if ranks > 1:
                raise SettingError(
                    f"allreduce_grads(): there are {ranks} processes, and this does not sum their gradients. Wrap the "
                    "net in torch.nn.parallel.DistributedDataParallel, which averages them in backward(), and call "
                    "step()."
                )
        self._check_ready("allreduce_grads()")
        with torch.no_grad():
            self._stepper.fresh(ignore_stale_grad)

    def clip_grads(self, max_norm: float, batch_size: float = 1, *, ignore_stale_grad: bool = False) -> float:
        """Scale the gradients of what moves now, in place, so that those of the mean loss have at most this norm.

        Args:
            max_norm: the bound of the joint Euclidean norm, positive. batch_size: as for the `update` that follows.

        Returns:
            The norm before; where it is not finite and non_finite="skip", nothing is scaled.

        Raises:
            NonFiniteError: the norm is not finite; StaleGradientError: as for `step`. Nothing is changed.
        """
        if isinstance(max_norm, bool) or not isinstance(max_norm, int | float) or not max_norm > 0:
            raise SettingError(f"clip_grads({max_norm!r}): the largest norm is a positive number.")
        self._check_ready("clip_grads()")
        # With `accumulate` the step divides by the samples of its whole window.
        samples = self._window.samples + samples_of(batch_size)
        with torch.no_grad():
            now, found = self._stepper.fresh(ignore_stale_grad)
            norm = float(joint_norm(found)) / (samples * self._scale.value) if found else 0.0
            if not isfinite(norm) and self._tolerance.asked != "skip" and not self._scale.dynamic:
                self._stepper.raise_non_finite(now, found)
            if isfinite(norm) and norm > max_norm:
                self._stepper.scale_gradients(now, max_norm / (norm + 1e-6))
        return norm

    def update(
        self,
        batch_size: float = 1,
        *,
        ignore_stale_grad: bool = False,
        closure: Callable[[], Tensor] | None = None,
    ) -> bool:
        """The second half of `step`: move by the gradients as they are now. Arguments and errors as for `step`."""
        samples = samples_of(batch_size)
        self._check_ready("step()")
        self._check_perturbed()
        if self._scale.active and not self._scaled:
            self._scaled = True
            warn(
                f"step(): gradients are divided by the loss scale, {self._scale.value:g}, and neither scale() nor "
                "loss_scale was asked for before. Write trainer.scale(loss).backward()."
            )
        if closure is not None or self._stepper.optimizer.needs_closure:
            return self._step_with_closure(closure, samples, ignore_stale_grad)
        size = self._window.size(self.progress)
        if size == 1 and not self._window.open:
            return self._attempt(samples, ignore_stale_grad)
        return self._accumulate(samples, size, ignore_stale_grad)

    def flush(self, *, ignore_stale_grad: bool = False) -> bool:
        """Make the step of a window of `accumulate` that is not full, divided by the samples that it has.

        Returns:
            Whether a step was made; False where nothing had been accumulated.
        """
        if not self._window.open:
            return False
        self._check_ready("flush()")
        self._refuse_cleared(self._stepper.taken(), gradients_of(self._stepper.arrays))
        return self._attempt(self._window.samples, ignore_stale_grad)

    def zero_grad(self) -> None:
        """Forget all gradients of the arrays of this trainer, and what was accumulated."""
        self._stepper.zero_grad()
        self._window.clear()

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the loss scale, for backward(); `step` divides by it."""
        self._scaled = True
        return loss * self._scale.value if self._scale.active else loss

    def only_moving(self) -> AbstractContextManager[None]:
        """Compute the loss within this, and gradients are computed only for what moves in the next step.

            with trainer.only_moving():
                loss = loss_fn(net(x), y)
            loss.backward()

        Every other array of the net is out of the graph meanwhile; afterwards all is as before. What moves gets the
        same gradients as without. Not for a net whose arrays are wrapped by FSDP, which fixes the graph beforehand.
        """
        return self._stepper.only_moving()

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Within it the arrays are as weight_noise and weight_dropout make them in the next step.

            with trainer.perturbed():
                loss_fn(net(x), y).sum().backward()
            trainer.step(len(x))

        Forward and backward belong inside, `step` outside. Afterwards, also after an error, every array is as it was,
        bit for bit, and gradients are those of the clean arrays. All micro-batches of a step see the same draw.

        Raises:
            SettingError: it is used within itself; an array has no shape yet.
        """
        if self._perturbing:
            raise SettingError(
                "perturbed(): the arrays are perturbed already. Use it once, around forward and backward."
            )
        self._perturbing = True
        try:
            with self._stepper.perturbed(self.progress):
                yield
            self._perturbed = True
        finally:
            self._perturbing = False

    def _check_perturbed(self) -> None:
        """The gradients of a step that perturbs arrays have to be made within `perturbed`."""
        found = () if self._perturbed else self._stepper.perturbs(self.progress)
        if found:
            setting = "weight_noise" if found[0].deviation else "weight_dropout"
            raise SettingError(
                f"step(): {setting} perturbs {listed([one.name for one in found])} in this step, and forward and "
                "backward were made without it. Write with trainer.perturbed(): loss_fn(net(x), y).sum().backward()."
            )

    def _check_ready(self, what: str) -> None:
        """What has to be so before anything moves."""
        if self._perturbing:
            raise SettingError(
                f"{what}: the arrays are perturbed, and will be put back. Call it after `with trainer.perturbed():`."
            )
        self._averages.refuse(what)
        self._claim.step(self._would_move)
        if self._idle and any(array.requires_grad for array in self._idle):
            self._resolve_again()

    def _accumulate(self, samples: float, size: int, ignore: bool) -> bool:
        """Take one more micro-batch, and make the step if it was the last of its window."""
        stepper = self._stepper
        moving = stepper.taken()
        gradients = gradients_of(stepper.arrays)
        if not self._window.open:
            # Of an old step nothing may be left in the first gradients; later ones are meant to be added.
            stepper.drop_old()
            gradients = gradients_of(stepper.arrays)
        self._refuse_cleared(moving, gradients)
        if not ignore and self._window.brings_nothing(moving, gradients):
            stepper.raise_stale(moving)
        self._window.add(samples, gradients)
        if self._window.count < size:
            self._perturbed = False
            return False
        try:
            return self._attempt(self._window.samples, ignore)
        except BaseException:
            self._window.take_back(samples)
            raise

    def _refuse_cleared(self, moving: Sequence[int], gradients: Sequence[Tensor | None]) -> None:
        names = tuple(self.table.names[i] for i in self._window.cleared(moving, gradients))
        if names:
            raise StaleGradientError(
                f"Step {int(self.progress.step) + 1}: gradients that were being accumulated are gone, in "
                f"{listed(names)}. Nothing was changed. Leave out net.zero_grad() between the micro-batches; "
                "trainer.zero_grad() forgets all of them, with their samples.",
                names,
            )

    def _attempt(self, samples: float, ignore: bool) -> bool:
        finding = self._scale.finding
        policy = self._scale.policy(self._tolerance.asked)
        try:
            made = self._stepper.attempt(samples * self._scale.value, ignore, policy, marks=True, scaled=finding)
        except NonFiniteError as error:
            raise self._tolerance.explained(error) from None
        self._scale.follow(made)
        self._tolerance.follow(made, finding)
        self._finish(samples, made)
        return made

    def _step_with_closure(self, function: Callable[[], Tensor] | None, samples: float, ignore: bool) -> bool:
        with_closure.check(self._stepper, function, samples)
        assert function is not None
        try:
            made = with_closure.attempt(self._stepper, function, samples, ignore, self._tolerance.asked)
        except NonFiniteError as error:
            raise self._tolerance.explained(error) from None
        self._tolerance.follow(made)
        self._finish(samples, made)
        return made

    def _finish(self, samples: float, made: bool) -> None:
        """After a step: every gradient that is there is an old one, the clock ticks, averages take the arrays."""
        stepper, before = self._stepper, self.progress
        stepper.mark()
        self._perturbed = False
        self._window.clear()
        epoch = (before.step + 1) / self._steps_per_epoch if self._steps_per_epoch else None
        stepper.progress = before.tick(samples=round(samples), epoch=epoch)
        if made:
            self._averages.update(before, stepper.progress)
        self._write_knobs()

    def _write_knobs(self) -> None:
        """The knobs of the next step; after the last step of the run they stay as they are."""
        if self._knobs is None:
            return
        clock = self.progress
        done = {"steps": clock.step, "epochs": clock.epoch, "samples": clock.samples, "tokens": clock.tokens}
        if not any(done[unit] >= length for unit, length in clock.extent.known()):
            self._knobs.write(clock)

    # ------------------------------------------------------------------------------------------- what is the case

    @property
    def progress(self) -> Progress:
        """The clock: the step about to be made has number `progress.step + 1`."""
        return self._stepper.progress

    @property
    def table(self) -> Table:
        """What every array's settings are; `print(trainer.table.show())`."""
        return self._stepper.table

    @property
    def memory(self) -> Mapping[Schedule, Any]:
        """What the schedules that listen to metrics remember."""
        return self._stepper.memory

    @property
    def optimizer(self) -> Optimizer:
        """What keeps the optimizer's memory and moves the arrays; of a torch optimizer, `.optimizer.optimizer`."""
        return self._stepper.optimizer

    @property
    def name(self) -> str:
        """The name of the update rule, or of the optimizer's class."""
        return self._stepper.name

    @property
    def loss_scale(self) -> float:
        """The factor by which `scale` multiplies a loss now."""
        self._scaled = True
        return self._scale.value

    def settings(self) -> dict[str, Any]:
        """The optimizer's name and the base value of every setting: a number, or the schedule as text."""
        return self._stepper.settings()

    def _would_move(self) -> Mapping[str, Tensor]:
        return {name: self.table.tree.arrays[name] for name in self.table.ever_moving()}

    @property
    def averages(self) -> Mapping[str, Averaged]:
        """The averages by name: `.arrays` (a dict by name of the array), `.count` (how often it has taken them)."""
        return self._averages.each

    def averaged(self, name: str) -> AbstractContextManager[None]:
        """Within it the net computes with an average: `with trainer.averaged("ema"): evaluate(net)`.

        The arrays' own memory is not written to, and afterwards all is as before. Steps are refused meanwhile.

        Raises:
            SettingError: no average has that name, or one is in use.
        """
        return self._averages.use(name)

    def evaluating(self) -> AbstractContextManager[None]:
        """Within it the arrays are those to evaluate, for optimizers that keep two sets of them: schedule-free ones."""
        return self._stepper.optimizer.evaluating()

    # ------------------------------------------------------------------------------------- changes while training

    @property
    def learning_rate(self) -> float:
        """The learning rate of the step about to be made, before rules and multipliers."""
        base = self.table.base_rate
        return float(base.at(self.progress, self.memory.get(base)) or 0.0)

    @property
    def knobs(self) -> Mapping[str, Any]:
        """The values of the knobs that are in force, by label: "p", or "p[encoder]" where there are several rules."""
        return {} if self._knobs is None else self._knobs.values

    def see(self, metrics: Mapping[str, float]) -> None:
        """Tell the schedules that listen to metrics what was measured: `trainer.see({"val.loss": 0.31})`.

        A warning says so where all of it is heard by nobody, and somebody listens to something else.

        Raises:
            SettingError: it is no dict, or a score is no number (nor None: not measured).
        """
        turned = () if self._knobs is None else self._knobs.schedules()
        if not isinstance(metrics, Mapping):
            raise SettingError(
                f"see({metrics!r}): a dict of scores by name is needed. Write see({{'val.loss': {metrics!r}}})."
            )
        for name, score in metrics.items():
            if score is not None and not hasattr(score, "__float__"):
                raise SettingError(
                    f"see({{{name!r}: {score!r}}}): a score is a number, or None where it was not measured."
                )
        listens = {name for of in (*self.memory, *self._averages.schedules(), *turned) for name in of.listens}
        if listens and not listens & set(metrics):
            first = next(iter(metrics), "")
            warn(
                f"Nothing listens to {listed(metrics) or 'nothing'}: schedules listen to {listed(sorted(listens))}."
                f"{nearest(first, listens)}"
            )
        self._stepper.see(metrics)
        self._averages.see(metrics, self.progress)
        if self._knobs is not None:
            self._knobs.see(metrics, self.progress)
            self._write_knobs()

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate from the next step on, as if it had been said at first; rules and multipliers stay.

        Raises:
            SettingError: the rate is not a finite number of at least 0.
            ScheduleError: the learning rate is a schedule, which would set it otherwise at the next step.
        """
        if self._changes.learning_rate(rate):
            self._resolve_again()

    def change(self, setting: str, rules: RulesLike) -> None:
        """Put rules for a setting before those there are, from the next step on; memory and counts are kept.

        Args:
            setting: "learning_rate", any other setting, or "learning_rate_multipliers", where numbers multiply.
            rules: by part, as in the constructor; a part that has a rule already gets this one instead.

        Raises:
            PartError, RuleError, ScheduleError, SettingError: nothing is changed.
        """
        with self._changes.undone_on_error(self._resolve_again):
            self._changes.rules(setting, rules)
            self._resolve_again()

    def freeze(self, part: PartLike) -> None:
        """Hold the arrays of a part from the next step on, whatever the rules say; their memory is kept.

        Raises:
            PartError: the part selects nothing that this trainer moves.
        """
        names = self._names(part, self.table.names)
        with self._changes.undone_on_error(self._resolve_again):
            self._changes.freeze(names)
            self._resolve_again()

    def thaw(self, part: PartLike, reset: bool = False) -> None:
        """Let the arrays of a part move again, also those that a rule freezes or that require no gradient yet.

        Args:
            part: what was frozen by `freeze`, by a rule, or by requires_grad=False.
            reset: forget the optimizer's memory of them and how often they have moved; otherwise both go on.

        Raises:
            PartError: the part selects no array that could move.
        """
        tree = self.table.tree
        names = self._names(part, tree.in_order(tree.parameters))
        with self._changes.undone_on_error(self._resolve_again):
            self._changes.thaw(names)
            self._resolve_again()
        for index, name in enumerate(self.table.names):
            if reset and name in names:
                self._stepper.forget(index)

    def detach(self) -> None:
        """Let go of the net: it no longer tells the trainer when it is called, and other trainers may move it."""
        self._let_go()
        self._claim.leave()

    def _names(self, place: PartLike, able: Iterable[str]) -> frozenset[str]:
        """Names of the arrays of a part, buffers too, if any is among those that can be meant."""
        names = frozenset(part_of(place).names(self.table.tree))
        if not names.intersection(able):
            raise PartError(
                f"{part_of(place)!r} has no array that this trainer moves. It moves {listed(self.table.names)}."
            )
        return names

    def _resolve_again(self) -> None:
        before = self._stepper.arrays
        self._changes.resolve()
        self._window.follow(before, self._stepper.arrays)
        self._idle = self._find_idle()
        self._claim.changed(self._would_move())

    def _find_idle(self) -> tuple[Tensor, ...]:
        """Parameters that the trainer would step if they required a gradient."""
        tree, limit = self.table.tree, self._stepper.recipe.limit
        inside = tree.parameters if limit is None else set(limit.names(tree)) & tree.parameters
        return tuple(tree.arrays[name] for name in inside - set(self.table.names))

    # ------------------------------------------------------------------------------------------------- the state

    def state_dict(self) -> dict[str, Any]:
        """All that a later trainer of the same net needs to go on: plain values and tensors, keyed by array names.

        Tensors are the optimizer's own, as torch's are: save or copy it before the next step.
        """
        stepper = self._stepper
        state = {
            "format": states.FORMAT,
            **stepper.state(),
            "progress": states.clock_of(self.progress),
            **self._changes.state(),
            "scale": self._scale.state(),
            "refused": self._tolerance.state(),
            "averages": self._averages.state(),
            "window": self._window.state(),
            "gradients": {},
            "knobs": {} if self._knobs is None else self._knobs.state(),
        }
        if self._window.open:
            found = zip(self.table.names, gradients_of(stepper.arrays), strict=True)
            state["gradients"] = {name: gradient for name, gradient in found if gradient is not None}
        return state

    def load_state_dict(self, state: Mapping[str, Any], keep: str | None = None) -> None:
        """Take over a state; tensors are copied.

        Args:
            state: what `state_dict` gave.
            keep: whose settings, rules and freezes hold from here on: "saved" those of the state, except functions,
                which have no text; "new" those of this trainer. Memory, counts and the clock are always the state's.
                None: "saved", with a warning that lists what differs.

        Raises:
            StateError: a state of another optimizer, other arrays or other shapes; all differences are listed and
                nothing is changed.
        """
        states.check_keep(keep)
        self._averages.refuse("load_state_dict()")
        stepper, tree = self._stepper, self.table.tree
        joining = self._joining(state) if keep != "new" else frozenset()
        states.check(state, stepper.name, tree.arrays, (*self.table.names, *joining))
        if self._knobs is not None and state.get("knobs"):
            self._knobs.check_state(state["knobs"])
        differences = self._averages.differences(state["averages"])
        if differences:
            raise StateError(f"The averages of the state do not fit: {'; '.join(differences)}. Nothing was loaded.")
        memory = stepper.memory
        try:
            with self._changes.undone_on_error(self._resolve_again):
                self._join(joining)
                if keep != "new" and self._changes.load(state, tell=keep is None):
                    self._resolve_again()
                remembered = states.memory_in(state, self.memory)
                carried = stepper.check_carried(state)
                stepper.optimizer.load([state["arrays"][name] for name in self.table.names])
        except EtudeError as error:
            stepper.memory = memory
            raise StateError(f"The state does not fit the net: {error}.") from None
        self._averages.load(state["averages"])
        self._scale.load(state["scale"])
        self._tolerance.load(state.get("refused", 0))
        clock = state["progress"]
        epoch = clock["step"] / self._steps_per_epoch if self._steps_per_epoch else clock["epoch"]
        clock = Progress(clock["step"], epoch, clock["samples"], clock["tokens"], self.progress.extent)
        stepper.go_to(clock, remembered)
        stepper.carried.load(carried)
        if self._knobs is not None and state.get("knobs"):
            self._knobs.load(state["knobs"])
        self._write_knobs()
        self._load_gradients(state)

    def _load_gradients(self, state: Mapping[str, Any]) -> None:
        """Take over what had been accumulated of a step."""
        self.zero_grad()
        for name, gradient in state["gradients"].items():
            array = self.table.tree.arrays[name]
            array.grad = torch.empty_like(array).copy_(gradient) if not gradient.is_sparse else gradient.clone()
            # They were computed under the scale of that time.
            array.grad *= self._scale.value / state["scale"]["value"]
        self._window.load(state["window"], gradients_of(self._stepper.arrays))

    def _joining(self, state: Any) -> frozenset[str]:
        """Arrays that were thawed when the state was made, and require no gradient here."""
        return frozenset(states.thawed_in(state)) & self.table.tree.parameters - set(self.table.names)

    def _join(self, names: Collection[str]) -> None:
        for name in names:
            self.table.tree.arrays[name].requires_grad = True
        if names:
            self._resolve_again()


class _ForwardHook:
    """A hook that tells a stepper when its net is called. A copy of the net, or a file of it, has an idle one."""

    def __init__(self, stepper: Stepper | None) -> None:
        self._stepper = None if stepper is None else weakref.ref(stepper)

    def __call__(self, module: nn.Module, args: Any) -> None:
        stepper = None if self._stepper is None or torch.compiler.is_compiling() else self._stepper()
        if stepper is not None:
            stepper.begin_forward()

    def __reduce__(self) -> tuple[type[_ForwardHook], tuple[None]]:
        return (_ForwardHook, (None,))


def _leave(handle: RemovableHandle | None, stepper: Stepper) -> None:
    if handle is not None:
        handle.remove()
    stepper.leave()
