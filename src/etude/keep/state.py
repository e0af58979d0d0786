"""What a checkpoint of a run holds: one list, and its version.

Tensors stand in the file under names of their own; all else is one record of plain values in the file's header. The
record says by name which arrays belong to what, so nothing is found by its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from etude._version import __version__
from etude.errors import CheckpointError, nearest
from etude.keep.header import short
from etude.keep.names import is_run
from etude.step.states import is_clock, is_count, is_names

FORMAT = 2
"""Rises when a field is added, goes, or means something else. What older ones lack is made up for in `upgraded`."""

RUN, LOOP, WEIGHTS = "run", "loop", "weights"
"""Kinds of files: the state of a run, that of a hand-written loop, and a net alone."""


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of the record: its name, what it holds, and whether a value may be that."""

    name: str
    what: str
    fits: Callable[[Any], bool]


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_memory(value: Any) -> bool:
    """Whether it may be what a condition remembers: numbers, nothing, and lists of such."""
    if isinstance(value, Mapping):
        return "~" in value
    if isinstance(value, list):
        return all(map(_is_memory, value))
    return value is None or isinstance(value, bool) or _is_number(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(own, str) for own in value.values())


def _is_facts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(own, str) or _is_texts(own) for own in value.values())


def _is_saves(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_save, value))


def _is_save(value: Any) -> bool:
    if not isinstance(value, Mapping) or set(value) != {"kind", "path", "last", "best", "step", "number"}:
        return False
    numbers = all(value[key] is None or _is_number(value[key]) for key in ("last", "best"))
    counts = isinstance(value["step"], int) and is_count(value["number"])
    return numbers and counts and _is_text(value["kind"]) and _is_text(value["path"])


def _is_best(value: Any) -> bool:
    always = {"score", "progress", "waiting", "judged", "last", "arrays"}
    # Older files have neither tables nor knobs, nor looks that failed, nor what looks were cut into.
    if not isinstance(value, Mapping) or set(value) - {"owed", "tables", "knobs", "split"} != always:
        return False
    numbers = all(value[key] is None or _is_any_number(value[key]) for key in ("score", "judged", "last"))
    counts = is_count(value["waiting"]) and is_count(value.get("split", 0))
    return numbers and counts and (value["progress"] is None or _is_moment(value["progress"]))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_cursor(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"epoch", "batch"} and all(map(is_count, value.values()))


def _is_sums(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_pair, value.values()))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_any_number, value))


def _is_any_number(value: Any) -> bool:
    """Whether it is a number, be it one that JSON does not have."""
    return _is_number(value) or (isinstance(value, Mapping) and value.get("~") == "float")


def _is_moment(value: Any) -> bool:
    return (
        is_clock(value) and is_count(value["step"]) and all(value[unit] >= 0 for unit in ("epoch", "samples", "tokens"))
    )


def _is_net(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(
        is_names(value.get(key)) for key in ("arrays", "buffers", "parameters", "frozen", "still")
    ):
        return False
    ties = value.get("ties")
    return isinstance(ties, list) and all(map(is_names, ties)) and isinstance(value.get("extra"), Mapping)


def _is_run(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"start", "counter"} and is_run(**value)


STATE = (
    Field("run", "start time (UTC) and counter of the run: {start, counter}", _is_run),
    Field("progress", "the clock: step, epoch, samples, tokens", _is_moment),
    Field("before", "the clock before the last step that was made", _is_moment),
    Field("cursor", "the next batch: epoch, batch", _is_cursor),
    Field("data", "generators that loaders of the user brought along, as they were when the epoch began", _is_mapping),
    Field("seconds", "time the run has taken, over all processes", _is_number),
    Field("seed", "of the data order, of dropout and of noise; all chance follows from it and the clock", is_count),
    Field(
        "net",
        "names of arrays, of hidden buffers, of what is frozen or in evaluation; ties, extra state",
        _is_net,
    ),
    Field("updates", "of each update: optimizer, memory of arrays and schedules, loss scale, turn", _is_mapping),
    Field("averages", "how often each average has taken the arrays, and what its schedules remember", _is_mapping),
    Field("best", "the best score, when it was reached, and the looks since then", _is_best),
    Field("knobs", "the value of each knob in the last step, and what listening ones remember", _is_mapping),
    Field("stop", "what the conditions for stopping remember", _is_memory),
    Field(
        "roll_back", "where a run that rolls back would go to: clocks, counts, names; {} where none does", _is_mapping
    ),
    Field("means", "sum and count of each loss term in the epoch in progress", _is_sums),
    Field("history", "names of the series; their numbers are tensors", is_names),
    Field("losses", "the last epoch's loss and the last validation loss", _is_mapping),
    Field("scores", "what was measured at this very step, by name of the series", _is_mapping),
    Field("saves", "of each destination: when it saved last, at which step, its best, and how often", _is_saves),
    Field("files", "paths of the single files that the run had written; those of a folder are found there", is_names),
    Field("plan", "what file and program must agree in: options, net, data, settings of arrays", _is_facts),
    Field("machine", "device, threads and versions: what bits may depend on besides", _is_texts),
    Field("ended", 'why the run ended ("finished", "patience", ...); "" while it goes on', _is_text),
)
"""Everything that a run needs to go on, besides the tensors."""

PREFIXES = {
    "": "arrays of the net, as in its state_dict; arrays that are shared once",
    "buffer:": "buffers that a state_dict leaves out",
    "optimizer:": "memory of the optimizers: optimizer:<update>:<array>:<memory>",
    "average:": "averages: average:<name>:<array>",
    "best:": "arrays of the net at its best, where validation data were looked at: best:<array>",
    "roll_back:": "arrays and memory that a run that rolls back would go to: roll_back:<update or average>:<array>",
    "history:": "series of the history: history:<series>:<steps, epochs or values>",
    "state:": "tensors inside other entries",
}
"""What the names of tensors begin with."""


def stamped(record: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A record with its kind, its format, and the version that wrote it."""
    return {"kind": kind, "format": FORMAT, "version": __version__, **record}


def checked(record: Mapping[str, Any], path: str, kind: str) -> dict[str, Any]:
    """A record of this kind, brought to the present format.

    Raises:
        CheckpointError: it is of another kind, of a format that is not known here, or lacks a field; every field that
            is missing, unknown or of the wrong form is named.
    """
    found = record.get("kind")
    if found != kind:
        said = _KINDS.get(str(found), f"a file of kind {short(found)}")
        raise CheckpointError(path, _KINDS[kind], said, damaged=False)
    version, wrote = record.get("format"), record.get("version")
    if type(version) is not int or not 1 <= version <= FORMAT:
        expected = f"format {FORMAT} or an earlier one"
        said = f"format {short(version)}, written by étude {short(wrote)}"
        raise CheckpointError(path, expected, said, damaged=False)
    made = upgraded(record)
    faults = _faults(made) if kind == RUN else []
    if faults:
        raise CheckpointError(path, f"the state of a run in format {FORMAT}", "; ".join(faults), damaged=False)
    return made


def upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of any known format as one of the present.

    Format 1 knew no knobs, no conditions for stopping and no rolling back.
    """
    added: dict[str, Any] = {"knobs": {}, "stop": None, "roll_back": {}} if _is_run_of(record, 1) else {}
    return added | {key: value for key, value in record.items() if key not in ("kind", "format", "version")}


def _is_run_of(record: Mapping[str, Any], version: int) -> bool:
    return record.get("kind") == RUN and record.get("format") == version


def _faults(record: Mapping[str, Any]) -> list[str]:
    names = [field.name for field in STATE]
    found = [f"no field {name!r}" for name in names if name not in record]
    found += [f"an unknown field {name!r}.{nearest(name, names)}" for name in record if name not in names]
    wrong = [field for field in STATE if field.name in record and not field.fits(record[field.name])]
    return found + [f"{field.name!r} is not: {field.what}" for field in wrong]


_KINDS = {
    RUN: "the state of a run",
    LOOP: "the state of a hand-written loop (etude.Checkpoints)",
    WEIGHTS: "the arrays of a net (Result.save)",
}
