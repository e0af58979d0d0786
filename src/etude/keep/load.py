"""Just the net out of a checkpoint, or out of a file of weights from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from etude.arguments import named
from etude.errors import CheckpointError, EtudeError, SettingError, StateError, nearest
from etude.keep import disk, files, state
from etude.keep.arrays import into_net, put_arrays
from etude.keep.header import short
from etude.step.states import some
from etude.values.tree import has_shape

Net = TypeVar("Net", bound=nn.Module)

_PICKLES_FROM = (2, 10)
"""The first torch whose weights_only=True is without known holes (CVE-2025-32434, CVE-2026-24747)."""


@named
def load_net(path: str | os.PathLike[str], net: Net, of: str = "net", *, foreign: bool = False) -> Net:
    """Load the arrays of a checkpoint into a net; nothing else is taken from it.

    Args:
        path: of a checkpoint, or of what `Result.save(..., net=True)` wrote.
        net: a net of the same arrays, in names, shapes, numbers and ties; it is changed in place.
        of: "net": as it was when the checkpoint was saved; "best": as it was at its best validation score; or the name
            of an average, which replaces the arrays it is of.
        foreign: the file comes from elsewhere and has no digests: a safetensors file, or a .pt file that holds nothing
            but tensors (read with weights_only=True, which runs no code of the file).

    Returns:
        The net.

    Raises:
        CheckpointError: the file is damaged, or of another kind; the net has other arrays, all of which are named. The
            net is as it was.
        StateError: the checkpoint has no such `of`; the nearest is named.
    """
    if not isinstance(net, nn.Module) or not isinstance(path, str | os.PathLike):
        raise SettingError(
            f"load_net({path!r:.60}, {net!r:.60}): a path and a net are needed. Write load_net(path, net)."
        )
    lazy = [name for name, array in net.state_dict(keep_vars=True).items() if not has_shape(array)]
    if lazy:
        raise StateError(f"load_net(): {some(lazy)} without a shape as yet. Call the net once before.")
    if foreign:
        return _load_foreign(os.path.abspath(path), net)
    saved = files.read(path)
    try:
        return _load(saved, net, of)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, EtudeError):
            raise
        found = short(f"{type(error).__name__}: {error}")
        raise CheckpointError(saved.path, "a checkpoint with a net", found) from error


def _load(saved: files.Saved, net: Net, of: str) -> Net:
    record = _record(saved)
    given = {"net", *(["best"] if any(name.startswith("best:") for name in saved.tensors) else []), *_averages(record)}
    if of not in given:
        raise StateError(f"{saved.path} has no {of!r}: it has {', '.join(sorted(given))}.{nearest(of, given)}")
    tensors = dict(saved.tensors)
    if of != "net":
        prefix = "best:" if of == "best" else f"average:{of}:"
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        hidden = set(record["net"]["buffers"])
        # An average is kept in float32 where the array has fewer bits.
        for name, value in own.items():
            key = f"buffer:{name}" if name in hidden else name
            tensors[key] = value.to(tensors[key].dtype) if key in tensors else value
    into_net(net, saved.path, record["net"], tensors)
    return net


def _record(saved: files.Saved) -> dict[str, Any]:
    kind = str(saved.record.get("kind"))
    known = kind in (state.RUN, state.LOOP, state.WEIGHTS)
    record = state.checked(saved.record, saved.path, kind if known else state.RUN)
    if record["net"] is None:
        expected = "a checkpoint with one net, or one that was saved as net="
        raise CheckpointError(saved.path, expected, "several nets, or none", damaged=False)
    return record


def _averages(record: Mapping[str, Any]) -> list[str]:
    """The averages that have begun."""
    found = record.get("averages") or {}
    each = found.get("each", found)
    return [name for name, one in each.items() if not isinstance(one, Mapping) or one.get("count")]


def _load_foreign(path: str, net: Net) -> Net:
    given = _foreign_arrays(path)
    put_arrays(net, path, given)
    return net


def _foreign_arrays(path: str) -> dict[str, Tensor]:
    """The arrays of a file that this library did not write."""
    from safetensors import SafetensorError, safe_open

    try:
        fd, first = disk.open_to_read(path), bytearray(4)
        try:
            disk.read_at(fd, memoryview(first), 0)
        finally:
            disk.close(fd)
    except OSError as error:
        raise CheckpointError(path, "a file of weights", str(error.strerror or error), damaged=False) from error
    if not first.startswith((b"PK\x03\x04", b"\x80")):
        try:
            with safe_open(path, "pt") as file:
                if "etude" in (file.metadata() or {}):
                    found = "a checkpoint of this library, which has digests: leave foreign out"
                    raise CheckpointError(path, "a file from elsewhere", found, damaged=False)
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, MemoryError) as error:
            raise CheckpointError(path, "a safetensors file, or a .pt file of tensors", short(str(error))) from error
    if torch.__version__ < torch.torch_version.TorchVersion(".".join(map(str, _PICKLES_FROM))):
        needed = f"torch {'.'.join(map(str, _PICKLES_FROM))} or later, to read a pickle without running it"
        raise CheckpointError(path, needed, f"torch {torch.__version__}", damaged=False)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # What torch says there is how to read the file in spite of that.
        found = "other things in it, which are not read: save the state_dict() of the net"
        raise CheckpointError(path, "a .pt file that holds nothing but tensors", found, damaged=False) from error
    inside = content.get("state_dict", content.get("model", content)) if isinstance(content, Mapping) else content
    if not isinstance(inside, Mapping) or not all(isinstance(value, Tensor) for value in inside.values()):
        kind = type(inside).__name__
        expected = "tensors by name, or a dict with such a dict under 'state_dict' or 'model'"
        raise CheckpointError(path, expected, f"a {kind} with other things in it", damaged=False)
    return {str(name): value for name, value in inside.items()}
