"""How a batch is read: as arguments of the net and a target, as tensors by place, as a number of samples."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from etude.errors import SettingError


class Reader:
    """How a batch becomes arguments of the net and a target.

    A pair is (input, target); of a longer tuple the last is the target; an input that is itself a tuple or a dict is
    spread over the net's arguments. Of a dict, what the net's `forward` names are inputs and the rest is the target.
    """

    def __init__(self, net: nn.Module) -> None:
        parameters = inspect.signature(getattr(net, "_orig_mod", net).forward).parameters.values()
        self._names = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def __call__(self, values: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """Positional arguments, keyword arguments, target (None if there is none)."""
        if isinstance(values, tuple | list):
            if len(values) == 2 and type(values[0]) is Tensor:
                return (values[0],), {}, values[1]
            if len(values) == 2:
                return (*_spread(values[0]), values[1])
            if len(values) > 2:
                return tuple(values[:-1]), {}, values[-1]
            return (*_spread(values[0]), None)
        if isinstance(values, Mapping):
            return self._by_name(values)
        return (values,), {}, None

    def _by_name(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        inputs = {key: value for key, value in values.items() if key in self._names}
        rest = {key: value for key, value in values.items() if key not in self._names}
        if not inputs and not self._takes_any:
            raise SettingError(
                f"The data have {', '.join(map(repr, values))}, and the net's forward takes "
                f"{', '.join(map(repr, sorted(self._names)))}: name the inputs as forward does, or give a tuple."
            )
        if self._takes_any and not inputs:
            return (), dict(values), None
        target = next(iter(rest.values())) if len(rest) == 1 else rest or None
        return (), inputs, target


def _spread(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(value, tuple | list):
        return tuple(value), {}
    return ((), dict(value)) if isinstance(value, Mapping) else ((value,), {})


def samples_in(values: Any) -> int:
    """The number of samples of a batch: the first dimension of its first tensor."""
    if isinstance(values, Tensor):
        return values.shape[0] if values.dim() else 1
    pieces = values.values() if isinstance(values, Mapping) else values
    return samples_in(next(iter(pieces))) if isinstance(values, Mapping | tuple | list) and len(values) else 1


def tensors_in(values: Any, name: str = "") -> Iterable[tuple[str, Tensor]]:
    """Every tensor of a batch with its place: "batch[0]", "x", ..."""
    if isinstance(values, Tensor):
        yield name or "batch", values
    elif isinstance(values, dict):
        for key, value in values.items():
            yield from tensors_in(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, tuple | list):
        for i, value in enumerate(values):
            yield from tensors_in(value, f"{name or 'batch'}[{i}]")
