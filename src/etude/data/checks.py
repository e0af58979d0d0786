"""What options of `Data` do not go together, said before anything is planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from etude.data.plan.arrangements import SideBySide
from etude.data.plan.batching import Batching
from etude.data.plan.buckets import Buckets
from etude.data.plan.budgets import costs, samples
from etude.data.plan.chunks import Chunk, cut_chunks
from etude.data.plan.limits import SampleLimit, StreamLimit
from etude.data.plan.strata import InStrata
from etude.data.stock import Stock
from etude.data.streaming import check_forward
from etude.errors import DataError, SettingError, nearest


def check(
    batching: Batching, made: Stock, packed: bool, pad: Any, collate: Any, buffer: int, skips: bool = False
) -> None:
    """Refuse what these data cannot follow, as far as that can be seen without planning an epoch.

    Args:
        batching: how samples become batches. made: the samples.
        packed: whether sequences follow one another. pad, collate, buffer: as `Data` takes them.
        skips: whether samples that cannot be read are left out.

    Raises:
        DataError, SettingError: saying what does not go together, and what to write instead.
    """
    found = (
        *_contradictions(batching, packed, collate is not None),
        *_packing(batching),
        *_side_by_side(batching, skips),
    )
    for said in found:
        raise SettingError(said)
    if isinstance(pad, Mapping) and made.names:
        unknown = [name for name in pad if name not in made.names]
        if unknown:
            raise DataError(
                f"pad={dict(pad)!r}: there is no part {unknown[0]!r}.{nearest(unknown[0], made.names)} A sample has "
                f"{', '.join(map(repr, made.names))}."
            )
    if made.forward:
        if batching.limits or batching.buckets is not None:
            check_forward(made.title, batching, bool(made.streams))
        return
    if buffer:
        raise SettingError(
            f"shuffle_buffer={buffer} is for what is read forward; {made.title} can be shuffled whole. Leave it out."
        )
    _check_lengths(batching, made)


def _contradictions(batching: Batching, packed: bool, collated: bool) -> Iterator[str]:
    """What was said twice, or would be passed over."""
    buckets, limits = batching.buckets, batching.limits
    counted = len(limits) == 1 and isinstance(limits[0], SampleLimit) and limits[0].constant
    if batching.drop_last and buckets is None and limits and not counted:
        yield (
            "drop_last=True: only with buckets, or with a batch_size alone that stays the same, is it known when a "
            "batch is full."
        )
    if batching.drop_last and isinstance(batching.order, InStrata):
        yield "drop_last=True: batches of order='strata' differ in size. Write order='pools:1000', or leave it out."
    order = batching.order
    if isinstance(order, SideBySide) and limits and limits != (samples(order.streams),):
        yield (
            f"{order!r} and {limits[0]!r}: every batch has one sample of each stream, or rows would not go on where "
            "those of the batch before ended. Leave batch_size and budget out."
        )
    if packed and buckets is not None:
        yield "pack and buckets: sequences that follow one another are not padded to a length. Leave one out."
    if isinstance(buckets, Buckets) and limits:
        yield f"{buckets!r} and {limits[0]!r}: buckets say themselves how many samples they hold. Leave one out."
    if isinstance(buckets, int) and not limits:
        yield f"buckets={buckets}: how large may a batch be? Write budget=20_000 besides."
    if collated and (packed or buckets is not None):
        yield "collate makes the batches itself: leave pack and buckets out."
    if collated and batching.chunk is not None:
        yield f"collate makes the batches of whole samples: leave chunk={batching.chunk!r} out, or collate."


def _side_by_side(batching: Batching, skips: bool) -> Iterator[str]:
    """What would make a row of a batch go on elsewhere than where that row of the batch before ended."""
    if not isinstance(batching.order, SideBySide):
        return
    asked = {
        "keep": (bool(batching.filters), "Leave samples out before: filtered(data, predicate)."),
        "subepochs": (batching.subepochs > 1, "Leave it out."),
        "shuffle_batches": (batching.blocks != 0, "Leave it out."),
        "unreadable='skip'": (skips, "Leave it out."),
        "select": (batching.selection is not None, "Leave it out."),
    }
    for name, (given, write) in asked.items():
        if given:
            yield f"{batching.order!r} and {name}: rows would not go on where those of the batch before ended. {write}"


def _packing(batching: Batching) -> Iterator[str]:
    """What cannot be packed so."""
    pack, limits = batching.pack, batching.limits
    if batching.pool is not None and pack != "first_fit":
        yield f"pool={batching.pool} is for pack='first_fit'. To shuffle and sort so many, write order='pools:1000'."
    if not pack:
        return
    others = [limit for limit in limits if not isinstance(limit, SampleLimit)]
    if len(others) != 1:
        yield f"pack={pack!r} fills batches up to a budget. Write budget=packed(20_000)."
    if not all(limit.constant for limit in limits):
        yield f"pack={pack!r} needs a budget that stays the same. Write a number instead of a schedule."
    if pack == "strung":
        if len(limits) > len(others):
            yield "pack='strung' cuts at a number of frames, whoever they belong to. Leave batch_size out."
        for each in others:
            if not isinstance(each, StreamLimit) or each.kind == "padding":
                yield f"pack='strung' cuts at a number of frames, not by {each!r}. Write budget=packed(20_000)."


def _check_lengths(batching: Batching, made: Stock) -> None:
    if batching.needs_lengths and made.lengths is None:
        part = made.names[0] if made.names else "audio"
        raise DataError(
            f"{_needing(batching)} needs lengths, and those of {made.title} are not known. Write lengths={part!r} if "
            f"that part is a sequence, or give {{{part!r}: array}} with a length for every sample."
        )
    few = None if made.lengths is None else made.lengths.take(np.arange(min(len(made.lengths), 16)))
    costs(batching.limits, few, 1)
    if isinstance(batching.chunk, Chunk) and few is not None:
        cut_chunks(batching.chunk, few.take(np.zeros(0, np.int64)))


def _needing(batching: Batching) -> str:
    """What it is that needs lengths."""
    parts: tuple[Any, ...] = (*batching.limits, batching.order, *batching.filters)
    needing = [each for each in parts if each.needs_lengths]
    said: Any = needing[0] if needing else batching.chunk or f"buckets={batching.buckets!r}"
    return said if isinstance(said, str) else repr(said)
