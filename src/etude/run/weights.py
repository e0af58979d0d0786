"""The arrays of a net and its averages in one safetensors file.

The net's arrays have the names of its `state_dict`, as in any such file. Those of an average stand beside them as
"average:<name>:<array>", which no module can call an array of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from etude.errors import StateError

_MARK = "result"
"""Under what the file says of which record it is."""


def save_weights(
    path: Path, net: nn.Module, averages: Mapping[str, Mapping[str, Tensor]], mark: str, mode: int
) -> None:
    """Write the arrays of a net and its averages; a file that is there is replaced in one instant.

    Args:
        path: of the file. net: its `state_dict` is written, arrays that are shared once.
        averages: each by name of the array. mark: what `SavedAverages` knows the file by.
        mode: the rights of the file; safetensors makes files for their owner alone.
    """
    from safetensors.torch import save_model

    held = path.with_name(f".{path.name}.part")
    if averages:
        save_model(cast("nn.Module", _Together(net, averages)), str(held), {_MARK: mark})
    else:
        save_model(net, str(held))
    held.chmod(mode)
    os.replace(held, path)


class SavedAverages(Mapping[str, dict[str, Tensor]]):
    """The averages in a file, by name; each is read when it is asked for.

    Args:
        path: of the file. names: of the arrays of each average. mark: what the file must say of itself.
    """

    def __init__(self, path: Path, names: Mapping[str, list[str]], mark: str) -> None:
        self._path, self._names, self._mark = path, dict(names), mark

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        """The arrays of one average, on the CPU.

        Raises:
            KeyError: none has that name.
            StateError: the file is not there, or was written with another result.
        """
        from safetensors import SafetensorError, safe_open

        names = self._names[name]
        try:
            with safe_open(self._path, "pt") as file:
                found = (file.metadata() or {}).get(_MARK)
                if found != self._mark:
                    raise StateError(
                        f"{self._path} was written with another result: save this one with net=True again."
                    )
                return {array: file.get_tensor(_key(name, array)) for array in names}
        except (OSError, SafetensorError) as error:
            raise StateError(f"The average {name!r} cannot be read from {self._path}: {error}.") from None

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"SavedAverages({str(self._path)!r}, {', '.join(map(repr, self._names))})"


class _Together:
    """What safetensors takes for a net: the state of a net with averages beside it."""

    def __init__(self, net: nn.Module, averages: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._net, self._averages = net, averages

    def state_dict(self) -> dict[str, Any]:
        """The net's state, and every average under its own names."""
        beside = {_key(name, array): value for name, of in self._averages.items() for array, value in of.items()}
        return {**self._net.state_dict(), **beside}


def _key(name: str, array: str) -> str:
    return f"average:{name}:{array}"
