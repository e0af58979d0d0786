"""What is measured besides the loss: streamed over batches, exact over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from etude.errors import SettingError, nearest

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
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function = function
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._total: Tensor | float = 0.0
        self._count: Tensor | float = 0.0

    def update(self, output: Any, target: Any) -> None:
        """Take a batch."""
        made = self.function(output, target)
        if isinstance(made, tuple):
            total, count = made
        elif isinstance(made, Tensor) and made.dim():
            total, count = made.double().sum(), made.numel()
        else:
            count = len(target) if isinstance(target, Tensor) and target.dim() else 1
            total = made * count
        self._total = self._total + (total.detach().double() if isinstance(total, Tensor) else total)
        self._count = self._count + count

    def compute(self) -> float:
        """The mean over all samples taken; NaN without any."""
        return float(self._total / self._count) if float(self._count) else float("nan")


def accuracy(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | int]:
    """How many predictions are right, of how many.

    Args:
        output: scores of shape (n, classes, ...), of which the largest is the prediction; or one logit an element.
        target: class indices of shape (n, ...), -100 left out; or 0 and 1, shaped as the output.
    """
    if output.dim() == target.dim() + 1:
        known = target != -100
        return ((output.argmax(1) == target) & known).sum(), known.sum()
    if output.shape == target.shape and target.is_floating_point() and output.dim() > 1 and output.shape[1] > 1:
        return (output.argmax(1) == target.argmax(1)).sum(), len(target)
    return ((output.reshape(target.shape) > 0) == (target > 0.5)).sum(), target.numel()


def error_rate(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | int]:
    """How many predictions are wrong, of how many; see `accuracy`."""
    right, count = accuracy(output, target)
    return count - right, count


def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The squared difference of each element."""
    return (output - target) ** 2


def mean_absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """The absolute difference of each element."""
    return (output - target).abs()


# Name: what computes it, and whether more is better.
_BY_NAME: dict[str, tuple[Callable[[Any, Any], Any], bool]] = {
    "accuracy": (accuracy, True),
    "error_rate": (error_rate, False),
    "mse": (mean_squared_error, False),
    "mae": (mean_absolute_error, False),
}


class Metrics:
    """Named metrics over one pass.

    Attributes:
        names: in the order given.
        better: for each name "max", "min", or None where that is not known.
    """

    def __init__(self, literal: MetricLike | None) -> None:
        made = [pair for one in _listed(literal) for pair in _named(one)]
        self._metrics = dict(made)
        self.names = tuple(self._metrics)
        if len(self.names) < len(made):
            raise SettingError(
                f"metrics: two have one name: {', '.join(name for name, _ in made)}. Give a dict of names."
            )
        self.better = {name: _direction(name, metric) for name, metric in made}

    def reset(self) -> None:
        """Begin a pass."""
        for metric in self._metrics.values():
            metric.reset()

    def update(self, output: Any, target: Any) -> None:
        """Take a batch."""
        for name, metric in self._metrics.items():
            try:
                metric.update(output, target)
            except Exception as error:
                raise SettingError(f"The metric {name!r} failed: {type(error).__name__}: {error}") from error

    def values(self) -> dict[str, float]:
        """The value of each metric over the pass; one of several elements gives one number for each."""
        found: dict[str, float] = {}
        for name, metric in self._metrics.items():
            value = metric.compute()
            if isinstance(value, Tensor) and value.numel() > 1:
                found.update({f"{name}.{i}": float(v) for i, v in enumerate(value.flatten().tolist())})
            else:
                found[name] = float(value)
        return found

    def to(self, device: torch.device) -> None:
        """Move metrics that live on a device."""
        for metric in self._metrics.values():
            if hasattr(metric, "to"):
                metric.to(device)


def _listed(literal: MetricLike | None) -> list[Any]:
    if literal is None:
        return []
    return list(literal) if isinstance(literal, list | tuple) else [literal]


def _named(literal: Any) -> list[tuple[str, Streaming]]:
    if isinstance(literal, str):
        if literal not in _BY_NAME:
            raise SettingError(
                f"There is no metric {literal!r}. Known: {', '.join(_BY_NAME)}; or give a function of (output, target) "
                f"or a torchmetrics metric.{nearest(literal, _BY_NAME)}"
            )
        return [(literal, Mean(_BY_NAME[literal][0]))]
    if isinstance(literal, Mapping):
        return [(str(name), metric) for name, one in literal.items() for _, metric in _named(one)]
    if isinstance(literal, type):
        raise SettingError(f"metrics={literal.__name__}: a class. Write {literal.__name__}().")
    if isinstance(literal, Streaming):
        return [(_snake(type(literal).__name__), literal)]
    if callable(literal):
        return [(getattr(literal, "__name__", type(literal).__name__), Mean(literal))]
    raise SettingError(f'metrics: {literal!r} is none. Write "accuracy", a function, or a torchmetrics metric.')


def _direction(name: str, metric: Streaming) -> str | None:
    if name in _BY_NAME:
        return "max" if _BY_NAME[name][1] else "min"
    higher = getattr(metric, "higher_is_better", None)
    return None if higher is None else "max" if higher else "min"


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
