"""The results as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import batch_page
import checkpoints
from cells import many, marked, table
from optimizers import ASKED, CLASSES, LONG, OURS, POINTS, QUICK, RULES, SPARSE, through, title

Record: TypeAlias = Mapping[str, Any]
Timings: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The contenders of one comparison, by name."""

_HOW = """\
Written by `python bench --page`; `make bench` runs a shorter selection. The contenders of a comparison run in turn in
one process, on one thread, round after round; in each round every one makes several steps, of which the median counts.
Times are medians over the rounds, in microseconds a step; a ratio is the median of the ratios within the rounds, which
holds where the speed of a machine drifts. Ratios carry over to other machines better than times do. Gradients are there
before the clock starts; a step of étude includes looking whether they are new. **Bold**: what is asked is not reached.
"""

_OWN = """\
torch has a parameter group for each rate, étude a multiplier for each array. Asked of SGD, Adam and AdamW: with one
rate at most 0.35 of torch's fused form at 148 arrays; with 148 rates and more at most 0.2 of it, and at most 3 times
our own step with one rate. "One long array" is torch's fused form on a single array with as many numbers as all have
together: what passing over the numbers costs. "No kernel" is what a machine without a C compiler gets.
"""

_CLASSES = """\
Each class of torch in its default form (and three in their fused form) through `etude.Trainer`: microseconds, and the
ratio to the same class driven by hand with the same groups. Asked: at most 1.1.
"""

_OTHERS = """\
Rules that torch does not have, all in plain torch operations, with AdamW as a yardstick; microseconds.
"""

_SPARSE = """\
Four rows of 64 have a gradient, in torch's sparse layout; microseconds, and for SparseAdam through `etude.Trainer` the
ratio to torch's by hand.
"""

_CUDA = """\
Microseconds, waiting for the GPU included. Asked: at most 0.9 of torch's fused form with as many groups.
"""

_WHOLE = """\
Forward, backward and step of a transformer of 148 arrays (12 blocks of width 64, four windows of 16 tokens). "No
update" is forward and backward alone, and the ratio in the first two tables is to it; "148 rates" gives every array
its own.
"""

_CHECKPOINTS = """\
Milliseconds, and the ratio to the first line of the column; memory in MiB, at its peak, beyond the state itself and
including what is kept for the next save. Everybody writes a new file and syncs it. Asked of étude: that training stands
still for at most 1.2 of a copy of the state, and a tenth of torch.save; a durable commit with all digests in at most
1.3 of writing and syncing the same bytes; loading, with all digests compared, in at most 1.3 of reading and digesting.
"""

_REST = """\
Times of a step (of the import: of the whole) in microseconds; the ratio is to the contender named in the last column.
"""


def page(record: Record) -> str:
    """The whole page.

    Args:
        record: what `measure.written` wrote.
    """
    found = {name: {timing["name"]: timing for timing in timings} for name, timings in record["results"].items()}
    parts = ["# Benchmarks", _machine(record), _HOW.strip(), "## What the numbers say", *_said(found)]
    sections = (
        ("## Rules that are our own and torch's", _OWN, _own_rules(found)),
        ("## Classes of torch", _CLASSES, _through_etude(found)),
        ("## Other rules", _OTHERS, _other_rules(found)),
        ("## Sparse gradients", _SPARSE, _sparse_rules(found)),
        ("## AdamW on a GPU", _CUDA, _cuda(found)),
        ("## In a whole step", _WHOLE, _whole_steps(found)),
        ("## Checkpoints", _CHECKPOINTS, _checkpoints(found)),
        ("## Batches of sequences", batch_page.BATCHES, batch_page.batches(found)),
        ("## Loading", batch_page.LOADING, batch_page.loading_of(found)),
        ("## The loop, schedules, import", _REST, _rest(found)),
    )
    for head, text, tables in sections:
        made = list(tables)
        parts += [head, text.strip(), *made] if made else []
    return "\n\n".join(parts) + "\n"


def _machine(record: Record) -> str:
    on = f"{record['processor']} ({record['machine']}, {record['cores']} cores)"
    gpu = f", {record['gpu']}" if record["gpu"] else ""
    versions = f"torch {record['torch']}, Python {record['python']}"
    return f"{record['date']}, {on}{gpu}, {record['threads']} thread; {versions}; `{record['command']}`."


# ------------------------------------------------------------------------------------------------ what they say


def _said(found: Mapping[str, Timings]) -> Iterator[str]:
    """What the numbers say: a list of what was asked and what was found."""
    lines = [*_said_of_own(found), *_said_of_classes(found), *_said_of_others(found), *_said_of_whole(found)]
    lines += [*_said_of_cuda(found), *_said_of_checkpoints(found), *batch_page.said(found)]
    yield "\n".join(f"- {line}" for line in lines)


def _said_of_own(found: Mapping[str, Timings]) -> Iterator[str]:
    bounds = list(_bounds(found, [title(rule, *point) for rule in OURS for point in POINTS]))
    for text, most, of in (
        ("One rate, 148 arrays, beside torch's fused form", 0.35, "torch, fused"),
        ("148 rates and more, beside torch's fused form with as many groups", 0.2, "torch, fused"),
        ("The same beside our own step with one rate", 3.0, "étude, one rate"),
    ):
        ratios = [bound["ratio"] for _, bound in bounds if (bound["at_most"], bound["of"]) == (most, of)]
        if ratios:
            yield f"{text}: {_range(ratios)}; asked is at most {most:g}: {_verdict(ratios, most)}."
    floors = [found[title(rule, 148, 1)][LONG]["ratio"] for rule in ASKED if title(rule, 148, 1) in found]
    if floors:
        yield (
            f"Torch's fused form on one array as long as the 148 together takes {_range(floors)} of its time on them: "
            "passing over the numbers costs that much here, however many arrays they are in."
        )


def _said_of_classes(found: Mapping[str, Timings]) -> Iterator[str]:
    for text, forms in (("Classes of torch in their default form", CLASSES), ("In their fused form", QUICK)):
        said = []
        for count in sorted({count for count, _ in POINTS}):
            names = [title("Classes of torch", *point) for point in POINTS if point[0] == count]
            ratios = [bound["ratio"] for name, bound in _bounds(found, names) if _class_of(name) in forms]
            if ratios:
                said.append(f"{many(count)} arrays {_range(ratios)}, {_verdict(ratios, 1.1)}")
        if said:
            yield f"{text}, beside the same by hand; asked is at most 1.1: {'; '.join(said)}."
    bounds = list(_bounds(found, ["Whole step: classes of torch"]))
    if bounds:
        ratios = [bound["ratio"] for _, bound in bounds]
        over = [_class_of(name) for name, bound in bounds if bound["ratio"] > bound["at_most"]]
        named = f" (not: {', '.join(over)})" if over else ""
        yield f"In a whole step, in either form: {_range(ratios)}, {_verdict(ratios, 1.1)}{named}."


def _class_of(name: str) -> str:
    return name.removeprefix(through(""))


def _said_of_others(found: Mapping[str, Timings]) -> Iterator[str]:
    for rates in (1, 148):
        timings = found.get(title("Other rules", 148, rates))
        if timings:
            yardstick = timings["AdamW, torch, for-loop"]["median"]
            rules = {name: timings[through(name)]["median"] / yardstick for name in RULES}
            slowest = max(rules, key=lambda name: rules[name])
            rate = "rate" if rates == 1 else "rates"
            yield (
                f"Rules that torch does not have, 148 arrays, {rates} {rate}: {_range(rules.values())} times torch's "
                f"AdamW as a loop over the arrays; the slowest is {slowest}."
            )


def _said_of_whole(found: Mapping[str, Timings]) -> Iterator[str]:
    timings = found.get("Whole step: AdamW")
    if timings:
        shares = {
            text: timings[name]["ratio"] - 1
            for text, name in (
                ("as torch has it by default", "torch, for-loop"),
                ("fused", "torch, fused"),
                ("fused with 148 groups", "torch, fused, 148 rates"),
                ("étude", "étude"),
                ("étude with 148 rates", "étude, 148 rates"),
            )
        }
        listed = ", ".join(f"{text} {share:.0%}" for text, share in shares.items())
        yield f"In a whole step of a small transformer AdamW adds to forward and backward: {listed}."


def _said_of_cuda(found: Mapping[str, Timings]) -> Iterator[str]:
    ratios = [bound["ratio"] for _, bound in _bounds(found, [title("AdamW on CUDA", *point) for point in POINTS])]
    if ratios:
        yield f"AdamW on a GPU beside torch's fused form: {_range(ratios)}; asked is 0.9: {_verdict(ratios, 0.9)}."


def _said_of_checkpoints(found: Mapping[str, Timings]) -> Iterator[str]:
    for text, what, of, most in (
        ("Training stands still for a save, beside one copy of the state", checkpoints.STILL, checkpoints.COPY, 1.2),
        ("The same beside torch.save with fsync", checkpoints.STILL, checkpoints.TORCH, 0.1),
        ("A durable commit with digests, beside the same bytes", checkpoints.COMMIT, checkpoints.WRITE, 1.3),
        ("Loading, beside reading and digesting", checkpoints.LOAD, checkpoints.READ, 1.3),
    ):
        said = []
        for size in (*checkpoints.SIZES, *checkpoints.SMALL):
            bounds = [bound for _, bound in _bounds(found, [checkpoints.title(what, size)]) if bound["of"] == of]
            said += [f"{size} {_range([bound['ratio']])}, {_verdict([bound['ratio']], most)}" for bound in bounds]
        if said:
            yield f"{text}; asked is at most {most:g}: {'; '.join(said)}."


def _bounds(found: Mapping[str, Timings], names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in names:
        for timing in found.get(name, {}).values():
            yield from ((timing["name"], bound) for bound in timing["bounds"])


def _range(ratios: Any) -> str:
    low, high = min(ratios), max(ratios)
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def _verdict(ratios: Sequence[float], most: float) -> str:
    reached = sum(ratio <= most for ratio in ratios)
    if reached == len(ratios):
        return "reached" if reached == 1 else f"reached in all {reached} cases"
    return f"reached in {reached} of {len(ratios)} cases" if reached else "not reached"


# ---------------------------------------------------------------------------------------------------- the tables


def _own_rules(found: Mapping[str, Timings]) -> Iterator[str]:
    head = ("arrays", "rates", "for-loop", "foreach", "fused", "one long array", "étude", "no kernel", "étude/fused")
    head = (*head, "étude/one rate")
    for rule in OURS:
        rows = [_own_row(point, found[title(rule, *point)], head) for point in POINTS if title(rule, *point) in found]
        if rows:
            yield f"### {rule}"
            yield table(head, rows)


def _own_row(point: tuple[int, int], timings: Timings, head: Sequence[str]) -> list[str]:
    forms = ("torch, for-loop", "torch, foreach", "torch, fused", LONG, "étude", "étude, no kernel")
    ours, one = timings["étude"], timings.get("étude, one rate")
    most = {bound["of"]: bound for bound in ours["bounds"]}
    beside = marked(ours["ratio"], most.get("torch, fused"))
    if "étude, one rate" in most:
        last = marked(most["étude, one rate"]["ratio"], most["étude, one rate"])
    else:
        last = f"{ours['median'] / one['median']:.2f}" if one else ""
    return [
        *map(many, point),
        *(many(timings[form]["median"]) if form in timings else "" for form in forms),
        beside,
        last,
    ]


def _through_etude(found: Mapping[str, Timings]) -> Iterator[str]:
    yield from _grid(found, "Classes of torch", (*CLASSES, *QUICK), through)


def _other_rules(found: Mapping[str, Timings]) -> Iterator[str]:
    rows = ["AdamW, torch, fused", "AdamW, torch, foreach", "AdamW, torch, for-loop", "étude: adamw"]
    yield from _grid(found, "Other rules", (*rows, *map(through, RULES)), str)


def _sparse_rules(found: Mapping[str, Timings]) -> Iterator[str]:
    yield from _grid(found, "Sparse gradients", ("SparseAdam", *map(through, ("SparseAdam", *SPARSE))), str)


def _cuda(found: Mapping[str, Timings]) -> Iterator[str]:
    yield from _grid(found, "AdamW on CUDA", ("torch, fused", "torch, foreach", "étude"), str)


def _grid(found: Mapping[str, Timings], what: str, rows: Sequence[str], name_of: Any) -> Iterator[str]:
    """A row for each contender, a column for each number of arrays and rates."""
    points = [point for point in POINTS if title(what, *point) in found]
    if not points:
        return
    cells = []
    for row in rows:
        timings = [found[title(what, *point)].get(name_of(row)) for point in points]
        if any(timings):
            cells.append(
                [
                    row if _class_of(row) in rows else _class_of(row),
                    *(_cell(timing) if timing else "" for timing in timings),
                ]
            )
    yield table(("arrays, rates", *(f"{many(count)}, {many(rates)}" for count, rates in points)), cells)


def _cell(timing: Mapping[str, Any]) -> str:
    bounds = timing["bounds"]
    return many(timing["median"]) + (f" · {marked(timing['ratio'], bounds[0])}" if bounds else "")


def _beside(timing: Mapping[str, Any]) -> str:
    """A time, and its ratio to what it stands beside."""
    return f"{many(timing['median'])} · {timing['ratio']:.2f}"


def _whole_steps(found: Mapping[str, Timings]) -> Iterator[str]:
    whole = [f"Whole step: {rule}" for rule in OURS if f"Whole step: {rule}" in found]
    if whole:
        names = list(dict.fromkeys(name for title in whole for name in found[title]))
        rows = [[name, *(_beside(found[title][name]) for title in whole)] for name in names]
        yield table(("µs a step", *(title.removeprefix("Whole step: ") for title in whole)), rows)
    if "Whole step: other rules" in found:
        timings = found["Whole step: other rules"]
        rows = [["no update", _beside(timings["no update"]), ""]]
        for name in RULES:
            both = (timings[through(name)], timings[f"{through(name)}, 148 rates"])
            rows.append([name, *map(_beside, both)])
        yield table(("µs a step", "1 rate", "148 rates"), rows)
    if "Whole step: classes of torch" in found:
        timings = found["Whole step: classes of torch"]
        names = [name for name in timings if through(name) in timings]
        rows = [[name, many(timings[name]["median"]), _cell(timings[through(name)])] for name in names]
        yield table(("µs a step", "by hand", "étude · ratio"), rows)


def _checkpoints(found: Mapping[str, Timings]) -> Iterator[str]:
    for size in checkpoints.SIZES:
        columns = [found.get(checkpoints.title(what, size), {}) for what in _SAVING]
        if any(columns):
            yield f"### A state of {size}"
            names = dict.fromkeys(name for column in columns for name in column)
            rows = [[name, *(_in_ms(column.get(name)) for column in columns)] for name in names]
            yield table(("", *_SAVING), rows)
    for what, sizes in ((checkpoints.COMMIT, checkpoints.SMALL), (checkpoints.LOAD, checkpoints.SIZES)):
        columns = [found.get(checkpoints.title(what, size), {}) for size in sizes]
        if any(columns):
            yield f"### {what[0].upper()}{what[1:]}"
            names = dict.fromkeys(name for column in columns for name in column)
            rows = [[name, *(_in_ms(column.get(name)) for column in columns)] for name in names]
            yield table(("", *sizes), rows)


_SAVING = (checkpoints.STILL, checkpoints.DURABLE, checkpoints.MEMORY)


def _in_ms(timing: Mapping[str, Any] | None) -> str:
    """A time and its ratio, bold where less was asked; or memory."""
    if timing is None:
        return ""
    if timing["unit"] == "MiB":
        return f"{many(timing['median'])} · {timing['ratio']:.2f}"
    bounds = {bound["of"]: bound for bound in timing["bounds"]}
    also = [f" ({marked(bound['ratio'], bound)} of {of})" for of, bound in bounds.items() if of != timing["of"]]
    return f"{timing['median'] / 1000:,.1f} · {marked(timing['ratio'], bounds.get(timing['of']))}{''.join(also)}"


def _rest(found: Mapping[str, Timings]) -> Iterator[str]:
    for name, timings in found.items():
        if not any(name.startswith(known) for known in _KNOWN):
            yield f"### {name[0].upper()}{name[1:]}"
            rows = [
                [who, many(t["median"]), many(t["least"]), marked(t["ratio"], *t["bounds"]), _asked(t)]
                for who, t in timings.items()
            ]
            yield table(("", "median", "least", "ratio", "beside"), rows)


_KNOWN = (
    "Checkpoint of ",
    "Batches of ",
    "Loading ",
    *(
        f"{what}: "
        for what in ("Whole step", "Classes of torch", "Other rules", "Sparse gradients", "AdamW on CUDA", *OURS)
    ),
)


def _asked(timing: Mapping[str, Any]) -> str:
    asked = "; ".join(f"asked: at most {bound['at_most']:g}" for bound in timing["bounds"])
    return f"{timing['of']} ({asked})" if asked else str(timing["of"])
