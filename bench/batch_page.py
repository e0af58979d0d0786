"""Batches of sequences on the page of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import batching
import loading
from cells import many, marked, table

Timings: TypeAlias = Mapping[str, Mapping[str, Any]]

BATCHES = f"""\
Lengths of which the logarithm is normal: speech-like, {batching.SPEECH.median:g} frames in the middle, and text-like,
{batching.TEXT.median:g} tokens, with budgets of {batching.SPEECH.budget:,} and {batching.TEXT.budget:,} padded frames.
Of packed batches the padding is what stays empty of the budget. The first batch and the plan of an epoch are timed
from the lengths on (of lhotse from its cuts on), in milliseconds; a seek goes to the middle of an epoch that nobody has
asked for yet. "Neighbours" is the correlation of the mean lengths of batches that follow one another, and "again" how
many of the pairs of samples that share a batch shared one in the epoch before. Hugging Face's sampler knows no budget:
its batches have as many samples as fit at mean length, so that the largest are beyond the budget. Asked of étude on a
million lengths: at most {batching.SPEECH.asked:g} % padding (text-like {batching.TEXT.asked:g} %), a plan in 0.4 s and
a seek in 10 ms. **Bold**: not reached.
"""

LOADING = """\
µs for a batch, and the ratio to the DataLoader with as many workers. The batches are the same, those of étude; the
DataLoader gets them as lists and pads with torch's `pad_sequence`. "One copy" copies the frames of a batch to new
memory and does nothing else: with wide frames that is most of the time for everybody. In memory and in mapped files
étude needs no workers. Item by item it reads a data set as a DataLoader does, and draws the chance in every item from
a seed of its own. Asked of étude in memory and in mapped files: at most a third. **Bold**: not reached.
"""

_SHARES = (batching.PADDING, batching.NEIGHBOURS, batching.AGAIN)
_TIMES = (batching.FIRST, batching.WHOLE, batching.SEEK)
_COLUMNS = (batching.PADDING, batching.NUMBER, *_TIMES, batching.NEIGHBOURS, batching.AGAIN)
_HEADS = ("", "% padding", "batches", "first, ms", "plan, ms", "seek, ms", "neighbours", "% again")


def batches(found: Mapping[str, Timings]) -> Iterator[str]:
    """A table for each kind and number of lengths: a row for each who makes batches."""
    for kind in batching.KINDS:
        for size in batching.SIZES:
            columns = {what: found.get(batching.title(what, kind, size), {}) for what in _COLUMNS}
            names = [name for name in columns[batching.PADDING] if name != batching.ASKED]
            if names:
                yield f"### {size} {kind} lengths"
                yield table(_HEADS, [[name, *(_cell(what, columns[what][name]) for what in columns)] for name in names])


def _cell(what: str, timing: Mapping[str, Any]) -> str:
    if what == batching.NUMBER:
        return many(timing["median"])
    digits = {batching.AGAIN: ".1f"}.get(what, ".2f" if what in _SHARES else ",.1f")
    said = format(timing["median"] / (1 if what in _SHARES else 1000), digits)
    missed = any(bound["ratio"] > bound["at_most"] for bound in timing["bounds"])
    return f"**{said}**" if missed else said


def loading_of(found: Mapping[str, Timings]) -> Iterator[str]:
    """A table for data in memory, in mapped files, and item by item: a row for each kind of batch."""
    for where in (loading.MEMORY, loading.MAPPED, loading.ITEMS):
        titles = {case.kind.name: loading.title(case, where) for case in loading.CASES}
        rows = {name: found[title] for name, title in titles.items() if title in found}
        if where == loading.MAPPED and loading.ROWS in found:
            rows["64 rows of 64 numbers"] = found[loading.ROWS]
        if rows:
            names = list(next(iter(rows.values())))
            yield f"### {where[0].upper()}{where[1:]}"
            yield table(
                ("a batch of", *names),
                [[row, *(_beside(name, timings.get(name)) for name in names)] for row, timings in rows.items()],
            )


def _beside(name: str, timing: Mapping[str, Any] | None) -> str:
    """A time, and its ratio to what it stands beside."""
    if timing is None:
        return ""
    ratio = "" if timing["of"] == name else f" · {marked(timing['ratio'], *timing['bounds'])}"
    return many(timing["median"]) + ratio


def said(found: Mapping[str, Timings]) -> Iterator[str]:
    """What was asked, and what was found."""
    for kind in batching.KINDS:
        size = list(batching.SIZES)[-1]
        columns = [found.get(batching.title(what, kind, size), {}).get(batching.OURS) for what in _COLUMNS]
        if all(columns):
            own = {what: timing["median"] for what, timing in zip(_COLUMNS, columns, strict=True) if timing}
            yield (
                f"A million {kind} lengths: {own[batching.PADDING]:.2f} % padding, planned in "
                f"{own[batching.WHOLE] / 1000:.0f} ms, a seek in {own[batching.SEEK] / 1000:.1f} ms; asked are "
                f"{batching.KINDS[kind].asked:g} %, 400 ms and 10 ms."
            )
    for where in (loading.MEMORY, loading.MAPPED):
        titles = [loading.title(case, where) for case in loading.CASES]
        ratios = [found[title][loading.OURS]["ratio"] for title in titles if title in found]
        if ratios:
            reached = sum(ratio <= 1 / 3 for ratio in ratios)
            yield (
                f"Loading {where}, beside a DataLoader: {min(ratios):.2f} to {max(ratios):.2f} of its time; asked is "
                f"at most a third: reached in {reached} of {len(ratios)} cases."
            )
