"""Pieces of arrays laid out as a batch: as rows filled up to one length, or one after another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from etude.data.plan.lengths import Whole

Piece = npt.NDArray[Any]

SHORT = 64
"""Pieces up to so long are gathered frame by frame in one call; longer ones are copied one by one."""

_WIDE = 1 << 14
"""Bytes of a row from which on it is cheaper to fill up each row's end than to fill all of them first."""

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
    out = torch.empty(shape, dtype=flat.dtype, device=flat.device)
    if flat.device.type != "cpu":
        return _gathered_there(flat, starts, lengths, out, value)
    if longest > SHORT:
        return laid(pieces(flat, starts, stops), out, value)
    _gathered(memory(flat), starts, lengths, memory(out), _fill(out.dtype, value))
    return out


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
    out = flat.new_empty((total if to is None else to, *flat.shape[1:]))
    if flat.device.type == "cpu" and total > SHORT * len(starts):
        return strung(pieces(flat, starts, stops), out, value)
    index = np.repeat(starts - offsets(lengths)[:-1], lengths) + np.arange(total)
    if flat.device.type == "cpu":
        target = memory(out)
        np.take(memory(flat), index, axis=0, out=target[:total], mode="clip")
        target[total:] = _fill(out.dtype, value)
    else:
        out[:total] = flat.index_select(0, torch.from_numpy(index).to(flat.device))
        out[total:] = value
    return out


def offsets(lengths: Whole) -> npt.NDArray[np.int32]:
    """Where pieces of these lengths begin if one follows the other: int32, shape (pieces + 1,), from 0 on."""
    made = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=made[1:])
    return made


def pieces(flat: Tensor, starts: Whole, stops: Whole) -> list[Piece]:
    """The pieces themselves, on the memory of `flat`."""
    source = memory(flat)
    return [source[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]


def laid(given: Sequence[Piece], out: Tensor, value: float) -> Tensor:
    """Write each piece to a row of `out`, shape (rows, longest, ...), and `value` to the rest."""
    target, fill, longest = memory(out), _fill(out.dtype, value), out.shape[1]
    if longest <= SHORT:
        lengths = np.fromiter(map(len, given), np.int64, len(given))
        source = np.concatenate(given, dtype=target.dtype, casting="unsafe")
        _gathered(source, np.cumsum(lengths) - lengths, lengths, target, fill)
        return out
    if target[:1].nbytes < _WIDE:
        target[...] = fill
        for row, piece in zip(target, given, strict=False):  # rows beyond the pieces are filled
            row[: len(piece)] = piece
        return out
    for row, piece in zip(target, given, strict=False):
        frames = len(piece)
        row[:frames] = piece
        if frames < longest:
            row[frames:] = fill
    target[len(given) :] = fill
    return out


def strung(given: Sequence[Piece], out: Tensor, value: float) -> Tensor:
    """Write the pieces one after another to `out`, shape (frames, ...), and `value` to what is left at its end."""
    target, total = memory(out), sum(map(len, given))
    np.concatenate(given, out=target[:total], casting="unsafe")
    target[total:] = _fill(out.dtype, value)
    return out


def _gathered(source: Piece, starts: Whole, lengths: Whole, target: Piece, fill: Any) -> None:
    """Write pieces of `source` to the rows of `target` by one index for each frame, and `fill` to the rest."""
    rows, place = target[: len(starts)], np.arange(target.shape[1])
    if not len(source):
        target[...] = fill
        return
    np.take(source, starts[:, None] + place, axis=0, out=rows, mode="clip")
    rows[place >= lengths[:, None]] = fill
    target[len(starts) :] = fill


def _gathered_there(flat: Tensor, starts: Whole, lengths: Whole, out: Tensor, value: float) -> Tensor:
    """The same on another device: only the numbers of the frames go there."""
    place, number = np.arange(out.shape[1]), len(starts)
    index = np.minimum(starts[:, None] + place, max(0, len(flat) - 1))
    true = torch.from_numpy((place < lengths[:, None]).ravel()).to(flat.device)
    there = torch.from_numpy(index.ravel()).to(flat.device)
    out.fill_(value)
    if len(flat):
        mask = true.view(-1, *(1,) * (flat.dim() - 1))
        rows = torch.where(mask, flat.index_select(0, there), out.new_tensor(value))
        out[:number] = rows.view(number, *out.shape[1:])
    return out


@lru_cache(64)
def _fill(dtype: torch.dtype, value: float) -> Any:
    """The value as `memory` shows it."""
    return memory(torch.full((1,), value, dtype=dtype))[0]
