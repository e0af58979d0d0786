"""The batches of every epoch, as a pure function of the seed and the epoch.

What an epoch goes through, each step a function of (lengths, seed, epoch) alone:

    samples ─ selection ─ chunks ─▶ units ─ order, part of the pass ─ filters ─ budget ─▶ batches
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from etude.data.order import SUBEPOCH, generator
from etude.data.plan.arrangements import Units
from etude.data.plan.batching import Batching
from etude.data.plan.changing import in_time
from etude.data.plan.clock import Clock, Uncounted, opaque
from etude.data.plan.cut import Filling, cut, within
from etude.data.plan.ends import next_end
from etude.data.plan.epoch import Cut, Epoch, Repeated, of_lists
from etude.data.plan.filters import apply
from etude.data.plan.lengths import Lengths, Whole
from etude.data.plan.limits import Floats
from etude.data.plan.orders import part, repeated, shuffle_blocks
from etude.data.plan.packing import first_fit, strung
from etude.data.plan.planned import BEYOND, Planned
from etude.data.plan.prepared import Prepared, one_packed
from etude.data.plan.strata import InStrata, Sorted, Strata
from etude.data.plan.table import Samples, Table, table, told
from etude.errors import DataError, SettingError
from etude.values.progress import Extent, Progress
from etude.values.schedule import Schedule

_KEPT = 2
"""Epochs that are remembered: the one that is read, and the one that is read ahead."""

LeftOut = dict[str, int]


class Planner:
    """Plans epochs of known samples.

    Args:
        samples: what there is.
        batching: how they become batches.
        seed: at least 0.
        extent: how long the run is, for budgets that are schedules of it.
        accumulate: batches of one step, for budgets that count steps; None: one.
        ready: where the units are kept that all epochs have, for other planners of the same samples and batching.

    Raises:
        DataError: lengths are needed and not known, a stream is not there, nothing is left, or a unit is beyond the
            budget and that is to be an error.
    """

    def __init__(
        self,
        samples: Samples,
        batching: Batching,
        seed: int,
        extent: Extent = Extent(),  # noqa: B008
        accumulate: Schedule | None = None,
        ready: dict[str, Prepared] | None = None,
    ) -> None:
        self.samples = samples
        self.batching = batching
        self._seed = seed
        self._clock = Clock(extent, accumulate, lambda number: self.epoch(number).passed(), opaque(batching.schedules))
        self._epochs: dict[int, Planned] = {}
        self._ready: dict[str, Prepared] = {} if ready is None else ready

    def epoch(self, number: int) -> Planned:
        """The batches of an epoch."""
        planned = self._epochs.get(number)
        if planned is None:
            try:
                planned = self._plan(number)
            except Uncounted:
                self._clock.counted = True
                planned = self._plan(number)
            self._epochs = dict([*self._epochs.items(), (number, planned)][-_KEPT:])
        return planned

    def allowed(self, number: int) -> Floats:
        """What each limit allows in the batches of an epoch: float64, shape (limits, batches); (limits, 1) if always.

        Raises:
            SettingError: a schedule gives something else than a number above 0 there.
        """
        planned = self.epoch(number)
        limits = self._prepared(number).costs
        if limits.constant:
            return limits.most(self.start(number))[:, None]
        # Batches that change places keep the size that they had where they were made.
        made = planned.epoch if isinstance(planned.epoch, Cut) else None
        turn = None if made is None else made.turn
        whole = planned if made is None else replace(planned, epoch=replace(made, turn=None))
        units, offsets = whole.epoch.all()
        strata = isinstance(self.batching.order.at(self._passed(number)), InStrata)
        # A function is asked for every unit: the last one has decided. A schedule, when a batch begins.
        places = offsets[1:] - 1 if opaque(limits.schedules) and not strata else offsets[:-1]
        frames, moments = whole.table.frames(units), self._clock.moments(number, whole.passed().total)
        each = enumerate(zip(places.tolist(), frames[places].tolist(), strict=True))
        nows = (moments.at(batch, given, before) for batch, (given, before) in each)
        allowed: Floats = np.stack([self._clock.ask(limits.most, now) for now in nows], axis=1)
        return allowed if turn is None else allowed[:, turn]

    def counted(self, number: int) -> tuple[int, int, int] | None:
        """Steps, samples and tokens before an epoch, where budgets or filters need to know them."""
        if not self._clock.counted:
            return None
        start = self._clock.start(number)
        return int(start.step), int(start.samples), int(start.tokens)

    def remember(self, number: int, steps: int, samples: int, tokens: int) -> None:
        """Take over what `counted` gave: the epochs before need not be planned to know it."""
        self._clock.remember(number, steps, samples, tokens)

    @property
    def effort(self) -> int:
        """About how many units are looked at to plan an epoch."""
        strata = isinstance(self.batching.order, InStrata) and not self.batching.schedules
        return self.samples.number // (50 if strata and not self.batching.changes else 1)

    def _plan(self, number: int) -> Planned:
        ready = self._prepared(number)
        order = self.batching.order.at(self._passed(number))
        if isinstance(order, InStrata):
            _check_strata(order, self.batching, ready)
            epoch, left_out = self._in_strata(ready, number)
            made = ready.table
        else:
            made, epoch, left_out = self._in_order(ready, number)
        left_out = told({**self.samples.dropped, **ready.table.left_out, **left_out}, bool(made.windows))
        if not epoch.batches:
            reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            raise DataError(
                f"Epoch {number} has no batch: of {self.samples.number} samples nothing is left"
                f"{f' (left out: {reasons})' if reasons else ''}. Loosen what leaves them out."
            )
        return Planned(number, made, epoch, left_out)

    def _prepared(self, number: int) -> Prepared:
        """The units of an epoch before any is left out; made once where they are the same in every epoch."""
        if "units" in self._ready:
            return self._ready["units"]
        rule = self._clock.ask(self.batching.chunk_at, self.start(number))
        made = Prepared(table(self.batching, rule, self.samples, number, self._seed), self.batching)
        if not self.batching.changes:
            self._ready["units"] = made
        return made

    def _passed(self, number: int) -> int:
        return number // self.batching.subepochs

    def start(self, number: int) -> Progress:
        """The clock at the start of an epoch, as far as limits and filters need to know it."""
        return self._clock.start(number)

    # --------------------------------------------------------------------------------------- an order, then batches

    def _in_order(self, ready: Prepared, number: int) -> tuple[Table, Epoch, LeftOut]:
        batching = self.batching
        units = Units(ready.table.number, ready.table.lengths)
        order = batching.order.arrange(units, self._passed(number), self._seed)
        left_out: LeftOut = {}
        if batching.order.leaves_out:
            left_out[f"units that do not fill up {batching.order!r}"] = units.n - len(order)
        if batching.divides:
            order = part(order, number, batching.subepochs)
        kept, filtered = self._kept(ready.table, order, number)
        order = repeated(order[kept], batching.repeat)
        made, epoch, dropped = self._cut(ready, order, number)
        blocks = batching.blocks
        if batching.pack == "first_fit" and not blocks and batching.order.shuffles:
            blocks = None  # first fit takes the longest first, and what was to be shuffled would come by length
        if blocks != 0 and epoch.batches:
            turn = shuffle_blocks(epoch.batches, blocks, self._seed, number)
            epoch = replace(epoch, turn=turn if epoch.turn is None else epoch.turn[turn])
        return made, epoch, left_out | filtered | dropped

    def _cut(self, ready: Prepared, order: Whole, number: int) -> tuple[Table, Cut, LeftOut]:
        """Batches of units in their order."""
        batching, made = self.batching, ready.table
        called = ready.called(order, self.samples.called)
        if batching.pack == "strung":
            return _strung(made, order, int(ready.costs.most(self.start(number))[0]))
        if ready.buckets is not None:
            assert made.lengths is not None
            filled = ready.buckets.fill(made.lengths.lead[order], _bucket_policy(batching.too_long), called)
            left_out = {"units longer than every bucket": len(filled.dropped)}
            epoch = Cut(
                order[filled.units], filled.offsets, None, filled.shapes, ready.buckets.shapes, made.lengths.names
            )
            if batching.drop_last:
                left_out["units that do not fill a bucket"] = epoch.units - epoch.full().units
                epoch = epoch.full()
            return made, epoch, left_out
        if ready.size:
            ends = np.append(np.arange(0, len(order), ready.size), len(order))
            return made, *_even(order, ends, ready.size, batching.drop_last)
        if not ready.costs.constant:
            asked = self._cut_by_function if opaque(ready.costs.schedules) else self._cut_in_time
            return made, *asked(ready, order, number, called)
        most, values = ready.costs.most(self.start(number)), ready.costs.values[:, order]
        if batching.pack == "first_fit":
            row, limit = one_packed(ready.costs)
            most_units = None if limit is None else int(most[limit])
            batches = first_fit(values[row], float(most[row]), batching.pool, most_units, batching.too_long, called)
        else:
            batches = cut(values, ready.costs.kinds, most, batching.too_long, called)
        return made, Cut(order[batches.units], batches.offsets), {BEYOND: len(batches.dropped)}

    def _cut_in_time(
        self, ready: Prepared, order: Whole, number: int, called: Callable[[int], str]
    ) -> tuple[Cut, LeftOut]:
        """The same for a budget that changes: that of a batch is what is allowed when it begins."""
        limits, frames = ready.costs, ready.table.frames(order)
        moments, values = self._clock.moments(number, len(order)), limits.values[:, order]
        batches: list[Whole] = []
        start = dropped = last = given = 0
        while start < len(order):
            now = moments.at(len(batches), start - dropped, given)
            most = self._clock.ask(limits.most, now)
            first, name = values[:, start : start + 1], partial(_called_at, called, start)
            if not len(within(first, limits.kinds, most, self.batching.too_long, name)[0]):
                dropped, start = dropped + 1, start + 1
                continue
            stop = next_end(values, limits.kinds, most, start, last)
            batches.append(order[start:stop])
            given += int(frames[stop] - frames[start])
            start, last = stop, stop - start
        return of_lists(batches), {BEYOND: dropped}

    def _cut_by_function(
        self, ready: Prepared, order: Whole, number: int, called: Callable[[int], str]
    ) -> tuple[Cut, LeftOut]:
        """The same for a budget that is a function of `Progress`: it is asked for every unit, as RETURNN does."""
        limits, frames = ready.costs, ready.table.frames(order)
        moments, values = self._clock.moments(number, len(order)), limits.values[:, order].T.tolist()
        batches: list[Whole] = []
        filling, held, dropped, given = Filling(limits.kinds), list[int](), 0, 0
        for place, costs in enumerate(values):
            now = moments.at(len(batches), place - dropped, given)
            most = self._clock.ask(limits.most, now).tolist()
            if held and not filling.add(costs, most):
                batches.append(order[held])
                filling.clear()
                held = []
                most = self._clock.ask(limits.most, moments.at(len(batches), place - dropped, given)).tolist()
            if not held:
                alone, allowed = np.array(costs)[:, None], np.array(most)
                name = partial(_called_at, called, place)
                if not len(within(alone, limits.kinds, allowed, self.batching.too_long, name)[0]):
                    dropped += 1
                    continue
                filling.add(costs, most)
            held.append(place)
            given += int(frames[place + 1] - frames[place])
        return of_lists([*batches, order[held]] if held else batches), {BEYOND: dropped}

    # ------------------------------------------------------------------------------------------------------ strata

    def _in_strata(self, ready: Prepared, number: int) -> tuple[Epoch, LeftOut]:
        batching, limits, seed = self.batching, ready.costs, self._seed
        data, left_out = self._sorted(ready, number)
        if not limits.constant:
            return self._in_strata_and_time(ready, data, number, left_out)
        allowed = limits.most(self.start(number))
        fits: npt.NDArray[np.bool_] = np.asarray((data.costs <= allowed[:, None]).all(0))
        alone = np.zeros(0, np.int64)
        if not fits.all():
            places = np.flatnonzero(~fits)
            called = ready.called(data.units, self.samples.called)
            kept, dropped = within(
                data.costs[:, places], limits.kinds, allowed, batching.too_long, lambda at: called(int(places[at]))
            )
            left_out[BEYOND] = len(dropped)
            alone, data = data.units[places[kept]], data.only(fits)
        # Of a part of the units there are as many strata as of all.
        several = round(ready.several(allowed) * len(data) / max(1, ready.table.number))
        return _repeated(Strata(data, allowed, several, seed, number, alone), batching.repeat), left_out

    def _in_strata_and_time(
        self, ready: Prepared, data: Sorted, number: int, left_out: LeftOut
    ) -> tuple[Epoch, LeftOut]:
        """The same for a budget that changes: that of a batch is what is allowed when it begins."""
        limits, times = ready.costs, self.batching.repeat
        moments, dropped = self._clock.moments(number, len(data) * times), list[int]()
        called = ready.called(np.arange(ready.table.number), self.samples.called)

        def most(batch: int, units: int, frames: int) -> Floats:
            return self._clock.ask(limits.most, moments.at(batch, units, frames))

        def leaves(unit: int, allowed: Floats) -> bool:
            cost = limits.values[:, unit : unit + 1]
            kept, _ = within(cost, limits.kinds, allowed, self.batching.too_long, lambda _: called(unit))
            dropped.extend([unit] * (not len(kept)))
            return not len(kept)

        epoch = in_time(data, most, leaves, self._seed, number, times)
        return epoch, {**left_out, BEYOND: len(dropped)}

    def _sorted(self, ready: Prepared, number: int) -> tuple[Sorted, LeftOut]:
        """The units of an epoch by length."""
        batching, data = self.batching, ready.sorted
        if not batching.divides and not batching.filters:
            return data, {}
        units = np.arange(ready.table.number)
        if batching.divides:
            whole = generator(self._seed, SUBEPOCH, self._passed(number)).permutation(ready.table.number)
            units = part(whole, number, batching.subepochs)
        kept, left_out = self._kept(ready.table, units, number)
        stay = np.zeros(ready.table.number, np.bool_)
        stay[units[kept]] = True
        return data.only(stay[data.units]), left_out

    # ----------------------------------------------------------------------------------------------------- filters

    def _kept(self, made: Table, order: Whole, number: int) -> tuple[Any, LeftOut]:
        """Which places of an order stay. Filters see samples, each once, those of this epoch alone."""
        filters = self.batching.filters
        if not filters:
            return slice(None), {}
        samples = made.samples_of(order)
        own = np.unique(samples)
        lengths = None if self.samples.lengths is None else self.samples.lengths.take(own)
        kept, counts = self._clock.ask(
            lambda progress: apply(filters, self.samples.named(own), lengths, progress, number, self._seed),
            self.start(number),
        )
        stay = np.zeros(self.samples.number, np.bool_)
        stay[own[kept]] = True
        return stay[samples], {f"samples by {name}": count for name, count in counts.items()}


def _check_strata(order: InStrata, batching: Batching, ready: Prepared) -> None:
    """Refuse what cannot be done with strata, which an order that is a function of the epoch may have become."""
    Units(ready.table.number, ready.table.lengths).sizes(order)
    if batching.buckets is not None or batching.pack or batching.drop_last or "padding" in ready.costs.kinds:
        raise SettingError(
            f"order={batching.order!r} is 'strata' in this epoch, which makes batches of alike lengths itself; pack, "
            "buckets, padding(...) and drop_last make others. Write 'pools:1000' there."
        )


def _repeated(epoch: Epoch, times: int) -> Epoch:
    return epoch if times == 1 else Repeated(epoch, times)


def _called_at(called: Callable[[int], str], start: int, place: int) -> str:
    return called(start + place)


def _even(order: Whole, ends: Whole, size: int, drop_last: bool) -> tuple[Cut, LeftOut]:
    rest = len(order) % size
    if not drop_last or not rest:
        return Cut(order, ends), {}
    return Cut(order, ends[:-1]), {"units that do not fill a batch": rest}


def _bucket_policy(too_long: str) -> str:
    return "error" if too_long == "error" else "drop"


def _strung(made: Table, order: Whole, size: int) -> tuple[Table, Cut, LeftOut]:
    """Frames of all units one after the other, cut at every so many."""
    lengths = made.lengths
    assert lengths is not None
    lead = lengths.lead[order]
    for name in lengths.names[1:]:
        if (lengths[name] != lengths.lead).any():
            raise DataError(
                f"pack='strung' cuts {lengths.names[0]!r} anywhere, and {name!r} has other lengths: it cannot be cut "
                "there. Write pack=True, which keeps samples whole."
            )
    pieces = strung(lead, size)
    units = order[pieces.units]
    begin = {name: starts[units] for name, (starts, _) in made.windows.items()}
    windows = {name: (begin.get(name, 0) + pieces.starts, begin.get(name, 0) + pieces.stops) for name in lengths.names}
    cut_lengths = Lengths(dict.fromkeys(lengths.names, pieces.stops - pieces.starts))
    new = Table(len(units), made.samples_of(units), windows, cut_lengths, made.left_out, made.lost)
    return new, Cut(np.arange(len(units)), pieces.offsets), {}
