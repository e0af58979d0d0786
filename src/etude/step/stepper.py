"""One attempt at a step on one net: from the gradients that are there to moved arrays, or to an error and no change."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import attrgetter
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from etude.bind.table import RATE, Moving, Now, Table
from etude.step.agreeing import check_together
from etude.step.bounds import Bounds, shrink
from etude.step.carrying import Carried, Carriers, check_carried, mean_of
from etude.step.contradictions import check_useful
from etude.step.gradients import (
    AFTER,
    BEFORE,
    GRADIENT_SETTINGS,
    Gradients,
    all_finite,
    decay,
    each,
    left_by_norm,
    names_not_finite,
    prepare,
    without_non_finite,
)
from etude.step.layouts import Layout, Layouts
from etude.step.ledger import Ledger, gradients_of, has_none, versions_of
from etude.step.optim.half import is_low
from etude.step.optim.own import OwnOptimizer
from etude.step.optim.rule import is_dense
from etude.step.perturb import PERTURBING, Perturbed, Through, perturbed_now, perturbing
from etude.step.recipe import Optimizer, Recipe
from etude.step.refusals import mixed_gradients, non_finite_gradients, stale_gradients
from etude.step.states import check_arrays, memory_in, memory_of
from etude.step.still import Still
from etude.step.tying import Ties
from etude.values.progress import Progress
from etude.values.schedule import Schedule
from etude.values.tree import Tree

_REQUIRES = attrgetter("requires_grad")
_BOTH_DECAYS = frozenset({"signum", "signsgd"})
"""Rules whose papers have decay through the gradient as well as beside it."""
_AS_THEY_ARE = nullcontext()
_NONE_WAIT: Mapping[int, Tensor] = MappingProxyType({})


class Stepper:
    """A recipe at work on the arrays of one net.

    Args:
        module: the net. recipe: optimizer, settings and rules. progress: the clock, with the length of the run.
        uncounted: units that the clock does not count. seed: of noise and draws. half: see `etude.step.optim.half`.

    Attributes:
        progress: the clock: the step about to be made has number `progress.step + 1`.
        table: the settings of every array. memory: what schedules that listen to metrics remember.
        optimizer: what moves the arrays. ledger: which gradients are old. carried: those that wait for a turn.
        perturbing: whether weight noise or weight dropout is in use at some step.
        observers: called with what moves, its gradients and what they are to be divided by, before anything is done.
    """

    def __init__(
        self,
        module: nn.Module,
        recipe: Recipe,
        progress: Progress,
        uncounted: Sequence[str] = (),
        seed: int = 0,
        half: str = "master",
    ) -> None:
        self.recipe = recipe
        self.progress = progress
        self.ledger = Ledger()
        self.carried = Carried()
        self._module, self._uncounted = module, tuple(uncounted)
        self._seed, self._half = seed, half
        self._drawn = (-1, 0)
        self._through: Through = {}
        self._found: tuple[list[Tensor], list[int]] | None = None
        self._still = Still(module)
        self.observers: list[Callable[[Now, Sequence[Tensor], float], None]] = []
        self.use(self._resolve())
        self.optimizer: Optimizer = recipe.optimizer_for(self.table, seed, half)
        self.check_together(self.table)
        usual = max(maker.rate for maker in recipe.makers.values())
        check_useful(self.table, recipe.said, recipe.strict, not _BOTH_DECAYS.isdisjoint(recipe.makers), usual)
        self.memory: Mapping[Schedule, Any] = self.table.start()

    def check_together(self, table: Table) -> None:
        """Raise SettingError for settings that have no effect together, or cannot work."""
        check_together(table, self.recipe, self.optimizer, self.arrays, self._half)

    def _resolve(self, held: Collection[str] = (), thawed: Collection[str] = ()) -> Table:
        return self.recipe.table(Tree(self._module), self.progress.extent, self._uncounted, held, thawed)

    def use(self, table: Table) -> None:
        """Go on with another table of the same arrays, or with a first one."""
        self.table = table
        self.arrays = tuple(table.tree.arrays[name] for name in table.names)
        self._extra = frozenset(GRADIENT_SETTINGS) & frozenset(table.settings)
        self._before = self._extra & BEFORE
        self.perturbing = bool(self._extra & PERTURBING)
        self._drops = "drop_non_finite" in self._extra
        self._bounds = Bounds(table) if self._extra & AFTER else None
        self._ties = Ties(table, self.arrays) if "tie" in self._extra else None
        self._carriers = Carriers(table) if "carry" in self._extra else None
        self._layouts = Layouts(table, self.arrays)
        self._still.use(table)

    def resolve_again(self, held: Collection[str], thawed: Collection[str]) -> None:
        """Walk the net again and resolve the recipe as it is now; memory is kept by the names of the arrays.

        Arrays of the table that do not require a gradient at the moment stay in it.
        """
        idle = [array for array in self.arrays if not array.requires_grad]
        with warnings.catch_warnings(), _requiring(idle):
            # A change by hand is meant to cover the rules that were there.
            warnings.simplefilter("ignore")
            table = self._resolve(held, thawed)
        self.check_together(table)
        before = self.arrays
        self.use(table)
        self.memory = {of: self.memory.get(of, kept) for of, kept in table.start().items()}
        self.ledger.follow(before, self.arrays)
        self.optimizer.use(table)

    # ------------------------------------------------------------------------------------------------ the attempt

    @torch.no_grad()
    def attempt(
        self,
        count: float,
        ignore_stale_grad: bool,
        non_finite: str | None,
        marks: bool = False,
        scaled: bool = False,
    ) -> bool:
        """Move what moves now by the gradients that are there, divided by `count`; nothing ticks.

        Args:
            count: what gradients are divided by. ignore_stale_grad, non_finite: as for `Trainer`.
            marks: `mark` will be called afterwards.
            scaled: a loss scale is finding its size, so every element that is not finite has to be seen.

        Returns:
            Whether the step was made; False if non_finite="skip" refused it.

        Raises:
            StaleGradientError, NonFiniteError: nothing is changed.
            SettingError: arrays that are to be tied from here on are not alike; nothing is changed.
        """
        self._found = None
        now, found = self.fresh(ignore_stale_grad)
        if marks and len(found) == len(self.arrays):
            # Here the tensors are at hand: after the step they are not in the processor's caches any more.
            self._found = found, versions_of(found)
        given, waiting, looked_at = found, _NONE_WAIT, found
        if self._carriers is not None:
            waiting = self._waiting()
        if self._drops and not scaled:
            given, waiting = self.without_non_finite(now, found), self._dropped(now, waiting)
        if waiting or given is not found:
            looked_at = [*given, *waiting.values()]
        refused = non_finite is not None and bool(looked_at) and not all_finite(looked_at)
        if refused and non_finite == "raise":
            self.raise_non_finite(now, given, waiting)
        if found and not refused:
            for observe in self.observers:
                observe(now, found, count)
            self._move(now, given, count)
        if waiting and not refused:
            self._keep(waiting, count)
        return not refused

    def _keep(self, waiting: Mapping[int, Tensor], count: float) -> None:
        """Gradients of arrays that carry are kept until their turn, as means."""
        for index, gradient in waiting.items():
            wide = is_low(self.arrays[index]) and self._half != "plain"
            self.carried.keep(self.table.names[index], mean_of(gradient, count, wide))

    def carrying(self, now: Now) -> tuple[int, ...]:
        """Indices of the arrays that the update schedule holds and whose gradients are kept; `now` by the table."""
        return () if self._carriers is None else self._carriers.at(now)

    def taken(self) -> tuple[int, ...]:
        """Indices of the arrays whose gradients the next step takes: what moves, and what carries."""
        now = self.table.at(self.progress, self.memory)
        return (*now.moving.indices, *self.carrying(now))

    def able(self) -> tuple[int, ...]:
        """Those of them that may have gradients: whose `requires_grad` nobody has switched off."""
        return tuple([i for i in self.taken() if self.arrays[i].requires_grad])

    @property
    def hooked(self) -> bool:
        """Whether somebody has hooks on arrays, which backward alone runs."""
        return any(array._backward_hooks or array._post_accumulate_grad_hooks for array in self.arrays)

    def add_gradients(self, indices: Sequence[int], gradients: Sequence[Tensor | None], factor: float = 1.0) -> None:
        """Add gradients, times a factor, to those that are there; where there is none yet, they are taken over."""
        for index, gradient in zip(indices, gradients, strict=True):
            if gradient is None:
                continue
            array = self.arrays[index]
            if self._through:
                gradient = self._through.get(id(array), _as_it_is)(gradient)
            if array.grad is None:
                array.grad = gradient if factor == 1 else gradient * factor
            else:
                array.grad.add_(gradient, alpha=factor)

    def rests(self, now: Now) -> bool:
        """Whether a step needs no gradient at all."""
        return not now.moving.indices and not self.carrying(now)

    def _waiting(self) -> dict[int, Tensor]:
        """New gradients of the arrays that carry, by index; one that the loss does not reach has nothing to keep."""
        able = [i for i in self.carrying(self.table.at(self.progress, self.memory)) if self.arrays[i].requires_grad]
        gradients = gradients_of(self.arrays[i] for i in able)
        same, mixed = self.ledger.old(able, gradients)
        if mixed:
            self._raise_mixed(mixed)
        return {i: g for i, g in zip(able, gradients, strict=True) if g is not None and i not in same}

    def _dropped(self, now: Now, waiting: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Gradients by index, without elements that are not finite where that is asked for."""
        if not waiting:
            return {}
        column = now.columns["drop_non_finite"]
        of = {i: column[number] for number, row in enumerate(self.table.rows) for i in row.indices if i in waiting}
        cleaned = without_non_finite(list(waiting.values()), [of[i] for i in waiting])
        return dict(zip(waiting, cleaned, strict=True))

    def without_non_finite(self, now: Now, found: list[Tensor]) -> list[Tensor]:
        """Gradients of what moves, with 0 for elements that are not finite where that is asked for."""
        if not self._drops:
            return found
        return without_non_finite(found, each(now, "drop_non_finite"))

    def prove_ties(self) -> None:
        """Look whether arrays that the next step ties are alike, without remembering it.

        Raises:
            SettingError: they are not; the message says how to make them so.
        """
        if self._ties is not None:
            self._ties.prove(self.table.at(self.progress, self.memory), self.optimizer.state, keep=False)

    def go_to(self, progress: Progress, memory: Mapping[Schedule, Any]) -> None:
        """Go on at another moment, with what schedules remembered then."""
        self.progress, self.memory, self._drawn = progress, memory, (-1, 0)
        if self._ties is not None:
            self._ties.forget()

    def mark(self) -> None:
        """From now on every gradient that is there is an old one."""
        self.ledger.write(*(self._found or (gradients_of(self.arrays), None)))
        self._found = None

    def fresh(self, ignore_stale_grad: bool) -> tuple[Now, list[Tensor]]:
        """What moves now and its gradients, all of them new.

        Raises:
            StaleGradientError: there is none for an array, or an old one; nothing is changed.
        """
        now = self.table.at(self.progress, self.memory)
        if self._ties is not None:
            self._ties.prove(now, self.optimizer.state)
        arrays = self._layouts.of(now.moving).arrays
        gradients = gradients_of(arrays)
        if has_none(gradients) or not self.ledger.empty or not all(map(_REQUIRES, arrays)):
            stale = self._stale(now, gradients, ignore_stale_grad)
            if stale:
                now = Now(now.columns, self.table.less(now.moving, stale))
                gradients = gradients_of(self.looked_up(now.moving).arrays)
        return now, cast("list[Tensor]", gradients)

    def _move(self, now: Now, found: list[Tensor], count: float) -> None:
        optimizer = self.optimizer
        self._follow(now)
        looked = self._layouts.of(now.moving)
        if looked.low and self._half != "plain":
            # Divided in half precision, small gradients would be lost after all.
            found = [g.float() if is_low(array) else g for array, g in zip(looked.arrays, found, strict=True)]
        # A list of its own: what was found is written down as used.
        gradients, divisor = Gradients(list(found)), count
        if not optimizer.takes_sparse and not optimizer.shapes:
            gradients.dense()
        if self._before or not optimizer.shapes:
            divisor = 1.0
            if count != 1:
                gradients.divide(count)
        if self._before:
            before, now = now, self.prepare(gradients, now)
            if not now.moving.indices:
                return
            if now is not before:
                self._follow(now)
                looked = self.looked_up(now.moving)
        if optimizer.shapes and not looked.holds(gradients.values):
            gradients.shape_like(looked.arrays, optimizer.takes_sparse)
        if "shrink" in self._extra:
            shrink(optimizer.targets(now.moving.indices), each(now, RATE), each(now, "shrink"))
        optimizer.move(now, gradients.values, divisor)
        self.finish(now)

    def _follow(self, now: Now) -> None:
        """The arrays that move may lie elsewhere by now."""
        if isinstance(self.optimizer, OwnOptimizer) and not self.optimizer.follow(now):
            self._layouts.forget()

    def finish(self, now: Now) -> None:
        """After arrays have moved: their bounds, where they have some."""
        if self._bounds is not None:
            self._bounds.keep(now, self.optimizer.targets(now.moving.indices))
            self.optimizer.settle(now.moving.indices)

    def prepare(self, gradients: Gradients, now: Now) -> Now:
        """Carrying, tying, noise, clipping and what else changes a gradient, where it is asked for.

        Returns:
            what moves: without the arrays that are dropped by their norm, with those that are tied to others.
        """
        whole = self.table.at(self.progress, self.memory).moving if self._ties is not None else now.moving
        if "carry" in self._before:
            names = [self.table.names[i] for i in now.moving.indices]
            self.carried.spend(names, gradients.values, each(now, "carry"))
        if self._ties is not None:
            now, gradients.values = self._ties.fold(whole, now, gradients.values)
        if "drop_norm" in self._before:
            now = left_by_norm(gradients, now, self.table)
        if now.moving.indices:
            arrays = self.looked_up(now.moving).arrays
            prepare(gradients, arrays, now, self.table, self._before, self._seed, self._draw())
        if self._ties is not None:
            copies = not isinstance(self.optimizer, OwnOptimizer)
            now, gradients.values = self._ties.unfold(whole, now, gradients.values, copies)
        return now

    def decay(self, now: Now) -> Tensor | float:
        """The term of the mean loss whose gradient l2 adds, for optimizers that compare losses."""
        return decay(self.looked_up(now.moving).arrays, now) if "l2" in self._extra else 0.0

    def _draw(self) -> tuple[int, int]:
        """Which draw of noise this is: the number of the step, and how many were drawn in it before."""
        step = int(self.progress.step)
        again = self._drawn[1] + 1 if self._drawn[0] == step else 0
        self._drawn = (step, again)
        return self._drawn

    def looked_up(self, moving: Moving) -> Layout:
        """The arrays of a set that moves.

        Raises:
            SettingError: one of them has no shape yet.
        """
        return self._layouts.of(moving)

    # ------------------------------------------------------------------------------------- gradients, old and new

    def _stale(self, now: Now, gradients: Sequence[Tensor | None], ignore: bool) -> frozenset[int]:
        """Indices of arrays without a new gradient. Raises before anything is changed unless `ignore`."""
        moving = now.moving
        missing = [i for i, gradient in zip(moving.indices, gradients, strict=True) if gradient is None]
        same, mixed = self.ledger.old(moving.indices, gradients)
        if mixed:
            self._raise_mixed(mixed)
        # Who sets requires_grad = False holds the array.
        held = {i for i in moving.indices if not self.arrays[i].requires_grad}
        asked = {*missing, *same} - held
        # The gradient of one tied array moves the others as well.
        helped = set() if self._ties is None else self._ties.partners(now, asked)
        if asked - helped and not ignore:
            self.raise_stale(sorted(asked - helped))
        return frozenset(asked | held)

    def _raise_mixed(self, indices: Sequence[int]) -> None:
        raise mixed_gradients(self._number, self._names(indices))

    def raise_stale(self, indices: Sequence[int]) -> None:
        """Say that the arrays of these indices get no new gradient."""
        raise stale_gradients(self._number, self._names(indices))

    def raise_non_finite(
        self, now: Now, found: Sequence[Tensor], waiting: Mapping[int, Tensor] = MappingProxyType({})
    ) -> None:
        """Say which gradients are not finite; where all are, it is the loss."""
        names = self._names((*now.moving.indices, *waiting))
        raise non_finite_gradients(self._number, names, [*found, *waiting.values()])

    @property
    def _number(self) -> int:
        """Of the step about to be made."""
        return int(self.progress.step) + 1

    def _names(self, indices: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.table.names[i] for i in indices)

    def not_finite(self, now: Now) -> tuple[str, ...]:
        """The names of what moves now whose gradients are there and not finite."""
        indices = (*now.moving.indices, *self.carrying(now))
        pairs = zip(indices, gradients_of(self.arrays[i] for i in indices), strict=True)
        there = [(self.table.names[i], gradient) for i, gradient in pairs if gradient is not None]
        return names_not_finite(*map(list, zip(*there, strict=True))) if there else ()

    def scale_gradients(self, now: Now, factor: float) -> None:
        """Multiply the gradients of what moves, where the user sees them."""
        done: dict[int, Tensor] = {}
        for array in self.looked_up(now.moving).arrays:
            gradient = array.grad
            assert gradient is not None
            # Arrays may have one gradient tensor between them, and one may show an element in many places.
            if id(gradient) not in done:
                plain = gradient.is_sparse or is_dense(gradient)
                done[id(gradient)] = gradient.mul_(factor) if plain else gradient * factor
            array.grad = done[id(gradient)]

    def drop_old(self) -> None:
        """Forget gradients that a step has used; those that are left, and come, are new.

        Raises:
            StaleGradientError: new values were added onto an old gradient.
        """
        same, mixed = self.ledger.old(range(len(self.arrays)), gradients_of(self.arrays))
        if mixed:
            self._raise_mixed(mixed)
        self._drop(same)

    def leave(self) -> None:
        """Nobody steps here any more: gradients that are used go, so that nobody else uses them again."""
        self._drop(self.ledger.old(range(len(self.arrays)), gradients_of(self.arrays))[0])

    def _drop(self, indices: Iterable[int]) -> None:
        for index in indices:
            self.arrays[index].grad = None
        self.ledger.forget()

    def zero_grad(self) -> None:
        """Forget all gradients of the arrays."""
        for array in self.arrays:
            array.grad = None
        self._found = None
        self.ledger.forget()

    def begin_forward(self) -> None:
        """The net is about to be called: gradients that a step has used go, frozen statistics stand still."""
        if not self.ledger.empty and torch.is_grad_enabled():
            self.zero_grad()
        self._still.hold()

    @contextmanager
    def only_moving(self) -> Iterator[None]:
        """Within this, whatever does not move in the next step is out of the graph; see `Trainer.only_moving`."""
        now = self.table.at(self.progress, self.memory)
        still = self.outside(now.moving, self.carrying(now))
        # What the user has switched off stays off.
        out = [array for array in still if array.requires_grad]
        for array in out:
            array.requires_grad = False
        try:
            yield
        finally:
            for array in out:
                array.requires_grad = True

    def perturbed(self, progress: Progress, hooked: bool = True) -> AbstractContextManager[Any]:
        """Within it the arrays are as weight noise and weight dropout make them in the step made at `progress`.

        Args:
            hooked: whether backward makes the gradients; otherwise `add_gradients` is told of them.
        """
        if not self.perturbing:
            return _AS_THEY_ARE
        found = self.perturbs(progress)
        return self._perturbing(found, int(progress.step), hooked) if found else _AS_THEY_ARE

    @contextmanager
    def _perturbing(self, found: Sequence[Perturbed], step: int, hooked: bool) -> Iterator[None]:
        with perturbing(found, self._seed, step, hooked) as self._through:
            try:
                yield
            finally:
                self._through = {}

    def perturbs(self, progress: Progress) -> tuple[Perturbed, ...]:
        """The arrays that weight noise and weight dropout perturb in the step made at `progress`."""
        if not self.perturbing:
            return ()
        now = self.table.at(progress, self.memory)
        return perturbed_now(self.table, self.arrays, now, () if self._ties is None else self._ties.at(now))

    def outside(self, moving: Moving, carrying: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        """The trainable arrays of the net that neither move nor carry."""
        return self._layouts.outside(moving, carrying)

    # ------------------------------------------------------------------------------------------------- in words

    @property
    def extra(self) -> tuple[str, ...]:
        """The settings in use besides those of the update rule."""
        return tuple(name for name in GRADIENT_SETTINGS if name in self._extra)

    @property
    def name(self) -> str:
        """The name of the update rule, or of the optimizer's class."""
        return self.recipe.name

    def settings(self) -> dict[str, Any]:
        """The optimizer's name and the base value of every setting: a number, or the schedule as text."""
        found: dict[str, Any] = {"name": self.recipe.name}
        for setting, base in self.recipe.base.items():
            found[setting] = base.at(self.progress) if base.constant else repr(base)
        return found

    def see(self, metrics: Mapping[str, float], progress: Progress | None = None) -> None:
        """Tell the schedules that listen to metrics what was measured, at `progress` (None: where this stands)."""
        self.memory = self.table.see(self.memory, metrics, self.progress if progress is None else progress)

    # ------------------------------------------------------------------------------------------------- the state

    def state(self) -> dict[str, Any]:
        """What the optimizer and the schedules remember: plain values and tensors by name; tensors are not copied."""
        return {
            "optimizer": self.recipe.name,
            "memory": memory_of(self.memory),
            "arrays": dict(zip(self.table.names, self.optimizer.state(), strict=True)),
            "carried": self.carried.state(self.table.names),
        }

    def load(self, state: Mapping[str, Any], progress: Progress) -> None:
        """Take over what `state` gave, at the moment it was of; tensors are copied.

        Raises:
            StateError: it is of another optimizer, other arrays or other shapes; nothing is changed.
        """
        check_arrays(state, self.name, self.table.names)
        remembered = memory_in(state, self.memory)
        carried = self.check_carried(state)
        self.optimizer.load([state["arrays"][name] for name in self.table.names])
        self.carried.load(carried)
        self.go_to(progress, remembered)

    def check_carried(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """The carried gradients of a state; states of before there were any have none.

        Raises:
            StateError: they do not fit the arrays.
        """
        found: Mapping[str, Any] = state.get("carried", {})
        check_carried(found, self.table.shapes)
        return found

    def go_back(self) -> None:
        """Arrays were given earlier numbers: no gradient waits any more, and ties are looked at again."""
        self.carried.load({})
        if self._ties is not None:
            self._ties.forget()

    def forget(self, index: int) -> None:
        """Forget what is remembered of an array, and the gradients that wait for it."""
        self.optimizer.forget(index)
        self.carried.forget(self.table.names[index])


def _as_it_is(gradient: Tensor) -> Tensor:
    return gradient


@contextmanager
def _requiring(arrays: Iterable[Tensor]) -> Iterator[None]:
    """Within it these arrays require a gradient."""
    arrays = tuple(arrays)
    for array in arrays:
        array.requires_grad = True
    try:
        yield
    finally:
        for array in arrays:
            array.requires_grad = False
