"""What a picture of planned batches shows, taken from the plan; nothing is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.data.plan.measures import Measures, measure
from etude.data.plan.planned import Planned
from etude.data.plan.planner import Planner
from etude.draw.batches import Drawn, plot_batches
from etude.draw.histograms import Stream
from etude.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(planner: Planner, packed: bool, epochs: int, path: str | Path | None, title: str | None = None) -> Figure:
    """Lengths, and fill and padding of the batches of the first epochs.

    Args:
        planner: of the data. packed: whether sequences follow one another, so that nothing is padded.
        epochs: how many, from the first on. path: where to write the picture; None: nowhere.

    Raises:
        SettingError: no number of epochs, a path that cannot be written.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise SettingError(f"plot(epochs={epochs!r}): a whole number of epochs from 1 on is needed. Write epochs=3.")
    drawn = []
    used = np.zeros(planner.samples.number, np.bool_)
    for number in range(epochs):
        planned = planner.epoch(number)
        used[planned.table.samples_of(planned.epoch.all()[0])] = True
        drawn.append(_drawn(planned, measure(planner, number, packed), packed))
    return plot_batches(_streams(planner, used), drawn, path, title)


def _drawn(planned: Planned, measured: Measures, packed: bool) -> Drawn:
    names = [] if packed else list(measured.frames)
    padding = {name: measured.padding(name) for name in names}
    shares = {name: _share(int(measured.frames[name].sum()), int(measured.cells(name).sum())) for name in names}
    return Drawn(planned.number, planned.epoch.units, measured.fill, padding, shares, planned.left_out)


def _share(frames: int, cells: int) -> float:
    return 1 - frames / cells if cells else 0.0


def _streams(planner: Planner, used: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> list[Stream]:
    lengths, table = planner.samples.lengths, planner.epoch(0).table
    if lengths is None:
        return []
    cut = table.lengths if table.windows else None
    pieces = {} if cut is None else {name: cut[name] for name in table.windows}
    return [Stream(name, lengths[name][used], lengths[name][~used], pieces.get(name)) for name in lengths.names]
