"""Pieces of arrays laid out as a batch: as rows filled up to one length, or one after another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from etude.data.plan.lengths import Whole

Piece = npt.NDArray[Any]

NARROW = 1 << 13
"""Bytes of a row up to which rows that are not together in memory are put there first; longer ones one by one."""

ROW, NEEDLESS = 1 << 15, 1 << 11
"""Bytes of a row up to which all rows are copied in one call, with what follows them, if that is not more than so many
bytes a row; others one by one."""

SHORT = 128
"""Frames up to which pieces are packed by one index for each frame; longer ones are copied piece by piece."""

_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def memory(array: Tensor) -> Piece:
    """The memory of a tensor as an array of numpy; what numpy has no type for, as bfloat16, as integers of its size.

    Of a tensor on another device, and of one that is stored conjugated or negated, a copy.
    """
    try:
        return array.numpy()
    except TypeError:
        plain = array.detach().cpu()
        return plain.numpy() if array.device != plain.device else plain.view(_SAME_SIZE[plain.element_size()]).numpy()
    except RuntimeError:
        return memory(array.detach().resolve_conj().resolve_neg())


def padded(
    flat: Tensor, starts: Whole, stops: Whole, value: float = 0, to: int | None = None, rows: int | None = None
) -> Tensor:
    """Pieces of `flat` as the rows of one array, filled up with `value`; a copy.

    Args:
        flat: shape (frames, ...). starts, stops: of each piece, int64, shape (pieces,).
        value: what fills up.
        to: frames of each row, at least those of the longest piece. Default: just as many.
        rows: rows to fill up to, at least as many as there are pieces. Default: just as many.

    Returns:
        Shape (rows, to, ...), on the device of `flat`.
    """
    lengths = stops - starts
    longest = int(lengths.max(initial=0)) if to is None else to
    shape = (len(starts) if rows is None else rows, longest, *flat.shape[1:])
    if flat.device.type != "cpu":
        return _padded_there(flat, starts, lengths, shape, value)
    source, fill = memory(flat), _fill(flat.dtype, value)
    if _alike(source, lengths, longest):
        return _tensor(_by_windows(source, starts, lengths, shape, fill), flat.dtype)
    return _tensor(_one_by_one(_pieces(source, starts, stops), shape, source.dtype, fill), flat.dtype)


def packed(flat: Tensor, starts: Whole, stops: Whole, to: int | None = None, value: float = 0) -> Tensor:
    """Pieces of `flat` one after another; a copy.

    Args:
        flat, starts, stops: as for `padded`.
        to: frames to fill up to at the end, with `value`. Default: none are added.

    Returns:
        Shape (frames of all pieces or `to`, ...), on the device of `flat`. Where each begins, `offsets` tells.
    """
    lengths = stops - starts
    total = int(lengths.sum())
    frames = total if to is None else to
    if flat.device.type == "cpu" and total > SHORT * len(starts):
        return strung(_pieces(memory(flat), starts, stops), flat.dtype, (frames, *flat.shape[1:]), value)
    index = np.repeat(starts - offsets(lengths)[:-1], lengths) + np.arange(total)
    out = torch.empty((frames, *flat.shape[1:]), dtype=flat.dtype, device=flat.device)
    if flat.device.type != "cpu":
        out[:total] = flat.index_select(0, torch.from_numpy(index).to(flat.device))
        out[total:] = value
        return out
    target = memory(out)
    np.take(memory(flat), index, axis=0, out=target[:total], mode="clip")
    target[total:] = _fill(flat.dtype, value)
    return out


def offsets(lengths: Whole) -> npt.NDArray[np.int32]:
    """Where pieces of these lengths begin if one follows the other: int32, shape (pieces + 1,), from 0 on."""
    made = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=made[1:])
    return made


def laid(given: Sequence[Piece], dtype: torch.dtype, shape: tuple[int, ...], value: float) -> Tensor:
    """Pieces, at least one, as the rows of an array of this type and shape (rows, longest, ...), filled up."""
    fill = _fill(dtype, value)
    if shape[1] * prod(shape[2:]) * fill.itemsize > NARROW:
        return _tensor(_one_by_one(given, shape, fill.dtype, fill), dtype)
    lengths = np.fromiter(map(len, given), np.int64, len(given))
    source = np.concatenate(given, dtype=fill.dtype, casting="unsafe")
    return _tensor(_by_windows(source, np.cumsum(lengths) - lengths, lengths, shape, fill), dtype)


def strung(given: Sequence[Piece], dtype: torch.dtype, shape: tuple[int, ...], value: float) -> Tensor:
    """Pieces, at least one, one after another in an array of this type and shape (frames, ...), filled up."""
    fill, total = _fill(dtype, value), sum(map(len, given))
    made: Piece = np.empty(shape, fill.dtype)
    np.concatenate(given, out=made[:total], casting="unsafe")
    made[total:] = fill
    return _tensor(made, dtype)


def _pieces(source: Piece, starts: Whole, stops: Whole) -> list[Piece]:
    return [source[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]


def _alike(source: Piece, lengths: Whole, longest: int) -> bool:
    """Whether it is quicker to copy what follows the shorter pieces than to go from one piece to the next."""
    row, rows = source.strides[0], len(lengths)
    if longest * row > ROW or not source.flags.c_contiguous:
        return False
    return (rows * longest - int(lengths.sum())) * row <= rows * NEEDLESS


def _one_by_one(given: Sequence[Piece], shape: tuple[int, ...], dtype: np.dtype[Any], fill: Any) -> Piece:
    """Each piece copied to its row."""
    made: Piece = np.empty(shape, dtype)
    for row, piece in zip(made, given, strict=False):  # there may be more rows than pieces
        frames = len(piece)
        row[:frames] = piece
        if frames < shape[1]:
            row[frames:] = fill
    made[len(given) :] = fill
    return made


def _by_windows(source: Piece, starts: Whole, lengths: Whole, shape: tuple[int, ...], fill: Any) -> Piece:
    """The same by windows of the longest length, and `fill` written over what follows the shorter pieces."""
    longest = int(lengths.max(initial=0))
    last = len(source) - longest
    strides = (source.strides[0], *source.strides)
    windows: Piece = np.ndarray((last + 1, longest, *shape[2:]), source.dtype, source, 0, strides)
    beyond = int(starts.max(initial=0)) > last
    made: Piece = windows[np.minimum(starts, last) if beyond else starts]
    for row in np.flatnonzero(starts > last) if beyond else ():  # their windows would reach beyond the end
        made[row, : lengths[row]] = source[starts[row] : starts[row] + lengths[row]]
    shortest = int(lengths.min(initial=longest))
    if shortest < longest:
        made[:, shortest:][np.arange(shortest, longest) >= lengths[:, None]] = fill
    if made.shape == shape:
        return made
    whole: Piece = np.full(shape, fill, source.dtype)
    whole[: len(made), :longest] = made
    return whole


def _padded_there(flat: Tensor, starts: Whole, lengths: Whole, shape: tuple[int, ...], value: float) -> Tensor:
    """The same on another device: only the numbers of the frames go there."""
    place, number = np.arange(shape[1]), len(starts)
    out = torch.full(shape, value, dtype=flat.dtype, device=flat.device)
    if not len(flat):
        return out
    index = np.minimum(starts[:, None] + place, len(flat) - 1)
    rows = flat.index_select(0, torch.from_numpy(index.ravel()).to(flat.device)).view(number, *shape[1:])
    true = torch.from_numpy(place < lengths[:, None]).to(flat.device)
    out[:number] = torch.where(true.view(*true.shape, *(1,) * (flat.dim() - 1)), rows, out[:number])
    return out


@lru_cache(64)
def _fill(dtype: torch.dtype, value: float) -> Any:
    """The value as `memory` shows it, with the type that it shows."""
    return memory(torch.full((1,), value, dtype=dtype))[0]


def _tensor(array: Piece, dtype: torch.dtype) -> Tensor:
    """What `memory` would show as this array."""
    made = torch.from_numpy(array)
    return made if made.dtype == dtype else made.view(dtype)
