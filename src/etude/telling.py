"""What `etude inspect` found, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from etude.keep import state
from etude.keep.inspecting import Plain
from etude.listen.tally import number

_WIDTH: Final = 100
"""Characters up to which values share a line."""

_MANY: Final = 6
"""Names in a list that are shown at most."""

_KINDS: Final = {
    state.RUN: "the state of a run",
    state.LOOP: "the state of a hand-written loop",
    state.WEIGHTS: "a net alone",
}


def of_file(told: Plain) -> str:
    """What `etude.keep.inspecting.look` found, as a page: the record, the history, a table of the arrays."""
    record = dict(told["record"])
    kind = str(record.pop("kind", ""))
    made = f"format {record.pop('format', '?')}, written by étude {record.pop('version', '?')}"
    lines = [told["path"], _verdict(told), f"{_KINDS.get(kind, kind)}, {made}", ""]
    order = {field.name: place for place, field in enumerate(state.STATE)}
    for name in sorted(record, key=lambda name: order.get(name, len(order))):
        if name != "history":
            lines += _named(name, _without_arrays(record[name]), 0)
    if told["history"]:
        lines += ["", *_table(("series", "values", "last", "step", "epoch"), map(_series, told["history"].items()))]
    lines += ["", *_table(("array", "dtype", "shape", "bytes", "digest"), map(_array, told["arrays"]))]
    return _page(lines)


def _verdict(told: Plain) -> str:
    bad = [array["name"] for array in told["arrays"] if not array["good"]]
    size = f"{len(told['arrays'])} arrays, {told['bytes']:,} bytes"
    if bad:
        return f"DAMAGED: {size}; the digests of {len(bad)} do not fit: {_some(bad)}"
    return f"good: {size}, every digest fits"


def _series(pair: tuple[str, Plain]) -> tuple[str, ...]:
    name, last = pair
    return name, f"{last['count']:,}", _plain(last["value"]), _plain(last["step"]), _plain(last["epoch"])


def _array(told: Plain) -> tuple[str, ...]:
    shape = "x".join(map(str, told["shape"])) or "one number"
    return told["name"], told["dtype"], shape, f"{told['bytes']:,}", "fits" if told["good"] else "DOES NOT FIT"


def of_folder(found: Sequence[Plain]) -> str:
    """What `etude.keep.inspecting.listing` found, as a table, the newest first."""
    titles = ("step", "epoch", "loss", "validation", "bytes", "state", "file")
    lines = _table(titles, map(_checkpoint, found))
    notes = [f"{told['path']}: {told['note']}" for told in found if told["note"]]
    return _page([*lines, *([""] if notes else []), *notes])


def _checkpoint(told: Plain) -> tuple[str, ...]:
    numbers = (_plain(told[name]) for name in ("step", "epoch", "loss", "val"))
    good = "good" if told["good"] else "DAMAGED"
    ended = f", {told['ended']}" if told["ended"] else ""
    return *numbers, f"{told['bytes']:,}", good + ended, told["path"]


# ------------------------------------------------------------------------------------------------------------- values


def _named(name: str, value: Any, depth: int) -> Iterator[str]:
    """A value under its name; what does not go into one line, item by item below it."""
    indent = "  " * depth
    head = f"{name:<10} " if depth == 0 else f"{indent}{name}: "
    line = head + _plain(value)
    flat = not isinstance(value, Mapping) or not any(isinstance(inner, Mapping) and inner for inner in value.values())
    if not isinstance(value, Mapping) or (flat and len(line) <= _WIDTH):
        yield line
        return
    yield f"{indent}{name}"
    for key, inner in _joined(value):
        yield from _named(key, inner, depth + 1)


def _joined(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The items of a dict; names that hold the same are told together."""
    same: dict[str, list[str]] = {}
    for key, inner in value.items():
        same.setdefault(repr(inner), []).append(str(key))
    alike = {key: names for names in same.values() for key in names if isinstance(value.get(key), Mapping)}
    for key, inner in value.items():
        names = alike.get(str(key), [str(key)])
        if names[0] == str(key):
            yield (str(key) if len(names) == 1 else f"{_some(names)} (each of {len(names)})"), inner


def _plain(value: Any) -> str:
    """A value in one line, however long."""
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, float):
        return f"{value:g}" if value == int(value) and abs(value) < 1e15 else number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        inside = [f"({_plain(one)})" if isinstance(one, list | Mapping) else _plain(one) for one in value]
        return _some(inside)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _some(names: Sequence[str]) -> str:
    if len(names) <= _MANY:
        return ", ".join(names)
    return f"{', '.join(names[: _MANY - 1])}, ... {names[-1]} ({len(names)} in all)"


def _without_arrays(value: Any) -> Any:
    """A value without the names of its tensors: these stand in the table of arrays."""
    if isinstance(value, Mapping):
        kept = {name: _without_arrays(inner) for name, inner in value.items() if not _is_array(inner)}
        return {name: inner for name, inner in kept.items() if inner != {} or value[name] == {}}
    return [_without_arrays(one) for one in value] if isinstance(value, list) else value


def _is_array(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) in ({"tensor"}, {"array"})


def _page(lines: Iterable[str]) -> str:
    """Lines of a page: whatever would control a terminal is written out, as names come from files."""
    return "\n".join("".join(one if one.isprintable() else ascii(one)[1:-1] for one in line) for line in lines)


def _table(titles: Sequence[str], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Columns as wide as they need; the last may be any length. Numbers stand to the right."""
    made = [tuple(titles), *rows]
    widths = [max(len(row[place]) for row in made) for place in range(len(titles))]
    numbers = {place for place, title in enumerate(titles) if title in _NUMBERS}
    return ["  ".join(_cell(cell, widths[i], i in numbers) for i, cell in enumerate(row)).rstrip() for row in made]


_NUMBERS: Final = {"values", "last", "step", "epoch", "bytes", "loss", "validation"}


def _cell(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)
