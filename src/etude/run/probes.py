"""Probes at work: hooks, copies and looks at gradients, only in the steps in which they are due."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import nan
from typing import Any

import torch
from torch import Tensor, nn

from etude.bind.table import Now
from etude.errors import PlanError, SettingError, warn
from etude.run.outputs import Outputs
from etude.run.probe import ARRAY, GRADIENT, OUTPUT, UPDATE, Probe, check_dues, check_labels, labels_of
from etude.step.reading import Reader
from etude.step.work import Work
from etude.values.progress import Extent, Progress
from etude.values.tree import Tree


class Probes:
    """The probes of a training.

        due = probes.due(before, after)         # the clock before and after the step about to be made
        with probes.watching(batch_values):     # nothing happens in it where nothing is due
            ...                                 # the step
        probes.values()                         # numbers by label, on the device, unread

    Args:
        probes: of `probes=`. net: the net. works: what trains it. extent: how long the run is.
        compile: whether steps are compiled; then outputs are out of reach.

    Attributes:
        labels: all labels. Of a gradient that several updates give, the name of the update comes first.

    Raises:
        PartError: a part has nothing in this net. SettingError: two labels are alike.
        PlanError: what a probe looks at cannot be seen in this run. ScheduleError: a cadence cannot be told.
    """

    def __init__(
        self, probes: Sequence[Probe], net: nn.Module, works: Sequence[Work], extent: Extent, compile: bool = False
    ) -> None:
        self._probes = tuple(probes)
        self._works = tuple(works)
        check_dues(self._probes, extent)
        tree = works[0].stepper.table.tree if works else Tree(net)
        self._of = labels_of(self._probes, tree)
        _check_reach(self._probes, works, compile)
        self._outputs = Outputs([one for one in self._probes if one.of == OUTPUT], tree, Reader(net), net)
        self._arrays = [Arrays(one, tree) for one in self._probes if one.of in (ARRAY, UPDATE)]
        self._gradients = [
            _Gradients(one, work, _prefix(one, work, works, tree), tree)
            for one in self._probes
            if one.of == GRADIENT
            for work in works
            if _moves(one, work, tree)
        ]
        of_arrays = [label for one in self._arrays for label in one.labels]
        of_gradients = [label for one in self._gradients for label in one.labels]
        self.labels = (*self._outputs.labels, *of_arrays, *of_gradients)
        check_labels("probes", self.labels)
        self._due: tuple[Probe, ...] = ()
        self._values: dict[str, Tensor] = {}
        self._told: set[str] = set()

    @contextmanager
    def tried(self, batch: Any) -> Iterator[None]:
        """Around a look at a batch: everything is measured once, so that what fails is found before the first step.

        Gradients are not there yet; what is asked of them is asked of their arrays.
        """
        with self._outputs.open():
            self._outputs.batch(batch)
            yield
            self._outputs.values()
        for arrays in self._arrays:
            arrays.begin()
            arrays.values()
            arrays.end()
        for gradients in self._gradients:
            gradients.try_on_arrays()
        self._outputs.strict = False

    def due(self, before: Progress, after: Progress) -> bool:
        """Whether something is measured in the step between these two clocks; `watching` then measures it."""
        self._due = tuple(probe for probe in self._probes if probe.due(before, after))
        return bool(self._due)

    @contextmanager
    def watching(self, *many: Any) -> Iterator[None]:
        """Around a step on a batch, or on several that make it: measures what is due, and leaves no hook behind.

        Where the step raises, nothing is measured.
        """
        self._values = {}
        if not self._due:
            yield
            return
        failed: dict[str, str] = {}
        due = self._due
        outputs = [label for label, probe in self._of.items() if probe.of == OUTPUT and probe in due]
        arrays = [one for one in self._arrays if one.probe in due]
        gradients = [one for one in self._gradients if one.probe in due]
        with ExitStack() as stack:
            stack.enter_context(self._outputs.open(outputs))
            self._outputs.batch(*many)
            for work in self._works:
                work.observers.append(self._outputs.parts)
                stack.callback(work.observers.remove, self._outputs.parts)
            for one in gradients:
                stack.enter_context(one.watching())
            for each in arrays:
                each.begin()
            try:
                yield
                self._values = self._outputs.values()
                failed.update(self._outputs.failed)
                for one in gradients:
                    self._values.update(one.values())
                    failed.update(one.failed)
                for each in arrays:
                    try:
                        self._values.update(each.values())
                    except SettingError as error:
                        failed.update(dict.fromkeys(each.labels, str(error)))
                self._tell(failed)
            finally:
                self._due = ()
                for each in arrays:
                    each.end()

    def values(self) -> dict[str, Tensor]:
        """What the last step that was watched gave: scalars on the device; of what did not move nothing."""
        return self._values

    def _tell(self, failed: Mapping[str, str]) -> None:
        """What could not be measured is NaN, and a warning names it, once: nothing of the run depends on it."""
        for label, said in failed.items():
            self._values[label] = torch.tensor(nan)
            if label not in self._told:
                self._told.add(label)
                warn(
                    f"{said.rstrip('.')}. Its value at this step is NaN, and at others where it fails; the run goes on."
                )


class Arrays:
    """A probe of arrays after the step, or of what the step added to them."""

    def __init__(self, probe: Probe, tree: Tree) -> None:
        self.probe = probe
        self._of = {label: [tree.arrays[name] for name in names] for label, names in probe.places(tree).items()}
        self._before: dict[str, list[Tensor]] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels."""
        return tuple(self._of)

    def begin(self) -> None:
        """Copies of the arrays, where what is added to them is asked for."""
        if self.probe.of == UPDATE:
            self._before = {label: [a.detach().clone() for a in arrays] for label, arrays in self._of.items()}

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """The numbers by label, of the arrays as they are now."""
        of = self.probe.statistic
        return {label: of.value(of.take_all(self._now(label))) for label in self._of}

    def _now(self, label: str) -> list[Tensor]:
        now = [array.detach() for array in self._of[label]]
        if self.probe.of == ARRAY:
            return now
        return [after - before for after, before in zip(now, self._before[label], strict=True)]

    def end(self) -> None:
        """Forget the copies."""
        self._before = {}


class _Gradients:
    """A probe of the gradients that one update takes."""

    def __init__(self, probe: Probe, work: Work, prefix: str, tree: Tree) -> None:
        self.probe = probe
        self._work = work
        self._of = {prefix + label: frozenset(names) for label, names in probe.places(tree).items()}
        self._found: dict[str, Tensor] = {}
        self.failed: dict[str, str] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self._of)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._found, self.failed = {}, {}
        stepper = self._work.stepper
        stepper.observers.append(self._see)
        try:
            yield
        finally:
            stepper.observers.remove(self._see)

    @torch.no_grad()
    def try_on_arrays(self) -> None:
        """Measure the arrays in place of their gradients, which have the same shapes."""
        arrays = self._work.stepper.table.tree.arrays
        for wanted in self._of.values():
            self.probe.statistic.value(self.probe.statistic.take_all([arrays[name].detach() for name in wanted]))

    def _see(self, now: Now, gradients: Sequence[Tensor], divisor: float) -> None:
        names, of = self._work.stepper.table.names, self.probe.statistic
        for label, wanted in self._of.items():
            own = [g for i, g in zip(now.moving.indices, gradients, strict=True) if names[i] in wanted]
            if not own:
                continue
            try:
                self._found[label] = of.value(of.take_all(own if divisor == 1 else [g / divisor for g in own]))
            except SettingError as error:
                self.failed[label] = str(error)

    def values(self) -> dict[str, Tensor]:
        return self._found


def _moves(probe: Probe, work: Work, tree: Tree) -> bool:
    """Whether an update moves something of a probe."""
    own = set(work.stepper.table.names)
    return any(name in own for names in probe.places(tree).values() for name in names)


def _prefix(probe: Probe, work: Work, works: Sequence[Work], tree: Tree) -> str:
    """The name of the update, where several take gradients of what is probed."""
    return f"{work.name}." if sum(_moves(probe, each, tree) for each in works) > 1 else ""


def _check_reach(probes: Sequence[Probe], works: Sequence[Work], compile: bool) -> None:
    """Raise PlanError for what cannot be seen from outside a step."""
    closed = next((work for work in works if work.stepper.optimizer.needs_closure), None)
    for probe in probes:
        if compile and probe.of == OUTPUT:
            raise PlanError(
                f'{probe!r} looks into the net, and with compile=True it is one program. Write of="gradient" or '
                f'of="array", leave compile out, or measure it on validation data: metrics=[{probe!r}].'
            )
        if closed is not None and probe.of == GRADIENT:
            raise PlanError(f'{probe!r}: {closed.stepper.name} computes several gradients a step. Write of="update".')
