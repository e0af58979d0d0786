"""The first values of a net: from a seed by name, from files, or as its modules made them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from etude.arguments import named, named_class
from etude.errors import EtudeError, SettingError
from etude.initial.deciding import Decision, decide, is_trained, said
from etude.initial.entries import InitialLike as InitialLike
from etude.initial.entries import entries
from etude.initial.finding import Finding
from etude.initial.growing import grown, parts_of
from etude.initial.initialiser import Initialiser
from etude.initial.origins import Origin, Origins
from etude.initial.units import Unit, layout_of, unit_of
from etude.values.tree import Tree

_SETTLING = 15
"""Calls of a parametrisation that keeps buffers, after which its estimates fit new values, as torch makes them fit when
it is put on."""


@named
def initialize(net: nn.Module, literal: InitialLike, seed: int = 0) -> Origins:
    """Give the arrays of a net their first values, in place.

    Of each array the first entry that has it decides; what no entry has stays as its module made it.

    Args:
        net: all shapes are known (call a net with lazy modules once before).
        literal: parts with initialisers, `{"encoder": "orthogonal", "*.bias": 0}`, or a list such as
            `[Load("weights.safetensors"), Fresh("adapter")]`; see `Initial`.
        seed: what is drawn depends on it, on the name and the shape of the array, and on nothing else.

    Returns:
        Where every array comes from; prints as a table.

    Raises:
        EtudeError: as `Initial` and `Initial.apply`; the net is as it was.
    """
    return Initial(literal).apply(net, seed)


@named_class
class Initial:
    """Entries of first values, read and ready to meet a net.

    Args:
        literal: a dict or list of pairs from parts to an initialiser (its name, a number, a function of an array, or
            what the functions of `etude.initial` make), `Load(...)`, or INHERIT; or a list of `Load`, `Fresh` and such
            pairs; or one value, for everything. The first entry that has an array decides.

            A rule is for the parameters of its part, if it has any, and otherwise for its buffers; one that draws is
            for the arrays of two or more axes, if the part has any, so that biases and the scales of norms stay as
            they are unless a rule names them. An array that is shared is one, under each of its names.

    Raises:
        SettingError, PartError: an entry stands for nothing.
    """

    __slots__ = ("entries",)

    def __init__(self, literal: InitialLike) -> None:
        self.entries = entries(literal)

    def prove(self, net: nn.Module, seed: int = 0) -> Origins:
        """What `apply` would do; nothing is changed. Of files only names and shapes are read; functions are called.

        Raises:
            PartError, RuleError, SettingError, StateError, CheckpointError: an entry is for nothing, can never act or
                cannot make an array; a file lacks arrays or has others. All that is wrong is told at once.
        """
        made = _Meeting(net, self, seed)
        made.tried()
        return made.origins()

    def apply(self, net: nn.Module, seed: int = 0) -> Origins:
        """Give the arrays of a net their first values, in place; optimizers and clocks have no part in it.

        Raises:
            EtudeError: as `prove`; the net is as it was.
        """
        made = _Meeting(net, self, seed)
        made.write()
        return made.origins()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Initial) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.entries)

    def __repr__(self) -> str:
        return f"Initial({list(self.entries)!r})"


class _Meeting:
    """Entries, one net and a seed."""

    def __init__(self, net: nn.Module, initial: Initial, seed: int) -> None:
        if not isinstance(net, nn.Module):
            raise SettingError(f"initialize({net!r:.60}): a net is needed. Write initialize(net, 'orthogonal').")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise SettingError(f"initialize(): seed={seed!r}. Write a whole number of at least 0.")
        self.tree, self.seed = Tree(net), seed
        self.decided, self.findings = decide(self.tree, initial.entries)
        self._units = {name: self._unit(name) for name, made in self.decided.items() if made.how is not None}

    def _unit(self, name: str) -> Unit:
        unit, how = unit_of(self.tree, name), self.decided[name].how
        alike = all(self.decided[part].how is how and self.decided[part].found is None for part in unit.parts)
        if not unit.owner or (alike and how is not None):
            return unit
        # Part of a parametrisation comes from elsewhere: the rest is an array like any other.
        return Unit(name, self.tree.arrays[name], unit.layout, (name,))

    @torch.no_grad()
    def tried(self) -> None:
        """Make what only making shows to be wrong."""
        for name, unit in self._units.items():
            how = cast("Initialiser", self.decided[name].how)
            if unit.parts[0] == name and (how.late or unit.owner):
                self._through(unit, self._made(name, unit, how), how)

    @torch.no_grad()
    def write(self) -> None:
        """Read and make all that can still fail, then write everything."""
        loaded = {name: array for finding in self.findings for name, array in self._read(finding).items()}
        ready: dict[str, Tensor] = {}
        for name, unit in self._units.items():
            how = cast("Initialiser", self.decided[name].how)
            if unit.parts[0] == name and (how.late or unit.owner):
                ready |= self._through(unit, self._made(name, unit, how), how)
        for name, made in self.decided.items():
            if made.how is not None and name not in ready:
                ready[name] = made.how.make(self._units[name], self.seed)
            if made.found is not None:
                ready[name] = self._fitted(name, loaded.pop(name), ready.get(name))
            if name in ready and not (name in self._units and self._units[name].owner):
                self.tree.arrays[name].copy_(ready.pop(name))
        for name, array in ready.items():
            self.tree.arrays[name].copy_(array)

    def _read(self, finding: Finding) -> dict[str, Tensor]:
        mine = {name: one for name, one in finding.found.items() if self.decided[name].finding is finding}
        read = finding.weights.get({one.source for one in mine.values() if one.made_up is None})
        return {name: read[one.source] if one.made_up is None else one.made_up for name, one in mine.items()}

    def _fitted(self, name: str, array: Tensor, rest: Tensor | None) -> Tensor:
        """An array as the net has room for it."""
        own = self.tree.arrays[name]
        if own.shape == array.shape:
            return array
        owner, _, key = name.rpartition(".")
        layout = layout_of(self.tree.nodes[owner], key)
        new, old = parts_of(tuple(own.shape), layout), parts_of(tuple(array.shape), layout)
        assert new is not None
        assert old is not None
        return grown(own.detach().cpu() if rest is None else rest.to(own.dtype), array.cpu(), new, old)

    def _made(self, name: str, unit: Unit, how: Initialiser) -> Tensor:
        """What an initialiser makes of a unit, once it is known to be finite where it is trained."""
        value = how.make(unit, self.seed)
        if is_trained(unit, self.tree) and not bool(torch.isfinite(value).all()):
            kind = "NaN" if bool(value.isnan().any()) else "infinity"
            raise SettingError(
                f"initialize: {said(self.decided[name].entry, how)} gives {unit.name!r}, of shape {unit.shape}, {kind} "
                f"at {_first(~torch.isfinite(value))}. Nothing was changed. Let it give finite numbers to what is "
                "trained."
            )
        return value

    def _through(self, unit: Unit, value: Tensor, how: Initialiser) -> dict[str, Tensor]:
        """The arrays of the net that make a unit have this value, by name."""
        if not unit.owner:
            return {unit.name: value}
        listed = self.tree.nodes[unit.owner]
        assert isinstance(listed, ParametrizationList)
        twin = deepcopy(listed)
        try:
            _put(twin, value.to(unit.array))
        except Exception as error:
            if isinstance(error, EtudeError):
                raise
            raise SettingError(
                f"initialize: {unit.name!r} is made by {_makers(listed)}, which cannot be given a value: "
                f"{type(error).__name__}: {error}. Leave it out, and set it in the program."
            ) from error
        if is_trained(unit, self.tree) and not bool(torch.isfinite(twin.eval()()).all()):
            raise SettingError(
                f"initialize: {unit.name!r} is made by {_makers(listed)}, which makes of {how!r} numbers that are not "
                "finite: zeros have no direction. Nothing was changed. Give it other values, or put the "
                "parametrisation on afterwards."
            )
        made = Tree(twin).arrays
        names = {name: name.removeprefix(f"{unit.owner}.") for name in self.tree.below(unit.owner)}
        return {name: made[own].detach() for name, own in names.items() if own in made and self._is_free(name, unit)}

    def _is_free(self, name: str, unit: Unit) -> bool:
        return name in unit.parts or self.decided[name].entry is None

    def origins(self) -> Origins:
        """Where every array comes from."""
        unused = {repr(each.load): left for each in self.findings if (left := self._unused(each))}
        return Origins({name: self._origin(made) for name, made in self.decided.items()}, unused)

    def _unused(self, finding: Finding) -> tuple[str, ...]:
        """Names of a file that no array of the net took."""
        taken = {made.found.source for made in self.decided.values() if made.finding is finding and made.found}
        names = finding.weights.arrays
        return tuple(sorted(name for name in names if name not in taken and name.startswith(finding.inside)))

    def _origin(self, made: Decision) -> Origin:
        shape = tuple(self.tree.arrays[made.name].shape)
        source = "" if made.entry is None else repr(made.entry)
        if made.found is not None:
            return Origin(made.name, shape, *self._loaded(made, source))
        if made.how is None:
            return Origin(made.name, shape, "as made", source, "as made")
        unit = self._units[made.name]
        through = f" through {unit.name}" if unit.owner else ""
        return Origin(made.name, shape, made.how.kind, source, f"{made.how.kind}: {made.how!r}{through}")

    def _loaded(self, made: Decision, source: str) -> tuple[str, str, str]:
        found, own = made.found, self.tree.arrays[made.name]
        assert found is not None
        if found.made_up is not None:
            grew = "" if found.shape == tuple(own.shape) else f", grown from {'x'.join(map(str, found.shape))}"
            return "made up", source, f"made up by rename{grew}"
        cast_to = "" if found.dtype == own.dtype else f", {_bare(found.dtype)} to {_bare(own.dtype)}"
        if found.shape == tuple(own.shape):
            return "loaded", source, f"loaded: {found.source}{cast_to}"
        was = "x".join(map(str, found.shape))
        rest = "" if made.how is None else f", the rest {made.how!r}"
        return "grown", source, f"grown: {found.source} of {was}{rest}{cast_to}"


def _makers(listed: ParametrizationList) -> str:
    return ", ".join(type(each).__name__.lstrip("_") for each in listed)


def _put(twin: ParametrizationList, value: Tensor) -> None:
    """Give a parametrisation what makes it give this value."""
    made: Any = value
    for each in reversed(list(twin)):
        made = each.right_inverse(made)  # type: ignore[operator]
    if isinstance(made, Tensor):
        twin.original.copy_(made)
    else:
        for place, array in enumerate(made):
            cast("Tensor", getattr(twin, f"original{place}")).copy_(array)
    if any(True for _ in twin.buffers()):
        twin.train()
        for _ in range(_SETTLING):
            twin()


def _first(found: Tensor) -> tuple[int, ...]:
    """Where the first true element is."""
    return tuple(int(place) for place in found.nonzero()[0])


def _bare(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
