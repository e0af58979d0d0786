"""What is measured besides the loss: streamed over batches, exact over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import nan
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from etude.errors import SettingError
from etude.run.counted import Counted, by_name, is_table, tables_in
from etude.run.probe import Probe
from etude.step.term import own

MetricLike: TypeAlias = "str | Callable[..., Any] | Streaming | Mapping[str, Any] | Sequence[Any]"


@runtime_checkable
class Streaming(Protocol):
    """What torchmetrics' metrics are: reset, take batches, give the value over all of them."""

    def reset(self) -> None: ...

    def update(self, output: Any, target: Any) -> None: ...

    def compute(self) -> Any: ...


class Mean:
    """A metric from a function of (output, target): a mean over samples.

    The function gives one value a sample, a pair (sum, count), or a scalar, which counts for all samples of the batch.

    Args:
        function: of output and target. higher_is_better: whether more is better, None where that is not known.
        masked: whether the function takes a mask too, of the elements of a padded target that are true.
    """

    def __init__(
        self, function: Callable[..., Any], higher_is_better: bool | None = None, masked: bool = False
    ) -> None:
        self.function = function
        self.higher_is_better = higher_is_better
        self.masked = masked
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._total: Tensor | float = 0.0
        self._count: Tensor | float = 0.0

    def update(self, output: Any, target: Any, true: Tensor | None = None) -> None:
        """Take a batch; `true` says which elements of a padded target are no padding."""
        made = self.function(output, target, true) if self.masked else self.function(output, target)
        if isinstance(made, np.ndarray):
            made = torch.from_numpy(made)
        if isinstance(made, tuple):
            total, count = made
        elif isinstance(made, Tensor) and made.dim():
            total, count = made.double().sum(), made.numel()
        else:
            count = _samples(output) or _samples(target) or 1
            total = made * count
        self._total = self._total + (total.detach().double() if isinstance(total, Tensor) else float(total))
        self._count = self._count + count

    def compute(self) -> float:
        """The mean over all samples taken; NaN without any."""
        return float(self._total / self._count) if float(self._count) else float("nan")


def _samples(values: Any) -> int:
    """The first dimension of the first tensor; 0 where there is none."""
    if isinstance(values, Tensor):
        return len(values) if values.dim() else 0
    inside = values.values() if isinstance(values, Mapping) else values if isinstance(values, tuple | list) else ()
    return next((found for found in map(_samples, inside) if found), 0)


class Metrics:
    """Named metrics over one pass.

    Attributes:
        names: in the order given.
        better: for each name "max", "min", or None where that is not known.
        probes: what is measured of the net itself, in the order given.
        strict: whether a metric that fails raises; else its values of this pass are NaN.
        failed: in this pass, by name what happened.
        tables: what of the last values is kept whole: every tensor of more than one number.
    """

    def __init__(self, literal: MetricLike | None) -> None:
        others, self.probes = _apart(literal)
        made = [pair for one in others for pair in _named(one)]
        self._metrics = dict(made)
        self.names = tuple(self._metrics)
        if len(self.names) < len(made):
            raise SettingError(
                f"metrics: two have one name: {', '.join(name for name, _ in made)}. Give a dict of names."
            )
        self.better = {name: _direction(metric) for name, metric in made}
        self.strict = True
        self.failed: dict[str, str] = {}
        self.tables: dict[str, Tensor] = {}
        self._keys: dict[str, tuple[str, ...]] = {}

    def reset(self) -> None:
        """Begin a pass."""
        self.failed, self.tables = {}, {}
        for name, metric in self._metrics.items():
            with self._watched(name):
                metric.reset()

    def update(self, output: Any, target: Any, true: Any = None) -> None:
        """Take a batch; metrics by name leave out what is padding, `true` being what `Reader.true_frames` gives."""
        for name, metric in self._metrics.items():
            if name in self.failed:
                continue
            with self._watched(name):
                if isinstance(metric, Counted) or (isinstance(metric, Mean) and metric.masked):
                    mask = _own(name, true)
                    own_output, own_target = _one(name, "net's output", output), _one(name, "target", target)
                    metric.update(own_output, own_target, mask if isinstance(mask, Tensor) else None)
                elif isinstance(metric, Mean) and isinstance(true, Tensor):
                    metric.update(output, target, true)
                else:
                    metric.update(output, target)

    def values(self) -> dict[str, float]:
        """The value of each metric over the pass.

        One of several elements gives one number for each; a table, or more than 64 numbers, only stands in `tables`.
        """
        found: dict[str, float] = {}
        for name, metric in self._metrics.items():
            if name not in self.failed:
                with self._watched(name):
                    value = metric.compute()
                    numbers = _numbers(name, value)
                    self.tables.update(tables_in(name, value))
                    self._keys[name] = tuple(numbers)
                    found.update(numbers)
            if name in self.failed:
                found.update(dict.fromkeys(self.keys(name), nan))
        return found

    def keys(self, name: str) -> tuple[str, ...]:
        """The names of the values that a metric gives, as far as it has given some."""
        return self._keys.get(name, (name,))

    def to(self, device: torch.device | None) -> None:
        """Move metrics that live on a device; None leaves them where they are."""
        for metric in self._metrics.values():
            if device is not None and hasattr(metric, "to"):
                metric.to(device)

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        """Within it an error is that of a metric."""
        try:
            yield
        except Exception as error:
            kind = "" if isinstance(error, SettingError) else f"{type(error).__name__}: "
            text = f"The metric {name!r} failed: {kind}{error}"
            if self.strict:
                raise SettingError(f"{text.rstrip('.')}. It was given (output, target) of a batch.") from error
            self.failed[name] = text


def _own(name: str, values: Any) -> Any:
    """From several outputs or targets by name those of a metric: of "digit.accuracy" those of "digit"."""
    return own(name.partition(".")[0], own(name, values))


def _one(name: str, what: str, values: Any) -> Any:
    """From several outputs or targets by name, those of a metric that compares two tensors."""
    found = _own(name, values)
    if isinstance(found, Mapping):
        example = next(iter(found), "name")
        raise SettingError(
            f"the {what} has {', '.join(map(repr, found))}, and none of them is called {name!r}. Name the metric after "
            f"what it is of, metrics={{'{example}.{name}': {name!r}}}, or give a function of (output, target)"
        )
    return found


def _apart(literal: MetricLike | None) -> tuple[list[Any], tuple[Probe, ...]]:
    """Metrics and probes, each in the order given; a dict names both."""
    others: list[Any] = []
    probes: list[Probe] = []
    for one in _listed(literal):
        if isinstance(one, Probe):
            probes.append(one)
        elif isinstance(one, Mapping):
            probes += [replace(probe, name=str(key)) for key, probe in one.items() if isinstance(probe, Probe)]
            others.append({key: other for key, other in one.items() if not isinstance(other, Probe)})
        else:
            others.append(one)
    for probe in probes:
        if probe.of in ("gradient", "update"):
            raise SettingError(f"metrics: {probe!r}: nothing moves in a look. Write probes=[{probe!r}].")
        if probe.every is not None:
            raise SettingError(
                f"metrics: {probe!r}: it is measured at each look; when that is, Evaluate(every=...) says. Leave every "
                "out."
            )
    return others, tuple(probes)


def _listed(literal: MetricLike | None) -> list[Any]:
    if literal is None:
        return []
    return list(literal) if isinstance(literal, list | tuple) else [literal]


def _named(literal: Any) -> list[tuple[str, Streaming]]:
    if isinstance(literal, str):
        known = by_name(literal)
        return [(literal, Mean(*known, masked=True) if isinstance(known, tuple) else known)]
    if isinstance(literal, Mapping):
        return [pair for name, one in literal.items() for pair in _renamed(str(name), _named(one))]
    if isinstance(literal, Streaming) and isinstance(literal, torch.nn.ModuleDict):
        # A MetricCollection of torchmetrics: its metrics by their names.
        return [(_snake(str(name)), metric) for name, one in literal.items() for _, metric in _named(one)]
    if isinstance(literal, type):
        raise SettingError(f"metrics={literal.__name__}: a class. Write {literal.__name__}().")
    if isinstance(literal, Streaming):
        return [(_snake(type(literal).__name__), literal)]
    if callable(literal):
        return [(getattr(literal, "__name__", type(literal).__name__), Mean(literal))]
    raise SettingError(f'metrics: {literal!r} is none. Write "accuracy", a function, or a torchmetrics metric.')


def _renamed(name: str, made: list[tuple[str, Streaming]]) -> list[tuple[str, Streaming]]:
    """Metrics under the name that a dict gives them; several under one name keep their own behind it."""
    return [(name if len(made) == 1 else f"{name}.{own}", metric) for own, metric in made]


def _numbers(name: str, value: Any) -> dict[str, float]:
    """A value as numbers by name: "name", or "name.0", "name.key" where it has several."""
    if isinstance(value, Mapping):
        return {each: n for key, one in value.items() for each, n in _numbers(f"{name}.{key}", one).items()}
    if isinstance(value, tuple | list):
        return {each: n for i, one in enumerate(value) for each, n in _numbers(f"{name}.{i}", one).items()}
    if is_table(value):
        return {}
    if isinstance(value, Tensor) and value.numel() != 1:
        return {f"{name}.{i}": float(v) for i, v in enumerate(value.flatten().tolist())}
    return {name: float(value)}


def _direction(metric: Streaming) -> str | None:
    higher = getattr(metric, "higher_is_better", None)
    return None if higher is None else "max" if higher else "min"


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
