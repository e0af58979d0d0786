"""Just the net out of a checkpoint, or out of a file of weights from elsewhere."""

from __future__ import annotations

import os
from typing import TypeVar

from torch import nn

from etude.arguments import named
from etude.errors import CheckpointError, EtudeError, SettingError, StateError, nearest
from etude.keep import files, weights
from etude.keep import foreign as elsewhere
from etude.keep.arrays import into_net, put_arrays
from etude.keep.header import short
from etude.step.states import some
from etude.values.tree import has_shape

Net = TypeVar("Net", bound=nn.Module)


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
    record = weights.net_record(saved.record, saved.path)
    given = weights.kinds(record, saved.tensors)
    if of not in given:
        raise StateError(f"{saved.path} has no {of!r}: it has {', '.join(sorted(given))}.{nearest(of, given)}")
    tensors = dict(saved.tensors)
    if of != "net":
        prefix = weights.prefix_of(of)
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        hidden = set(record["net"]["buffers"])
        # An average is kept in float32 where the array has fewer bits.
        for name, value in own.items():
            key = f"buffer:{name}" if name in hidden else name
            tensors[key] = value.to(tensors[key].dtype) if key in tensors else value
    into_net(net, saved.path, record["net"], tensors)
    return net


def _load_foreign(path: str, net: Net) -> Net:
    put_arrays(net, path, elsewhere.everything_in(path))
    return net
