"""What is known of data before anything of them is read, as plain values and as a page of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, Final

import numpy as np

from etude.data.arrays import Arrays
from etude.data.assembled import Assembled
from etude.data.flow import Flow
from etude.data.plan.batching import Batching
from etude.data.plan.lengths import Whole
from etude.data.report import Report, columns, counted

Plain = dict[str, Any]

_QUANTILES: Final = {"tenth": 0.1, "median": 0.5, "ninetieth": 0.9}
_TITLES: Final = ("least", "10%", "median", "90%", "most", "total")


def account(flow: Flow, epochs: int) -> Plain:
    """What is known, as JSON holds it.

    Args:
        flow: reads the data. epochs: of how many, from the first on, the batches are planned.

    Returns:
        "title", "said" (the options of `Data`, else ""), "samples" (None where unknown), "parts" (of a sample, with
        type and shape where they are in memory), "lengths" (of each stream: least, tenth, median, ninetieth, most,
        total), "batching" (what was said of it, by name), "random_access", "reading" (what a place in an epoch costs)
        and "epochs" (of each its batches, samples, fill, shapes, streams, left_out and lost).
    """
    source = flow.source
    whole = source if isinstance(source, Assembled) else None
    made: Plain = {
        "title": source.title,
        "said": "" if whole is None else whole.said,
        "samples": source.length,
        "parts": _parts(flow),
        "lengths": _lengths(whole),
        "batching": _batching(flow),
        "random_access": source.random_access,
        "reading": _reading(flow),
    }
    if flow.planned:
        made["epochs"] = [_epoch(flow.report(epoch)) for epoch in range(epochs)]
    elif flow.batches_per_epoch is not None:
        one = {"batches": flow.batches_per_epoch, "samples": flow.samples}
        made["epochs"] = [{"epoch": epoch, **one} for epoch in range(epochs)]
    else:
        made["epochs"] = []
    return made


def _parts(flow: Flow) -> dict[str, str]:
    if isinstance(flow.source, Arrays):
        pairs = zip(flow.source.names, flow.source.arrays, strict=True)
        return {name: f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape[1:])}" for name, array in pairs}
    return dict.fromkeys(flow.source.names, "")


def _lengths(source: Assembled | None) -> dict[str, Plain]:
    if source is None or source.stock.forward:
        return {}
    lengths = source.samples().lengths
    return {} if lengths is None else {name: _spread(lengths[name]) for name in lengths.names}


def _spread(lengths: Whole) -> Plain:
    found = np.quantile(lengths, list(_QUANTILES.values()), method="nearest").tolist()
    between = dict(zip(_QUANTILES, map(int, found), strict=True))
    return {"least": int(lengths.min()), **between, "most": int(lengths.max()), "total": int(lengths.sum())}


def _batching(flow: Flow) -> dict[str, str]:
    """What was said, or chosen, of how samples become batches."""
    if flow.batching is not None:
        return dict(_said(flow.batching, isinstance(flow.source, Assembled) and flow.source.packed))
    told = {"order": "random()" if flow.shuffle else "in_order()" if flow.source.random_access else "as they come"}
    if flow.batch_size is not None:
        told["budget"] = f"samples({flow.batch_size})"
    return told


def _said(batching: Batching, packed: bool) -> Iterator[tuple[str, str]]:
    yield "order", repr(batching.order)
    if batching.limits:
        yield "budget", ", ".join(map(repr, batching.limits))
    for name, value, silent in (
        ("buckets", batching.buckets, None),
        ("select", batching.selection, None),
        ("chunk", batching.chunk, None),
        ("pack", batching.pack or packed, False),
        ("subepochs", batching.subepochs, 1),
        ("repeat", batching.repeat, 1),
        ("shuffle_batches", True if batching.blocks is None else batching.blocks, 0),
        ("too_long", batching.too_long, "alone"),
        ("drop_last", batching.drop_last, False),
    ):
        if value != silent:
            yield name, repr(value)
    if batching.filters:
        yield "keep", ", ".join(map(repr, batching.filters))


def _reading(flow: Flow) -> str:
    """What it costs to find a place in an epoch."""
    if not flow.source.random_access:
        return "forward only: a batch in the middle of an epoch is found by reading all that comes before it"
    return "any batch of any epoch is found at once, nothing before it is read"


def _epoch(report: Report | None) -> Plain:
    assert report is not None
    streams = {
        name: {"frames": frames, "with_padding": report.cells[name], "padding": report.padding_of(name)}
        for name, frames in report.frames.items()
    }
    fill = report.fill if isfinite(report.fill) else None
    found: Plain = {"epoch": report.epoch, "batches": report.batches, "samples": report.samples, "fill": fill}
    return found | {
        "shapes": report.shapes,
        "streams": streams,
        "left_out": dict(report.left_out),
        "lost": dict(report.lost),
    }


# ------------------------------------------------------------------------------------------------------------ as text


def page(title: str, told: Plain) -> str:
    """What `account` gave, as text under a title."""
    number = "an unknown number of samples" if told["samples"] is None else counted(told["samples"], "sample")
    lines = [f"{title}: {told['title']}, {number}", *_about(told)]
    if told["lengths"]:
        lines += ["", *_length_rows(told["lengths"])]
    if told["epochs"]:
        lines += ["", *_epoch_rows(told["epochs"]), *_missing(told["epochs"])]
    else:
        lines.append("  batches          not known before they are read")
    return "\n".join(lines)


def _about(told: Plain) -> Iterator[str]:
    parts = ", ".join(f"{name} {what}".rstrip() for name, what in told["parts"].items())
    rows = {"parts": parts, **told["batching"], "reading": told["reading"]}
    for name, value in rows.items():
        if value:
            yield f"  {name:<15}  {value}"


def _length_rows(lengths: Mapping[str, Plain]) -> list[str]:
    rows = [[name, *(f"{value:,}" for value in spread.values())] for name, spread in lengths.items()]
    return columns([["length", *_TITLES], *rows])


def _epoch_rows(epochs: Sequence[Plain]) -> list[str]:
    """A row for each epoch."""
    streams = list(epochs[0].get("streams", {}))
    wide = "fill" in epochs[0]
    titles = ["epoch", "batches", "samples", *(["full", "shapes"] if wide else [])]
    titles += [f"padding of {name}" for name in streams] + (["left out"] if wide else [])
    rows = []
    for told in epochs:
        row = [str(told["epoch"] + 1), f"{told['batches']:,}", _number(told["samples"])]
        if wide:
            row += [f"{told['fill']:.1%}", f"{told['shapes']:,}"]
            row += [f"{told['streams'][name]['padding']:.2%}" for name in streams]
            row.append(f"{sum(told['left_out'].values()):,}")
        rows.append(row)
    return columns([titles, *rows])


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _missing(epochs: Sequence[Plain]) -> Iterator[str]:
    """What is in no batch, epoch by epoch; epochs that are alike are told once."""
    before: list[str] = []
    for told in epochs:
        here = [f"{count:,} {reason}" for reason, count in told.get("left_out", {}).items()]
        here += [f"{count:,} frames of {name} in no chunk" for name, count in told.get("lost", {}).items()]
        if here and here != before:
            yield f"  left out in epoch {told['epoch'] + 1}: {', '.join(here)}"
        before = here
