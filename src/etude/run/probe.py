"""What is probed: a number of activations, arrays, gradients or updates of a part, as a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from torch import Tensor, nn

from etude.arguments import named_class
from etude.errors import PartError, SettingError, nearest
from etude.run.statistics import Statistic, statistic
from etude.values.cadence import Both, Cadence, Either, Every, every
from etude.values.part import Named, OfType, Part, PartLike, everything, part
from etude.values.progress import Extent, Progress
from etude.values.spans import CLOCK_UNITS, Span, steps
from etude.values.tree import Tree

OUTPUT, ARRAY, GRADIENT, UPDATE = "output", "array", "gradient", "update"
OF = (OUTPUT, ARRAY, GRADIENT, UPDATE)
USUALLY = every(steps(50))
"""When probes of the training are due, where nothing is said."""


@named_class
@dataclass(frozen=True, repr=False)
class Probe:
    """One number of a part of the net, or with `each` one for every module or array of it.

    In `probes=` it is measured in the first step and then at its cadence, in the history as "probe.<label>"; in
    `metrics=` over all validation data, as "val.<label>". Only then the net is looked into: other steps cost nothing.

    Args:
        part: what `etude.part` takes. Of outputs the modules that it names (not those inside them), of the rest all
            arrays that a gradient is computed for ("array": buffers too, where the part names them).
        what: "rms", "mean", "std", "norm", "max", "min", "share_zero", "share_not_finite", each of all elements
            together; or a function of a tensor that gives a scalar, or a pair (sum, count). The function is called on
            each array, and on what each call of a module gives. Without `each` its scalars are averaged, weighted by
            the number of elements (so that of norms there is a mean, and no joint norm); of pairs the sums and the
            counts are added, which is exact.
        of: "output": what the modules give, over all their calls in the step, frames that are padding left out where
            the lengths are known; of several outputs the first. "array": the arrays after the step. "gradient": of the
            mean loss, without the scale of fp16, before noise and clipping; of arrays that move in the step. "update":
            what the step adds to the arrays.
        every: a cadence or a span, not of time by the clock; None: steps(50). In `metrics=` it is not said.
        each: one number for each module or array instead of one for all of them together.
        name: the label; None: "<part>.<what>", or "<part>.gradient.<what>". With `each`, that of a module or array
            stands in place of the part, or after the name.

    Raises:
        PartError: no part. SettingError: no such number or place, no cadence.
    """

    part: PartLike
    what: str | Callable[[Tensor], Any] = "rms"
    of: str = OUTPUT
    every: Cadence | Span | None = None
    each: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "part", part(self.part))
        said = f"Probe({self.part!r})"
        statistic(self.what, said)
        if self.of not in OF:
            raise SettingError(
                f"{said}: of={self.of!r} is no place to look at. Known: {', '.join(OF)}.{nearest(self.of, OF)}"
            )
        if not isinstance(self.each, bool):
            raise SettingError(f"{said}: each={self.each!r}: True or False is needed.")
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise SettingError(f"{said}: name={self.name!r}: a text is needed, or leave it out.")
        if isinstance(self.every, Span):
            object.__setattr__(self, "every", every(self.every))
        if self.every is not None and not isinstance(self.every, Cadence):
            raise SettingError(f"{said}: every={self.every!r}: write every=steps(50) or every=epochs(1).")
        if self.every is not None and _by_clock(self.every):
            raise SettingError(
                f"{said}: every={self.every!r}: time by the clock would have a run that is repeated measured at other "
                "steps. Write every=steps(50)."
            )

    @property
    def label(self) -> str:
        """What its number is called; with `each` numbers have labels of their own, see `labelled`."""
        assert isinstance(self.part, Part)
        return self.name or self.labelled(_text(self.part))

    def labelled(self, place: str) -> str:
        """What the number of a place is called."""
        what = self.what if isinstance(self.what, str) else _title(self.what)
        return ".".join(filter(None, (place, "" if self.of == OUTPUT else self.of, what)))

    @property
    def statistic(self) -> Statistic:
        """What computes it."""
        return statistic(self.what, repr(self))

    @property
    def cadence(self) -> Cadence:
        """When it is due in training."""
        assert not isinstance(self.every, Span)
        return self.every or USUALLY

    def due(self, before: Progress, after: Progress) -> bool:
        """Whether it is measured in the step between these two clocks; the first step of a run always is."""
        return self.cadence.due(before, after) or before.step == 0

    def __repr__(self) -> str:
        said = [_short(self.part)]
        for one in fields(self)[1:]:
            value = getattr(self, one.name)
            if value != one.default:
                shown = _title(value) if callable(value) and not isinstance(value, type) else repr(value)
                said.append(shown if one.name == "what" else f"{one.name}={shown}")
        return f"Probe({', '.join(said)})"

    def places(self, tree: Tree) -> dict[str, tuple[str, ...]]:
        """By label, the paths of the modules, or the names of the arrays, that make a number.

        Raises:
            PartError: the part has none in this net.
        """
        try:
            found = self._modules(tree) if self.of == OUTPUT else self._arrays(tree)
        except PartError as error:
            raise PartError(f"{self!r}: {error}") from None
        if not self.each:
            return {self.label: found}
        return {f"{self.name}.{one}" if self.name else self.labelled(one): (one,) for one in found}

    def _modules(self, tree: Tree) -> tuple[str, ...]:
        assert isinstance(self.part, Part)
        # A module that is in the net under several names is one.
        found = {id(module): path for path, module in reversed(self.part.modules(tree).items())}
        if not found:
            raise PartError(
                f'{self.part!r} names arrays, and outputs are those of modules. Name a module, or write of="array".'
            )
        return tuple(reversed(found.values()))

    def _arrays(self, tree: Tree) -> tuple[str, ...]:
        assert isinstance(self.part, Part)
        named = self.part.names(tree)
        found = tuple(name for name in named if name in tree.trainable) if self.of != ARRAY else named
        whole = tuple(name for name in named if name in tree.parameters)
        if self.of == ARRAY and whole:
            # Counters of batch norm are no numbers to be taken together with weights.
            found = whole
        if not found:
            what = "no array" if self.of == ARRAY else "no array with a gradient"
            raise PartError(f"{self.part!r} has {what} in this net. Name a part that has one.")
        return found


def probes_in(literal: Any) -> tuple[Probe, ...]:
    """The probes that an option stands for: one, or several in a list.

    Raises:
        SettingError: it is none, or two have one label.
    """
    if literal is None:
        return ()
    given = list(literal) if isinstance(literal, Sequence) and not isinstance(literal, str) else [literal]
    for one in given:
        if not isinstance(one, Probe):
            write = f"Probe({one!r})" if isinstance(one, str) else 'Probe("encoder")'
            raise SettingError(f'probes: {one!r} is no probe. Write {write}, or probes=[Probe("encoder", "rms")].')
    check_labels("probes", (one.label for one in given if not one.each))
    return tuple(given)


def check_labels(said: str, labels: Iterable[str]) -> None:
    """Raise SettingError where two are called the same."""
    seen: set[str] = set()
    for label in labels:
        if label in seen:
            raise SettingError(f"{said}: two are called {label!r}. Give one another: Probe(..., name=...).")
        seen.add(label)


def check_dues(probes: Sequence[Probe], extent: Extent) -> None:
    """Raise ScheduleError for a cadence that the run cannot tell."""
    for one in probes:
        one.cadence.check(Progress(extent=extent))


def module_of(tree: Tree, path: str) -> nn.Module:
    """The module at a path."""
    node = tree.nodes[path]
    assert isinstance(node, nn.Module)
    return node


def _text(place: Part) -> str:
    """A part in a label: its name, or what `part(...)` is made of; the whole net is nothing."""
    if place == everything:
        return ""
    if isinstance(place, OfType):
        return place.type.__name__
    return place.name if isinstance(place, Named) else _short(place).strip("'\"")


def _short(place: object) -> str:
    text = repr(place)
    inside = text.removeprefix("part(").removesuffix(")")
    return inside if text == f"part({inside})" and "(" not in inside else text


def _title(function: Any) -> str:
    if isinstance(function, partial):
        return _title(function.func)
    return getattr(function, "__name__", None) or type(function).__name__


def _by_clock(cadence: Cadence) -> bool:
    if isinstance(cadence, Either | Both):
        return any(map(_by_clock, cadence.members))
    return isinstance(cadence, Every) and (cadence.span.unit in CLOCK_UNITS or cadence.minimum is not None)


def labels_of(probes: Sequence[Probe], tree: Tree) -> Mapping[str, Probe]:
    """Every label of some probes in a net, with its probe.

    Raises:
        PartError: a part has nothing there. SettingError: two are called the same.
    """
    pairs = [(label, probe) for probe in probes for label in probe.places(tree)]
    check_labels("probes", (label for label, _ in pairs))
    return dict(pairs)
