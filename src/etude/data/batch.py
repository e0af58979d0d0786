"""What a flow gives out: one batch, its counts and its place in the order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.cursor import Cursor
from etude.errors import DataError, nearest

_LENGTHS = "_lengths"
_TOKENS = (torch.int64, torch.int32, torch.int16)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch and its place in the order.

    Attributes:
        values: the arrays, shaped as the data are: a tensor, a tuple of tensors, or a dict of tensors; samples
            along the first dimension. Batches of arrays in memory are copies: they may be written to.
        samples: size of the first dimension of the first tensor.
        tokens: true frames of the leading stream where samples have lengths of their own. Otherwise samples times
            length where the first tensor holds integers wider than 8 bits, of shape (samples, length, ...), else 0.
        cursor: this batch's own place.
        next: the place of the batch that follows.
        progress_epoch: position in epochs once this batch is done; while the length of an epoch is not known,
            the epochs completed.
        order: an order of samples in which these are neighbours, or None where the data are read in their own order.
        start: where in `order` they begin.
        everywhere: samples and tokens of the whole batch where several processes share it; None: this is all of it.
    """

    values: Any
    samples: int
    tokens: int
    cursor: Cursor
    next: Cursor
    progress_epoch: float
    order: Tensor | None = None
    start: int = 0
    everywhere: tuple[int, int] | None = None

    @property
    def all_samples(self) -> int:
        """Samples of the batch in all processes that share it."""
        return self.samples if self.everywhere is None else self.everywhere[0]

    @property
    def all_tokens(self) -> int:
        """Tokens of the batch in all processes that share it."""
        return self.tokens if self.everywhere is None else self.everywhere[1]

    @property
    def frames(self) -> dict[str, int]:
        """True frames of every stream that has lengths."""
        return {name: int(lengths.sum()) for name, lengths in self.lengths.items()}

    @property
    def lengths(self) -> dict[str, Tensor]:
        """Of every stream how long each sample is: int64, shape (rows,)."""
        if not isinstance(self.values, Mapping):
            return {}
        ends = [name.removesuffix(_LENGTHS) for name in self.values if name.endswith(_LENGTHS)]
        return {name: self.values[f"{name}{_LENGTHS}"] for name in ends if name in self.values}

    def mask(self, stream: str) -> Tensor:
        """Which frames of a padded stream are true: bool, shape (rows, longest).

        Raises:
            DataError: there is no such stream, or its sequences follow one another, so that nothing is padded.
        """
        lengths = self.lengths
        if stream not in lengths:
            raise DataError(
                f"The batch has no stream {stream!r}.{nearest(stream, lengths)} It has: {outline(self.values)}."
            )
        if f"{stream}_offsets" in self.values:
            raise DataError(
                f"The sequences of {stream!r} follow one another: all its frames are true. Leave the mask out."
            )
        own = lengths[stream]
        return torch.arange(self.values[stream].shape[1], device=own.device) < own[:, None]

    @property
    def last(self) -> bool:
        """Whether this batch ends its epoch."""
        return self.next.batch == 0

    @property
    def indices(self) -> Tensor | None:
        """Which samples these are: int64 positions in the whole data, shape (samples,); None as for `order`."""
        return None if self.order is None else self.order[self.start : self.start + self.samples]


_new = Batch.__new__
_SETTERS = [getattr(Batch, name).__set__ for name in Batch.__slots__]
_values, _samples, _tokens, _cursor, _next, _position, _order, _start, _everywhere = _SETTERS


def quick_batch(
    values: Any,
    samples: int,
    tokens: int,
    cursor: Cursor,
    following: Cursor,
    position: float,
    order: Tensor,
    start: int,
) -> Batch:
    """`Batch(...)` in half the time: one is made for every step, and a frozen class takes a detour for each field."""
    made = _new(Batch)
    _values(made, values)
    _samples(made, samples)
    _tokens(made, tokens)
    _cursor(made, cursor)
    _next(made, following)
    _position(made, position)
    _order(made, order)
    _start(made, start)
    _everywhere(made, None)
    return made


def located(
    values: Any,
    counted: tuple[int, int],
    place: Cursor,
    last: bool,
    total: int | None,
    rows: Tensor | None = None,
    everywhere: tuple[int, int] | None = None,
) -> Batch:
    """A batch at its place: `counted` are its samples and tokens, `total` the batches of the epoch, if known."""
    following = Cursor(place.epoch + 1, 0) if last else Cursor(place.epoch, place.batch + 1)
    share = (place.batch + 1) / total if total else float(last)
    return Batch(values, *counted, place, following, place.epoch + share, rows, 0, everywhere)


def numbers(value: Any) -> bool:
    """Whether a list holds numbers, at any depth; the first of each level stands for the others."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float | complex | np.number | np.bool_)


def _children(value: Any) -> list[tuple[str, Any]] | None:
    """The named inner values of a dict, tuple or list; None for what is a value itself, as a list of numbers."""
    if isinstance(value, Mapping):
        return [(str(key), inner) for key, inner in value.items()]
    if isinstance(value, tuple) or (isinstance(value, list) and not numbers(value)):
        return [(str(position), inner) for position, inner in enumerate(value)]
    return None


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What a structure holds, with dotted names: keys of dicts, positions in tuples and lists."""
    children = _children(value)
    if children is None:
        yield name or "0", value
        return
    for key, inner in children:
        yield from leaves(inner, f"{name}.{key}" if name else key)


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure of dicts, tuples and lists with `change` applied to what they hold."""
    if isinstance(value, Mapping):
        return {key: each(inner, change) for key, inner in value.items()}
    children = _children(value)
    if children is None:
        return change(value)
    changed = [each(inner, change) for _, inner in children]
    if isinstance(value, list):
        return changed
    return type(value)(*changed) if hasattr(value, "_fields") else tuple(changed)


def counts(values: Any) -> tuple[int, int]:
    """Samples and tokens of a batch, from its first tensor.

    Raises:
        DataError: no tensor with a first dimension is there.
    """
    for _, value in leaves(values):
        if isinstance(value, Tensor) and value.dim() > 0:
            return len(value), len(value) * token_width(value)
    raise DataError(
        f"A batch holds no tensor with a first dimension: {outline(values)}. "
        "Give a tensor, a tuple or a dict of tensors, with samples along the first dimension."
    )


def token_width(array: Tensor) -> int:
    """Tokens in each sample of `array`: the second dimension of integers wider than 8 bits, otherwise 0."""
    return array.shape[1] if array.dim() > 1 and array.dtype in _TOKENS else 0


def moved(values: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The values on `device`, floating ones in `dtype`; None leaves either as it is."""

    def change(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value.to(device) if device is not None and hasattr(value, "to") else value
        kind = dtype if value.is_floating_point() else None
        return value.to(device=device, dtype=kind, non_blocking=True)

    return values if device is None and dtype is None else each(values, change)


def outline(value: Any) -> str:
    """The types and shapes of a value, short enough for a message: `(Tensor float32 (64,), int 3)`."""
    if isinstance(value, Tensor):
        return f"Tensor {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"ndarray {value.dtype} {value.shape}"
    if isinstance(value, Mapping):
        shown = [f"{key!r}: {outline(inner)}" for key, inner in list(value.items())[:6]]
        return "{" + ", ".join(shown + ["..."] * (len(value) > 6)) + "}"
    if isinstance(value, tuple | list):
        inside = ", ".join([outline(inner) for inner in value[:4]] + ["..."] * (len(value) > 4))
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
