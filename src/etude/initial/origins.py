"""Where the arrays of a net come from, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from etude.errors import PartError, nearest
from etude.step.states import some


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one array comes from.

    Attributes:
        name: of the array. shape: its shape.
        kind: "loaded", "grown" (or shrunk, from an array of another shape), "made up" (by a function, out of a file's
            arrays), "drawn", "set", "computed", "scaled", or "as made", by its module.
        source: the entry that decided, in words; "" where none did. how: what was done, in words.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    source: str = ""
    how: str = ""


@dataclass(frozen=True, slots=True)
class Origins:
    """Where every array of a net comes from; prints as a table.

    Attributes:
        arrays: the origin of each array by name, in the order of the net.
        unused: by entry the names of a file that no array of the net took.
    """

    arrays: Mapping[str, Origin]
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Origin:
        """The origin of an array. Raises PartError, which names the nearest, where the net has none of that name."""
        if name not in self.arrays:
            raise PartError(f"origins[{name!r}]: no array has that name.{nearest(name, self.arrays)}")
        return self.arrays[name]

    def __iter__(self) -> Iterator[Origin]:
        return iter(self.arrays.values())

    def __len__(self) -> int:
        return len(self.arrays)

    def names(self, kind: str) -> tuple[str, ...]:
        """Names of the arrays of one kind of origin: `origins.names("loaded")`."""
        return tuple(one.name for one in self if one.kind == kind)

    def show(self) -> str:
        """The table: of each array its shape, what happened, and the entry that decided; then what was not used."""
        rows = [("array", "shape", "origin", "decided by")]
        rows += [(one.name, _shape(one.shape), one.how or one.kind, one.source or "no entry") for one in self]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *(f"not used of {entry}: {some(names)}" for entry, names in self.unused.items())])

    def __str__(self) -> str:
        return self.show()


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
