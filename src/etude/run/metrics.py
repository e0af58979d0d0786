"""What is measured besides the loss: streamed over batches, exact over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
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


def accuracy(output: Tensor, target: Tensor, true: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
    """How many predictions are right, of how many.

    Args:
        output: scores of shape (n, classes, ...), of which the largest is the prediction; or one logit for each target.
        target: class indices of shape (n, ...), -100 left out; floats of the shape of an output of several classes,
            of which the largest is the class meant; or 0 and 1 for each logit. Padded sequences of such floats have
            time second, (n, longest, classes).
        true: which targets are no padding, bool, shape (n, longest) or (n,); None: all.

    Raises:
        ValueError: shapes that do not belong together.
    """
    several = output.dim() > 1 and output.shape[1] > 1
    if several and output.dim() == target.dim() + 1:
        # No prediction is -100.
        return _shared(output.argmax(1) == target, target != -100, true)
    meant = _classes_second(output, target, true) if several and target.is_floating_point() else None
    if meant is not None:
        return _shared(output.argmax(1) == meant.argmax(1), None, true)
    if output.numel() != target.numel():
        raise ValueError(f"accuracy of an output of shape {_shape(output)} and targets of shape {_shape(target)}")
    return _shared((output.reshape(target.shape) > 0) == (target > 0.5), None, true)


def error_rate(output: Tensor, target: Tensor, true: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
    """How many predictions are wrong, of how many; see `accuracy`."""
    right, count = accuracy(output, target, true)
    return count - right, count


def mean_squared_error(output: Tensor, target: Tensor, true: Tensor | None = None) -> Tensor:
    """The squared difference of each true element; shapes must be equal."""
    return _difference(output, target, true) ** 2


def mean_absolute_error(output: Tensor, target: Tensor, true: Tensor | None = None) -> Tensor:
    """The absolute difference of each true element; shapes must be equal."""
    return _difference(output, target, true).abs()


def _classes_second(output: Tensor, target: Tensor, true: Tensor | None) -> Tensor | None:
    """Floats of the shape of an output of several classes; None where these are logits, one for each target."""
    if true is not None and true.dim() > 1:
        # Padded sequences have time there.
        target = target.movedim(1, -1) if target.dim() > 2 else target[:0]
    return target if output.shape == target.shape else None


def _shared(right: Tensor, counted: Tensor | None, true: Tensor | None) -> tuple[Tensor, Tensor | int]:
    """How many are right of those that count."""
    if true is not None:
        inside = true.reshape(*true.shape, *(1,) * (right.dim() - true.dim())).expand_as(right)
        counted = inside if counted is None else counted & inside
    if counted is None:
        return right.sum(), right.numel()
    return (right & counted).sum(), counted.sum()


def _difference(output: Tensor, target: Tensor, true: Tensor | None) -> Tensor:
    # (n, 1) against (n,) would be all pairs: a number that looks like an error and is none.
    if output.shape != target.shape:
        raise ValueError(f"the output has shape {_shape(output)}, the targets have {_shape(target)}")
    difference = output - target
    return difference if true is None else difference[true]


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


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
        self.better = {name: _direction(metric) for name, metric in made}

    def reset(self) -> None:
        """Begin a pass."""
        for metric in self._metrics.values():
            metric.reset()

    def update(self, output: Any, target: Any, true: Any = None) -> None:
        """Take a batch; metrics by name leave out what is padding, `true` being what `Reader.true_frames` gives."""
        mask = true if isinstance(true, Tensor) else None
        for name, metric in self._metrics.items():
            try:
                if mask is not None and isinstance(metric, Mean):
                    metric.update(output, target, mask)
                else:
                    metric.update(output, target)
            except Exception as error:
                raise SettingError(f"The metric {name!r} failed: {type(error).__name__}: {error}") from error

    def values(self) -> dict[str, float]:
        """The value of each metric over the pass; one of several elements gives one number for each."""
        found: dict[str, float] = {}
        for name, metric in self._metrics.items():
            try:
                found.update(_numbers(name, metric.compute()))
            except Exception as error:
                raise SettingError(f"The metric {name!r} failed: {type(error).__name__}: {error}") from error
        return found

    def to(self, device: torch.device | None) -> None:
        """Move metrics that live on a device; None leaves them where they are."""
        for metric in self._metrics.values():
            if device is not None and hasattr(metric, "to"):
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
        return [(literal, Mean(*_BY_NAME[literal], masked=True))]
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
    if isinstance(value, Tensor) and value.numel() != 1:
        return {f"{name}.{i}": float(v) for i, v in enumerate(value.flatten().tolist())}
    return {name: float(value)}


def _direction(metric: Streaming) -> str | None:
    higher = getattr(metric, "higher_is_better", None)
    return None if higher is None else "max" if higher else "min"


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
