"""How a batch is read: as arguments of the net and a target, as tensors by place, as a number of samples.

A batch of sequences is a dict. Beside a stream `x` it has `x_lengths`, int64 of shape (samples,), and `x` is padded, of
shape (samples, longest, ...); where it is packed instead, of shape (frames, ...), there is `x_offsets` too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import SettingError

LENGTHS, OFFSETS, MASK = "_lengths", "_offsets", "_mask"
"""What the names of arrays end in that say something of a stream; the rest is the name of the stream."""


class Reader:
    """How a batch becomes arguments of the net and a target.

    A pair is (input, target); of a longer tuple the last is the target; an input that is itself a tuple or a dict is
    spread over the net's arguments. Of a dict, what the net's `forward` names are inputs and the rest is the target.

    Of a stream `x` of sequences, forward may name `x_lengths`, `x_offsets`, and `x_mask`: bool of shape (samples,
    longest), True at true frames. Where one input alone has lengths, `lengths`, `offsets` and `mask` are these. What is
    so called is never a target by itself.
    """

    def __init__(self, net: nn.Module) -> None:
        parameters = inspect.signature(getattr(net, "_orig_mod", net).forward).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self._names = {p.name for p in named}
        self._needed = {p.name for p in named if p.default is p.empty}
        # What may have to be made from lengths.
        self._masks = tuple(p.name for p in named if p.name.endswith(MASK))
        self._short = tuple(p.name for p in named if p.name in ("lengths", "offsets", "mask"))
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
        if not inputs and not self._takes_any:
            raise SettingError(
                f"The data have {', '.join(map(repr, values))}, and the net's forward takes "
                f"{', '.join(map(repr, sorted(self._names)))}: name the inputs as forward does, or give a tuple."
            )
        if self._takes_any and not inputs:
            return (), dict(values), None
        rest = [key for key in values if key not in inputs and not _says_of(key, values)]
        if self._masks or self._short:
            self._add_lengths(inputs, values)
        if len(rest) == 1:
            return (), inputs, values[rest[0]]
        # A function of several targets may want to know how long they are.
        of = [key for key in values if key in rest or (key not in inputs and _says_of(key, rest))]
        return (), inputs, {key: values[key] for key in of} or None

    def _add_lengths(self, inputs: dict[str, Any], values: Mapping[str, Any]) -> None:
        """What forward names that is made from the lengths of streams."""
        streams = [key for key in inputs if key + LENGTHS in values]
        for name in self._masks:
            stream = name.removesuffix(MASK)
            if name not in values and stream + LENGTHS in values:
                inputs[name] = _mask(stream, values)
        for name in self._short:
            if name in values or not streams:
                continue
            if len(streams) == 1:
                self._add_short(inputs, name, streams[0], values)
            elif name in self._needed:
                raise SettingError(
                    f"The net's forward takes {name!r}, and several inputs have lengths: {', '.join(streams)}. "
                    f"Write {streams[0]}_{name} in forward, the name of the stream first."
                )

    def _add_short(self, inputs: dict[str, Any], name: str, stream: str, values: Mapping[str, Any]) -> None:
        key = f"{stream}_{name}"
        if name == "mask" and key not in values:
            inputs[name] = _mask(stream, values)
        elif key in values:
            inputs[name] = values[key]

    def true_frames(self, values: Any) -> Any:
        """Which elements of the target are true: what is padding counts in no loss.

        Returns:
            bool of shape (samples, longest) for a padded target with lengths; (samples,) for a target of floats without
            lengths in a batch of sequences, where a row of which every stream is empty fills the batch up; a dict of
            these by name for several targets; None where all is true.
        """
        if not isinstance(values, Mapping) or not any(_is_lengths(key, values) for key in values):
            return None
        if not any(key in self._names for key in values):
            return None
        rest = [key for key in values if key not in self._names and not _says_of(key, values)]
        if len(rest) == 1:
            return _true(rest[0], values)
        return {key: mask for key in rest if (mask := _true(key, values)) is not None} or None


def mask_of(lengths: Tensor, longest: int) -> Tensor:
    """Which frames of padded sequences are true: bool of shape (samples, longest)."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def _mask(stream: str, values: Mapping[str, Any]) -> Tensor:
    if stream + OFFSETS in values:
        raise SettingError(
            f"The net's forward takes a mask of {stream!r}, which is packed and has no padding. Take "
            f"{stream}_offsets, or have it padded."
        )
    return mask_of(values[stream + LENGTHS], values[stream].shape[1])


def _true(key: str, values: Mapping[str, Any]) -> Tensor | None:
    """The true elements of one target."""
    target = values[key]
    if not isinstance(target, Tensor) or key + OFFSETS in values:
        return None
    if key + LENGTHS in values:
        return mask_of(values[key + LENGTHS], target.shape[1]) if target.dim() > 1 else None
    # Class indices are ignored where a row only fills up.
    if not target.is_floating_point() or not target.dim():
        return None
    filled: Tensor | None = None
    for name in values:
        if _is_lengths(name, values) and values[name].shape == target.shape[:1]:
            some = values[name] > 0
            filled = some if filled is None else filled | some
    return filled


def _is_lengths(key: str, values: Mapping[str, Any]) -> bool:
    return isinstance(key, str) and key.endswith(LENGTHS) and key.removesuffix(LENGTHS) in values


def _says_of(key: str, streams: Iterable[str]) -> bool:
    """Whether an array is the lengths, offsets or mask of one of the streams."""
    if not isinstance(key, str):
        return False
    return any(key.endswith(end) and key.removesuffix(end) in streams for end in (LENGTHS, OFFSETS, MASK))


def _spread(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(value, tuple | list):
        return tuple(value), {}
    return ((), dict(value)) if isinstance(value, Mapping) else ((value,), {})


def samples_in(values: Any) -> int:
    """The number of samples of a batch: the first dimension of its first tensor, or of the lengths of that."""
    if isinstance(values, Tensor):
        return values.shape[0] if values.dim() else 1
    if isinstance(values, Mapping) and values:
        first = next(iter(values))
        # A packed stream has frames where others have samples.
        return samples_in(values.get(f"{first}{LENGTHS}", values[first]))
    return samples_in(values[0]) if isinstance(values, tuple | list) and values else 1


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
