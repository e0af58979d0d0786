"""The learning-rate file of RETURNN, read without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, nan
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from etude.arguments import named
from etude.errors import DataError, nearest
from etude.returnn.lines import by_epoch, is_number
from etude.values.schedule import Schedule

_META = ":meta:"
_OLD_SCORE = "old_format_score"


@final
@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What a learning-rate file says of an epoch.

    Attributes:
        rate: the learning rate; scores: by name, NaN and infinities as they were; meta: whatever else was noted (step
            numbers, device, times), by name without ":meta:".
    """

    rate: float
    scores: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class RateFile:
    """A learning-rate file of RETURNN; made by `rate_file`.

    Attributes:
        epochs: a record for each epoch of the file, by number from 1, in order. Epochs that were preset and never
            reached are there too, without scores.
    """

    epochs: Mapping[int, EpochRecord]

    @property
    def rates(self) -> dict[int, float]:
        """The learning rate of each epoch."""
        return {epoch: record.rate for epoch, record in self.epochs.items()}

    @property
    def scores(self) -> dict[int, Mapping[str, float]]:
        """The scores of each epoch that has some."""
        return {epoch: record.scores for epoch, record in self.epochs.items() if record.scores}

    @property
    def meta(self) -> dict[int, Mapping[str, Any]]:
        """What else was noted of each epoch, where something was."""
        return {epoch: record.meta for epoch, record in self.epochs.items() if record.meta}

    def schedule(self) -> Schedule:
        """The rates as a schedule; an epoch that is not in the file has that of the one before, also after the last.

        Raises:
            DataError: there is no epoch in the file.
        """
        if not self.epochs:
            raise DataError("There is no epoch in this learning-rate file, so there is no schedule of its rates.")
        return by_epoch(self.rates)


@named
def rate_file(path: str | Path) -> RateFile:
    """Read a learning-rate file of RETURNN (`learning_rate_file`).

    It is a Python expression, `{1: EpochData(learningRate=0.001, error={"dev_loss_ce": 3.5, ":meta:device": "cpu"})}`;
    older files have a bare number for the scores ("old_format_score" here), or for the whole epoch. Its syntax tree is
    read, and nothing in it is run.

    Raises:
        DataError: it cannot be read, or something in it is none of that; the line is named.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: the learning-rate file cannot be read: {error}.") from error
    try:
        # Lines keep their numbers; what stands before the expression on the first one is no indentation.
        tree = ast.parse(text.lstrip(" \t") if text.strip() else "{}", mode="eval")
        return RateFile(_FileReader(str(path)).epochs(tree.body))
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        what = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise DataError(f"{path}{where}: no learning-rate file of RETURNN: {what}. {_EXPECTED}") from error


_EXPECTED = "Expected is a dict from epochs to EpochData(learningRate=..., error={...})."


class _FileReader:
    """One reading of a file: a method for each form that may stand in it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def epochs(self, node: ast.expr) -> Mapping[int, EpochRecord]:
        if not isinstance(node, ast.Dict):
            raise self._refused(node, f"this is no dict. {_EXPECTED}")
        found: dict[int, EpochRecord] = {}
        for key, value in self._items(node):
            epoch = self.literal(key)
            if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1 or epoch in found:
                raise self._refused(key, "an epoch is a whole number from 1, and stands there once.")
            found[epoch] = self.record(value)
        return MappingProxyType(dict(sorted(found.items())))

    def record(self, node: ast.expr) -> EpochRecord:
        if not isinstance(node, ast.Call) or self._name(node) != "EpochData":
            return EpochRecord(self.rate(node))
        names = ("learningRate", "error", "meta")
        given: dict[str, ast.expr] = dict(zip(names, node.args, strict=False))
        for one in node.keywords:
            given["learningRate" if one.arg == "learning_rate" else one.arg or "**"] = one.value
        strangers = [name for name in given if name not in names]
        if strangers or len(node.args) > 2 or "learningRate" not in given:
            near = nearest(strangers[0], names) if strangers else ""
            raise self._refused(node, f"EpochData has learningRate= and error=.{near}")
        scores, meta = self.scores(given["error"]) if "error" in given else ({}, {})
        if "meta" in given:
            meta |= self.mapping(given["meta"])
        return EpochRecord(self.rate(given["learningRate"]), MappingProxyType(scores), MappingProxyType(meta))

    def rate(self, node: ast.expr) -> float:
        value = self.literal(node)
        if not is_number(value) or not isfinite(value) or value < 0:
            raise self._refused(node, "a learning rate is a finite number of at least 0.")
        return float(value)

    def scores(self, node: ast.expr) -> tuple[dict[str, float], dict[str, Any]]:
        """Scores and notes, which stand in one dict in the file."""
        told = self.literal(node)
        if told is None or is_number(told):
            return ({} if told is None else {_OLD_SCORE: float(told)}), {}
        found = self.mapping(node)
        meta = {name[len(_META) :]: value for name, value in found.items() if name.startswith(_META)}
        scores = {name: value for name, value in found.items() if not name.startswith(_META)}
        for name, value in scores.items():
            if not is_number(value):
                raise self._refused(node, f"the score {name!r} is no number.")
        return {name: float(value) for name, value in scores.items()}, meta

    def mapping(self, node: ast.expr) -> dict[str, Any]:
        found = self.literal(node)
        if isinstance(found, dict) and all(isinstance(name, str) for name in found):
            return found
        raise self._refused(node, "a dict with names is expected.")

    def literal(self, node: ast.expr) -> Any:
        """A literal, or a number as Python or numpy print it."""
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool | int | float | str)):
            return node.value
        if isinstance(node, ast.Name) and node.id in _NUMBERS:
            return _NUMBERS[node.id]
        if isinstance(node, ast.Dict):
            return {self.key(key): self.literal(value) for key, value in self._items(node)}
        if isinstance(node, ast.List | ast.Tuple):
            made = [self.literal(item) for item in node.elts]
            return made if isinstance(node, ast.List) else tuple(made)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            value = self.literal(node.operand)
            if is_number(value):
                return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
            return self.number(node)
        raise self._refused(
            node, "only numbers, text, dicts, lists, nan, inf and EpochData are read, and nothing is run."
        )

    def key(self, node: ast.expr) -> str | float:
        found = self.literal(node)
        if isinstance(found, str) or is_number(found):
            return found  # type: ignore[no-any-return]
        raise self._refused(node, "names and numbers are the keys of a dict.")

    def number(self, node: ast.Call) -> float:
        """`float('nan')`, `np.float32(0.5)` and the like."""
        value = self.literal(node.args[0])
        kind = self._name(node).removeprefix("numpy.").removeprefix("np.")
        if kind in ("float", "float16", "float32", "float64", "int32", "int64"):
            if is_number(value):
                return float(value)
            if isinstance(value, str) and value.lstrip("+-").lower() in ("nan", "inf", "infinity"):
                return float(value)
        raise self._refused(
            node, "only numbers, text, dicts, lists, nan, inf and EpochData are read, and nothing is run."
        )

    def _items(self, node: ast.Dict) -> Iterator[tuple[ast.expr, ast.expr]]:
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                raise self._refused(value, "** is not known here.")
            yield key, value

    def _name(self, node: ast.Call) -> str:
        return ast.unparse(node.func)

    def _refused(self, node: ast.expr, why: str) -> DataError:
        text = ast.unparse(node)
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        return DataError(f"{self.path}, line {node.lineno}: {shown}: {why}")


_NUMBERS = {"nan": nan, "inf": inf}
