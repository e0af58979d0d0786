"""Parameters given without a net: a module made to hold them, under the names they were given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from etude.errors import SettingError


def holder(given: Any) -> nn.Module:
    """A module that holds parameters under the names they were given."""
    if isinstance(given, Tensor):
        raise SettingError("Trainer(tensor): give the net, or its parameters in a list or a dict.")
    if not isinstance(given, Mapping | Iterable):
        raise SettingError(f"Trainer({type(given).__name__}): give the net, or its parameters in a list or a dict.")
    pairs = list(given.items()) if isinstance(given, Mapping) else list(given)
    if pairs and not isinstance(pairs[0], tuple):
        pairs = [(str(i), array) for i, array in enumerate(pairs)]
    if not pairs:
        raise SettingError("Trainer: no parameters were given (a generator that is used up is empty).")
    root = nn.Module()
    for name, array in pairs:
        if isinstance(array, Mapping) and "params" in array:
            raise SettingError(
                "Trainer: these are parameter groups. Give the net, and what differs as rules: "
                "rules={'learning_rate': {part: 0.1}}."
            )
        if not isinstance(array, Tensor):
            raise SettingError(f"Trainer: {name!r} is a {type(array).__name__}, not a parameter.")
        _hold(root, str(name), array if isinstance(array, nn.Parameter) else _leaf(name, array))
    return root


def _leaf(name: str, array: Tensor) -> Tensor:
    if not (array.is_leaf and array.requires_grad):
        raise SettingError(f"Trainer: {name!r} is not a leaf tensor with requires_grad=True; nothing would move it.")
    return array


def _hold(root: nn.Module, name: str, array: Tensor) -> None:
    *path, key = name.split(".")
    for piece in path:
        if piece not in root._modules:
            root.add_module(piece, nn.Module())
        root = root._modules[piece] or root
    root._parameters[key] = array  # type: ignore[assignment]
