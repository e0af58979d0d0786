"""A table as text, and as numbers for a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etude.errors import PartError, nearest
from etude.values.decay import no_decay
from etude.values.progress import Extent, Progress

if TYPE_CHECKING:
    from etude.bind.table import Choice, Moving, Table

RATE = "learning_rate"
DECAYS = ("weight_decay", "l2", "shrink")
"""Settings that make arrays smaller in every step."""
LOOKED_AT = 480
"""Steps of a long run at which the table looks for peaks and for what moves."""
_RUN = 24
_SHOWN = 60
"""Steps at which a run is looked at of which nobody knows how many it has."""
_RULE = 64
"""Characters of a rule that a table shows."""
_RULES = 96
"""Characters of all rules of an array that it shows."""


def progress_at(extent: Extent, step: float) -> Progress:
    """The clock before step number `step + 1` of a run of this extent, at its mean pace."""

    def at(total: float | None) -> float:
        return step * total / extent.steps if total is not None and extent.steps else 0.0

    return Progress(step, at(extent.epochs), at(extent.samples), at(extent.tokens), extent)


def score(table: Table, moments: Sequence[Progress]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """The effective learning rate of every array at every moment, nan where it is held.

    Returns:
        names, and rates of shape (arrays, moments).
    """
    rates = np.full((len(table.names), len(moments)), nan)
    by_row = np.empty((len(moments), len(table.rows)))
    together: dict[Moving, list[int]] = {}
    for column, progress in enumerate(moments):
        now = table.at(progress)
        by_row[column] = now.columns.get(RATE, ())
        together.setdefault(now.moving, []).append(column)
    for moving, columns in together.items():
        for group in moving.groups:
            rates[np.ix_(group.indices, columns)] = by_row[columns, group.row]
    return table.names, rates


def scheduled(table: Table, moments: Sequence[Progress]) -> NDArray[np.bool_]:
    """Whether the update schedule lets each array move at each moment, whatever its rate: (arrays, moments)."""
    if table.update_schedule is None:
        return np.ones((len(table.names), len(moments)), dtype=bool)
    lets = np.zeros((len(table.names), len(moments)), dtype=bool)
    together: dict[Any, list[int]] = {}
    for column, progress in enumerate(moments):
        together.setdefault(table.update_schedule.at(progress, None), []).append(column)
    for place, columns in together.items():
        names = table.let_move(place)
        rows = [row for row, name in enumerate(table.names) if name in names]
        lets[np.ix_(rows, columns)] = True
    return lets


def why(table: Table, name: str) -> str:
    """Which rule decided each setting of an array, in words; see `Table.why`."""
    tree = table.tree
    known = next((own for own, paths in tree.names.items() if name in paths), None)
    if known is None or known not in table.choices:
        raise PartError(f"why({name!r}): no trainable array has that name. {_instead(table, name)}")
    others = [path for path in tree.names[known] if path != known]
    lines = [f"{known} {_shape(table, known)}" + (f", shared as {', '.join(others)}" if others else "")]
    for setting, choice in table.choices[known].items():
        lines.append(f"  {setting} = {_said(choice)}    ({choice.rule})")
    lines.append(f"  moves: {_when(table, known)}")
    return "\n".join(lines)


def _instead(table: Table, name: str) -> str:
    """What is there under a name that is no trainable array."""
    if name in table.tree.nodes:
        inside = [own for own in table.tree.below(name) if own in table.choices]
        if inside:
            return f"It stands for several: ask why({inside[0]!r}), of {', '.join(map(repr, inside[:8]))}."
        return "What has it is a buffer, does not require a gradient, or is outside the part that is stepped."
    shown = ", ".join(map(repr, table.names[:8])) + (", ..." if len(table.names) > 8 else "")
    return f"There are: {shown}.{nearest(name, table.names)}"


def show(table: Table, extent: Extent | None = None, acts: Callable[[Progress], Any] | None = None) -> str:
    """The table as text; see `Table.show`."""
    moments = _moments(extent or table.extent)
    settings = [s for s in table.settings if s == RATE or _worth_showing(table, s)]
    head = ["array", "shape", *(f"{s} now/peak/end" for s in settings), "decided by", "moves"]
    _, moving = score(table, moments)
    if acts is not None:
        moving[:, [not acts(progress) for progress in moments]] = nan
    rows = []
    for index, name in enumerate(table.names):
        choices = table.choices[name]
        cells = [_now_peak_end(choices[s], moments, "held" if s == RATE else "off") for s in settings]
        rules = dict.fromkeys(_cut(choices[s].rule, _RULE) for s in settings if choices[s].rule != "no rule")
        rule = _cut("; ".join(rules) or "no rule", _RULES)
        rows.append([name, _shape(table, name), *cells, rule, _steps_text(~np.isnan(moving[index]), moments)])
    notes = [f"frozen statistics: {', '.join(table.frozen_buffers)}"] if table.frozen_buffers else []
    notes += [f"never decides (covered by earlier rules): {text}" for text in table.covered]
    return "\n".join([*_aligned([head, *rows]), *notes])


def _cut(rules: str, most: int) -> str:
    """Rules as a table has room for them; `why` says them whole."""
    return rules if len(rules) <= most else f"{rules[: most - 3]}..."


def decayed(table: Table) -> list[str]:
    """Notes on decay that holds for arrays most recipes spare, and how to spare them."""
    return [note for setting in DECAYS for note in _decayed(table, setting)]


def _decayed(table: Table, setting: str) -> list[str]:
    """What decays by a plain value though most recipes spare it, and how to spare it."""
    if setting not in table.settings:
        return []
    spared = set(no_decay.names(table.tree))
    moved = [name for name in table.names if not table.choices[name][RATE].frozen]
    plain = [name for name in moved if name in spared and _is_plain(table, name, setting)]
    if not plain:
        return []
    shown = ", ".join(plain[:3]) + (", ..." if plain[3:] else "")
    value = _said(table.choices[plain[0]][setting])
    return [
        f"{setting}={value} holds for norms, biases and embeddings too ({len(plain)}: {shown}); "
        f"{setting}=decay({value}) spares them"
    ]


def _is_plain(table: Table, name: str, setting: str) -> bool:
    choice = table.choices[name][setting]
    on = choice.base is not None and (not choice.constant or choice.at(Progress()) != 0)
    return on and choice.rule == "no rule"


def _worth_showing(table: Table, setting: str) -> bool:
    """A setting is shown where a rule decides it, or where it changes."""
    choices = [table.choices[name][setting] for name in table.names]
    return any(c.rule != "no rule" or (c.base is not None and not c.base.constant) for c in choices)


def _moments(extent: Extent) -> list[Progress]:
    if extent.steps is None:
        # How many steps there are is not known, but how long they take together may be.
        return [_at_share(extent, step) for step in range(_SHOWN)]
    steps = int(extent.steps)
    if steps <= LOOKED_AT:
        return [progress_at(extent, step) for step in range(steps)]
    # The beginning, and runs of neighbours over the rest: steps apart would fall into step with a cycle.
    begins = np.linspace(LOOKED_AT // 2, steps - _RUN, LOOKED_AT // 2 // _RUN, dtype=int).tolist()
    late = [begin + i for begin in begins for i in range(_RUN)]
    return [progress_at(extent, step) for step in dict.fromkeys([*range(LOOKED_AT // 2), *late])]


def _at_share(extent: Extent, step: int) -> Progress:
    share = step / (_SHOWN - 1)
    epochs, samples, tokens = (share * (n or 0.0) for n in (extent.epochs, extent.samples, extent.tokens))
    return Progress(step, epochs, samples, tokens, extent)


def _now_peak_end(choice: Choice, moments: Sequence[Progress], nothing: str) -> str:
    if choice.base is None:
        return "frozen"
    if choice.base.constant and (choice.factor is None or choice.factor.constant):
        return _number(choice.at(moments[0]), nothing)
    values = [choice.at(progress) for progress in moments]
    peak = max((v for v in values if isinstance(v, int | float)), key=abs, default=None)
    return f"{_number(values[0], nothing)}/{_number(peak, nothing)}/{_number(values[-1], nothing)}"


def _number(value: Any, nothing: str = "held") -> str:
    if value is None:
        return nothing
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return "off" if value == inf else f"{value:.3g}"


def _said(choice: Choice) -> str:
    if choice.base is None:
        return "FROZEN"
    base = _number(choice.base.at(Progress())) if choice.base.constant else repr(choice.base)
    if choice.factor is None:
        return base
    return f"{base} * {_number(choice.factor.at(Progress())) if choice.factor.constant else repr(choice.factor)}"


def _when(table: Table, name: str) -> str:
    if table.choices[name][RATE].frozen:
        return "never (frozen)"
    return "every step" if table.update_schedule is None else f"as the update schedule says: {table.update_schedule!r}"


def _steps_text(moves: NDArray[np.bool_], moments: Sequence[Progress]) -> str:
    """The steps at which an array moves, counted from 1: "every step", "never", "1-5, 7-11, ... (5 of 6)"."""
    if not len(moves) or moves.all():
        return "every step" if len(moves) else "never"
    if not moves.any():
        return "never"
    runs: list[list[int]] = []
    for progress, moving in zip(moments, moves, strict=True):
        number = int(progress.step) + 1
        if moving and runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        elif moving:
            runs.append([number, number])
    if moments[0].extent.steps is None and any(moments[0].extent.known()):
        # They are spread over a run of which the number of steps is not known: they have no numbers.
        return f"{_share(moves, moments)} of the steps"
    shown = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:3])
    return f"{shown}{', ...' if len(runs) > 3 else ''} ({_share(moves, moments)})"


def _share(moves: NDArray[np.bool_], moments: Sequence[Progress]) -> str:
    """How many of the steps move: exactly where all were looked at, else about."""
    steps, asked = moments[0].extent.steps, len(moments)
    if steps is None and any(moments[0].extent.known()):
        return f"about {moves.mean():.0%}"
    if steps is None:
        return f"{int(moves.sum())} of the first {asked}"
    return f"{int(moves.sum())} of {asked}" if asked >= steps else f"about {moves.mean():.0%} of {int(steps):,}"


def _shape(table: Table, name: str) -> str:
    return "x".join(map(str, table.shapes[name])) or "scalar" if name in table.shapes else "not yet known"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
